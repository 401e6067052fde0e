// View 8: a run of the tiny model, live.

import { axis, count, d3, figure, layer, sequential } from "../chart.js";
import { short } from "../code.js";
import { button, number, select, slider } from "../controls.js";
import { debounce, el, fill } from "../dom.js";
import { COLORS, legend, legendHeight } from "../parts/legend.js";
import { picture } from "../pixels.js";

const OPTIMIZERS = [
  ["sgd", "SGD"], ["momentum", "SGD with momentum"], ["nesterov", "SGD, Nesterov's momentum"], ["rmsprop", "RMSprop"],
  ["adam", "Adam"], ["adamw", "AdamW"], ["muon", "Muon"],
];
const TALL = 300;
const EARLIER = [COLORS.green, COLORS.pink, COLORS.sky, COLORS.orange]; // runs that stay in the picture
const WIDE = 168; // of an entry of the legend
const ROW = 11;
const TOP = 24;

export const training = {
  name: "training",
  title: "Training, live",
  short: "Training",
  sentence: "A small model is trained while one watches: step after step, a batch of text, a gradient, an update. The loss falls, the gradients change, and the samples begin to look like words. Move the learning rate while it runs, or change the optimizer or the seed and start again: earlier runs stay in the picture of the loss.",
  doc: "training",
  defaults: { optimizer: "adamw", lr: 0.005, seed: 123, steps: 400 },
  render,
};

function render(root, page) {
  const { state } = page;
  let points = []; // of every step
  let losses = []; // of both splits, every few steps
  let sizes = []; // of all gradients, every few steps
  let names = [];
  let total = 0;
  let run = null; // its number at the server
  let rates = []; // of the run: {step, lr}, the first as it began
  let label = () => ""; // of the run
  let runs = []; // earlier ones: {label, points, losses}
  let running = false;
  let stopped = false;

  const last = () => Math.max(1, (total || state.steps) - 1, ...runs.map((run) => run.points.at(-1).step));
  const scale = d3.scaleLog([1e-5, 1], [0, 1000]);
  const optimizer = select({ broad: true, label: "Optimizer", value: state.optimizer, choices: OPTIMIZERS, onInput: (value) => page.set({ optimizer: value }) });
  const rate = slider({
    label: "Learning rate", value: state.lr, text: short,
    toValue: (x) => Number(scale.invert(x).toPrecision(2)), toPosition: (value) => Math.max(0, Math.min(1000, scale(value || 1e-5))),
    onInput: (value) => { page.set({ lr: value }); if (running) change(); },
  });
  const seed = number({ label: "Seed", value: state.seed, min: 0, max: Number.MAX_SAFE_INTEGER, onInput: (value) => page.set({ seed: value }) });
  const steps = number({ label: "Steps", value: state.steps, min: 1, max: 2000, onInput: (value) => page.set({ steps: value }) });
  const go = button({ label: "Start a run", kind: "primary", onClick: () => (running ? stop() : start()) });
  const samples = el("div", { class: "samples", tabindex: "0", role: "region", ariaLabel: "Samples" }, el("p", { class: "small-text" }, "The samples of the run appear here, the newest first."));
  const says = el("p", { class: "small-text", role: "status" }, "No run yet.");
  const now = el("p", { class: "small-text" }); // changes with every step, and is not read out

  const curve = figure({
    name: "training-loss", title: "Loss",
    describe: () => (points.length ? `${count(points.length)} steps; the last loss is ${points.at(-1).loss.toFixed(3)} nats a token.` : "The loss of a run."),
    height: (width) => TALL + legendHeight(width, 3 + runs.length, WIDE), draw: drawLoss,
    csv: () => [["run", "step", "loss", "learning_rate", "gradient_norm", "training_loss", "validation_loss"], ...[...runs, { label: label(), points, losses }].flatMap(rowsOf)],
    cursor: {
      columns: () => points.length,
      at: (x, y, width) => [Math.round(((x - 56) / (width - 70)) * last()), 0],
      show: (i) => {
        const one = points[i];
        layer(curve.svg, "hover").selectAll("path").data([one.step]).join("path").attr("class", "cursor").attr("d", `M${56 + ((curve.width - 70) * one.step) / last()},10V${TALL - 50}`);
        return `Step ${one.step}: loss ${one.loss.toFixed(4)}, learning rate ${short(one.lr)}, norm of the gradient ${short(one.norm)}.`;
      },
    },
  });
  const heat = figure({
    name: "training-gradients", title: "Every parameter's gradient: root mean square",
    describe: () => (sizes.length ? `${names.length} parameters at ${sizes.length} steps.` : "The sizes of gradients in a run."),
    height: () => TOP + names.length * ROW + 56, draw: drawSizes,
    csv: () => [["step", ...names], ...sizes.map(([step, values]) => [step, ...values])],
    cursor: {
      columns: () => sizes.length, rows: () => names.length,
      at: (x, y, width) => {
        const place = [Math.floor(((x - leftOf(width)) / (width - leftOf(width) - 10)) * sizes.length), Math.floor((y - TOP) / ROW)];
        return place[0] >= 0 && place[0] < sizes.length && place[1] >= 0 && place[1] < names.length ? place : null;
      },
      show: (column, row) => `Step ${sizes[column][0]}: the gradient of ${names[row]} has a root mean square of ${short(sizes[column][1][row])}.`,
    },
  });
  const leftOf = (width) => (width > 620 ? 190 : 150);

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      optimizer.element, rate.element, seed.element, steps.element, el("div", { class: "buttons" }, go.element)),
    el("div", { class: "pair" }, curve.element, el("section", { class: "figure" }, el("h3", {}, "The run"), says, now, samples)),
    heat.element);

  heat.element.hidden = true;

  async function start() {
    if (points.length) runs = [...runs, { label: label(), points, losses }].slice(-EARLIER.length);
    [points, losses, sizes] = [[], [], []];
    [running, stopped, run] = [true, false, null];
    const { optimizer: rule, lr, seed: first, steps: length } = state;
    total = length;
    rates = [{ step: 0, lr }];
    label = () => `${new Map(OPTIMIZERS).get(rule) ?? rule}, ${rates.length > 1 ? `${short(lr)} to ${short(rates.at(-1).lr)}` : short(lr)}, seed ${first}`;
    fill(go.element, "Stop");
    fill(says, `The run begins: ${label()}.`);
    fill(samples);
    page.forgive("train"); // the run before
    const result = await page.call("train", { optimizer: rule, lr, seed: first, steps: length }, { onEvent: add });
    running = false;
    change.cancel();
    fill(go.element, "Start a run");
    redraw();
    const end = result ? "has ended" : stopped ? "was stopped" : "ended early";
    fill(says, `The run ${end} after ${count(points.length)} steps${points.length ? `, with a loss of ${points.at(-1).loss.toFixed(3)}` : ""}: ${label()}.`);
  }

  const change = debounce(() => {
    if (run === null) change(); // it has yet to begin
    else page.call("train-rate", { run, lr: state.lr });
  }, 150);

  function stop() {
    stopped = true;
    page.calls.get("train")?.abort();
  }

  function add(event) {
    if (event.kind_of === "start") ({ names, total, run } = event);
    else if (event.kind_of === "losses") losses.push(event);
    else if (event.kind_of === "text") samples.prepend(el("p", { class: "small-text" }, `After step ${count(event.step)}`), el("pre", {}, event.text));
    else if (event.kind_of === "rate") {
      rates.push(event);
      fill(says, `The learning rate is ${short(event.lr)} from step ${count(event.step)} on, at most.`);
    } else {
      points.push(event);
      if (event.sizes) sizes.push([event.step, event.sizes]);
    }
    waiting ??= requestAnimationFrame(redraw);
  }
  let waiting = null;

  function redraw() {
    waiting = null;
    heat.element.hidden = !sizes.length;
    curve.redraw();
    heat.redraw();
    const one = points.at(-1);
    fill(now, one ? `Step ${count(one.step + 1)} of ${count(total)}: loss ${one.loss.toFixed(3)} nats a token, ${count(Math.round(one.tokens_per_s))} tokens a second.` : "");
  }

  /** Return the rows of a run in the CSV. */
  function rowsOf(run) {
    const measured = new Map(run.losses.map((one) => [one.step, one]));
    return run.points.map(({ step, loss, lr, norm }) => [run.label, step, loss, lr, norm ?? NaN, measured.get(step)?.train ?? NaN, measured.get(step)?.val ?? NaN]);
  }

  function drawLoss(svg, width) {
    const shown = [...runs, { points }].filter((run) => run.points.length);
    const all = shown.flatMap((run) => run.points.map((one) => one.loss)).concat(losses.flatMap((one) => [one.train, one.val]));
    const most = 2 * d3.max(shown, (run) => run.points[0].loss); // a run that diverges leaves the others visible
    const x = d3.scaleLinear([0, last()], [56, width - 14]);
    const y = d3.scaleLinear(all.length ? [d3.min(all) * 0.95, Math.min(d3.max(all) * 1.02, most)] : [0, 6], [TALL - 50, 10]).nice().clamp(true);
    axis(svg, "left", y, { x: 56, label: "loss (nats a token)", length: TALL - 40, ticks: 5 });
    axis(svg, "bottom", x, { y: TALL - 50, label: "step", length: width + 42, ticks: 6, format: "d" });
    const path = (rows, key) => (rows.length ? `M${rows.map((one) => `${x(one.step).toFixed(1)},${y(one[key]).toFixed(1)}`).join("L")}` : "");
    layer(svg, "earlier").selectAll("path").data(runs).join("path").attr("fill", "none").attr("stroke-width", 1.3).attr("stroke", (_, i) => EARLIER[i]).attr("d", (run) => path(run.points, "loss"));
    layer(svg, "steps").selectAll("path").data([path(points, "loss")]).join("path").attr("class", "line before").attr("d", (d) => d);
    for (const [key, kind] of [["train", "forward"], ["val", "backward"]]) {
      const own = layer(svg, key);
      own.selectAll("path").data([path(losses, key)]).join("path").attr("class", `line ${kind}`).attr("d", (d) => d);
      own.selectAll("circle").data(losses).join("circle").attr("class", kind).attr("r", 2.6).attr("cx", (one) => x(one.step)).attr("cy", (one) => y(one[key]));
    }
    layer(svg, "changes").selectAll("path").data(rates.slice(1)).join("path").attr("class", "rule").attr("d", ({ step }) => `M${x(step).toFixed(1)},10V${TALL - 50}`);
    layer(svg, "hover");
    legend(svg, width, TALL, [
      { text: "each step", class: "line before" }, { text: "training text", class: "line forward" }, { text: "validation text", class: "line backward" },
      ...runs.map((run, i) => ({ text: run.label, stroke: EARLIER[i] }))], WIDE);
  }

  function drawSizes(svg, width) {
    const left = leftOf(width);
    const [low, high] = d3.extent(sizes.flatMap(([, own]) => Array.from(own)).filter((v) => v > 0));
    svg.selectAll("g").attr("visibility", high ? null : "hidden");
    if (!high) return;
    const bottom = TOP + names.length * ROW;
    const level = d3.scaleLog([Math.min(Math.max(low, high * 1e-6), high / 2), high], [0, 1]).clamp(true);
    const letters = Math.floor(left / 6.5);
    layer(svg, "names").selectAll("text").data(names).join("text").attr("class", "mono tiny").attr("x", left - 6).attr("y", (_, i) => TOP + i * ROW + 9).attr("text-anchor", "end").text((name) => (name.length > letters ? `…${name.slice(1 - letters)}` : name));
    const image = (group, x, y, wide, tall, href) => layer(svg, group).selectAll("image").data([href]).join("image").attr("href", href)
      .attr("x", x).attr("y", y).attr("width", wide).attr("height", tall).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    image("image", left, TOP, width - left - 10, bottom - TOP, picture(names.length, sizes.length, (i, j) => level(sizes[j][1][i] || low), sequential));
    image("scale", left, 3, 80, 10, picture(1, 80, (_, j) => j / 79, sequential));
    layer(svg, "ends").selectAll("text").data([[left - 6, "end", level.domain()[0]], [left + 86, "start", high]]).join("text").attr("x", (d) => d[0]).attr("y", 12).attr("text-anchor", (d) => d[1]).text((d) => d[2].toExponential(1));
    const every = sizes.length > 1 ? sizes[1][0] - sizes[0][0] : 1;
    axis(svg, "bottom", d3.scaleLinear([0, sizes.at(-1)[0] + every], [left, width - 10]), { y: bottom, label: "step", length: width + left, ticks: 6, format: "d" });
  }

  return {
    update: (values) => {
      optimizer.set(values.optimizer);
      rate.set(values.lr);
      seed.set(values.seed);
      steps.set(values.steps);
      redraw();
    },
    destroy: () => { change.cancel(); cancelAnimationFrame(waiting); },
  };
}

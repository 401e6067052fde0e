// View 8: a run of the tiny model, live; optimizers on a ravine; Muon's five steps.

import { axis, count, d3, figure, layer, sequential } from "../chart.js";
import { short } from "../code.js";
import { button, number, select, slider } from "../controls.js";
import { el, fill } from "../dom.js";
import { muonSteps } from "../parts/muon.js";
import { ravineRace } from "../parts/ravine.js";
import { picture } from "../pixels.js";

const OPTIMIZERS = [
  ["sgd", "SGD"], ["momentum", "SGD with momentum"], ["nesterov", "SGD, Nesterov's momentum"], ["rmsprop", "RMSprop"],
  ["adam", "Adam"], ["adamw", "AdamW"], ["muon", "Muon"],
];
const TALL = 300;

export const training = {
  name: "training",
  title: "Training, live",
  short: "Training",
  sentence: "A small model is trained while one watches: step after step, a batch of text, a gradient, an update. The loss falls, the gradients change, and the samples begin to look like words. Another optimizer, another rate, another seed: each run is a new one.",
  doc: "training",
  defaults: { optimizer: "adamw", lr: 0.005, seed: 123, steps: 400, factor: 1, prompt: "The keeper of the lighthouse looked at the sea", matrix: "h.0.mlp.c_fc.weight" },
  render,
};

function render(root, page) {
  const { state } = page;
  let points = []; // of every step
  let losses = []; // of both splits, every few steps
  let sizes = []; // of all gradients, every few steps
  let names = [];
  let total = 0;
  let running = false;

  const scale = d3.scaleLog([1e-5, 1], [0, 1000]);
  const optimizer = select({ label: "Optimizer", value: state.optimizer, choices: OPTIMIZERS, onInput: (value) => page.set({ optimizer: value }) });
  const rate = slider({
    label: "Learning rate", value: state.lr, text: short,
    toValue: (x) => Number(scale.invert(x).toPrecision(2)), toPosition: (value) => Math.max(0, Math.min(1000, scale(value || 1e-5))),
    onInput: (value) => page.set({ lr: value }),
  });
  const seed = number({ label: "Seed", value: state.seed, min: 0, max: Number.MAX_SAFE_INTEGER, onInput: (value) => page.set({ seed: value }) });
  const steps = number({ label: "Steps", value: state.steps, min: 1, max: 2000, onInput: (value) => page.set({ steps: value }) });
  const go = button({ label: "Start a run", kind: "primary", onClick: () => (running ? stop() : start()) });
  const sample = el("pre", { tabindex: "0", ariaLabel: "Sample" }, "The samples of the run appear here.");
  const says = el("p", { class: "small-text", role: "status" }, "No run yet.");

  const curve = figure({
    name: "training-loss", title: "Loss",
    describe: () => (points.length ? `${count(points.length)} steps; the last loss is ${points.at(-1).loss.toFixed(3)} nats a token.` : "The loss of a run."),
    height: () => TALL, draw: drawLoss,
    csv: () => [["step", "loss", "learning_rate", "gradient_norm"], ...points.map((one) => [one.step, one.loss, one.lr, one.norm ?? NaN])],
    cursor: {
      columns: () => points.length,
      at: (x, y, width) => [Math.round(((x - 56) / (width - 70)) * Math.max(1, total - 1)), 0],
      show: (i) => {
        const one = points[i];
        layer(curve.svg, "hover").selectAll("path").data([one.step]).join("path").attr("class", "cursor").attr("d", `M${56 + ((curve.width - 70) * one.step) / Math.max(1, total - 1)},10V${TALL - 50}`);
        return `Step ${one.step}: loss ${one.loss.toFixed(4)}, learning rate ${short(one.lr)}, norm of the gradient ${short(one.norm)}.`;
      },
    },
  });
  const heat = figure({
    name: "training-gradients", title: "Size of every parameter's gradient",
    describe: () => (sizes.length ? `${names.length} parameters at ${sizes.length} steps.` : "The sizes of gradients in a run."),
    height: () => (names.length ? 20 + names.length * 11 + 56 : TALL), draw: drawSizes,
    csv: () => [["step", ...names], ...sizes.map(([step, values]) => [step, ...values])],
    cursor: {
      columns: () => sizes.length, rows: () => names.length,
      at: (x, y, width) => {
        const place = [Math.floor(((x - leftOf(width)) / (width - leftOf(width) - 10)) * sizes.length), Math.floor((y - 20) / 11)];
        return place[0] >= 0 && place[0] < sizes.length && place[1] >= 0 && place[1] < names.length ? place : null;
      },
      show: (column, row) => `Step ${sizes[column][0]}: the gradient of ${names[row]} has a root mean square of ${short(sizes[column][1][row])}.`,
    },
  });
  const leftOf = (width) => (width > 620 ? 190 : 150);
  const race = ravineRace(page);
  const muon = muonSteps(page);

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      optimizer.element, rate.element, seed.element, steps.element, el("div", { class: "buttons" }, go.element)),
    el("div", { class: "pair" }, curve.element, el("section", { class: "figure" }, el("h3", {}, "The run"), says, sample)),
    heat.element, race.element, muon.element);

  async function start() {
    points = [];
    losses = [];
    sizes = [];
    running = true;
    fill(go.element, "Stop");
    fill(says, "The run begins.");
    const { optimizer: rule, lr, seed: first, steps: length } = state;
    const result = await page.call("train", { optimizer: rule, lr, seed: first, steps: length }, { onEvent: add });
    running = false;
    fill(go.element, "Start a run");
    redraw();
    if (points.length) fill(says, `${result ? "The run has ended" : "The run was stopped"} after ${count(points.length)} steps, with a loss of ${points.at(-1).loss.toFixed(3)}.`);
  }

  function stop() {
    page.calls.get("train")?.abort();
  }

  function add(event) {
    if (event.kind_of === "start") ({ names, total } = event);
    else if (event.kind_of === "losses") losses.push(event);
    else if (event.kind_of === "text") fill(sample, `Step ${event.step}:\n${event.text}`);
    else {
      points.push(event);
      if (event.sizes) sizes.push([event.step, event.sizes]);
    }
    waiting ??= requestAnimationFrame(redraw);
  }
  let waiting = null;

  function redraw() {
    waiting = null;
    curve.redraw();
    heat.redraw();
    const one = points.at(-1);
    if (one && running) fill(says, `Step ${count(one.step + 1)} of ${count(total)}: loss ${one.loss.toFixed(3)} nats a token, ${count(Math.round(one.tokens_per_s))} tokens a second.`);
  }

  function drawLoss(svg, width, tall) {
    const all = [...points.map((one) => one.loss), ...losses.flatMap((one) => [one.train, one.val])].filter(Number.isFinite);
    const x = d3.scaleLinear([0, Math.max(1, (total || state.steps) - 1)], [56, width - 14]);
    const y = d3.scaleLinear(all.length ? [Math.min(...all) * 0.95, Math.max(...all) * 1.02] : [0, 6], [tall - 50, 10]).nice();
    axis(svg, "left", y, { x: 56, label: "loss (nats a token)", length: tall - 40, ticks: 5 });
    axis(svg, "bottom", x, { y: tall - 50, label: "step", length: width + 42, ticks: 6, format: "d" });
    const path = (rows, key) => (rows.length ? `M${rows.map((one) => `${x(one.step).toFixed(1)},${y(one[key]).toFixed(1)}`).join("L")}` : "");
    layer(svg, "steps").selectAll("path").data([path(points, "loss")]).join("path").attr("class", "line before").attr("d", (d) => d);
    layer(svg, "train").selectAll("path").data([path(losses, "train")]).join("path").attr("class", "line forward").attr("d", (d) => d);
    layer(svg, "val").selectAll("path").data([path(losses, "val")]).join("path").attr("class", "line backward").attr("d", (d) => d);
    layer(svg, "hover");
    layer(svg, "legend").selectAll("text").data([["muted", "each step"], ["forward", "training text"], ["backward", "validation text"]]).join("text").attr("class", (d) => d[0]).attr("x", width - 16).attr("y", (_, i) => 22 + 16 * i).attr("text-anchor", "end").text((d) => d[1]);
  }

  function drawSizes(svg, width) {
    const left = leftOf(width);
    const values = sizes.flatMap(([, own]) => Array.from(own)).filter((v) => v > 0);
    if (!values.length) return;
    const [low, high] = d3.extent(values);
    const level = d3.scaleLog([Math.max(low, high * 1e-6), high === low ? high * 2 : high], [0.03, 1]).clamp(true);
    const letters = Math.floor(left / 6.5);
    layer(svg, "names").selectAll("text").data(names).join("text").attr("class", "mono tiny").attr("x", left - 6).attr("y", (_, i) => 20 + i * 11 + 9).attr("text-anchor", "end").text((name) => (name.length > letters ? `…${name.slice(1 - letters)}` : name));
    layer(svg, "image").selectAll("image").data([picture(names.length, sizes.length, (i, j) => (sizes[j][1][i] > 0 ? level(sizes[j][1][i]) : 0), sequential)]).join("image").attr("href", (d) => d)
      .attr("x", left).attr("y", 20).attr("width", width - left - 10).attr("height", names.length * 11).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    axis(svg, "bottom", d3.scaleLinear([sizes[0][0], sizes.at(-1)[0] || 1], [left, width - 10]), { y: 20 + names.length * 11, label: "step", length: width + left, ticks: 6, format: "d" });
    layer(svg, "scale").selectAll("text").data([`root mean square, ${short(level.domain()[0])} (dark) to ${short(high)} (bright)`]).join("text").attr("x", width > 620 ? left : 4).attr("y", 14).text((d) => d);
  }

  return {
    update: (now) => {
      optimizer.set(now.optimizer);
      rate.set(now.lr);
      seed.set(now.seed);
      steps.set(now.steps);
      redraw();
      race.load();
      muon.load();
    },
    destroy: () => { race.destroy(); cancelAnimationFrame(waiting); },
  };
}

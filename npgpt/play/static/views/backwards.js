// View 5: the gradient flows back from the loss, step by step; what each step writes.

import { clip, count, d3, figure, layer, sequential } from "../chart.js";
import { codeBlock, formulaBlock, short } from "../code.js";
import { button, slider, textarea } from "../controls.js";
import { debounce, el, fill } from "../dom.js";
import { picture } from "../pixels.js";
import { gradientNumbers } from "../parts/numbers.js";
import { outerSum } from "../parts/outer.js";
import { parameterList } from "../parts/parameters.js";

const LEFT = 118;
const TOP = 92; // of the steps, below the losses
const PACE = [1200, 45]; // milliseconds a step, at both ends of the slider

export const backwards = {
  name: "backwards",
  title: "Backwards",
  sentence: "The loss asks every number of the model: if you were a little larger, what would become of me? The answers are computed from the top to the bottom. Each step turns the gradient of its output into that of its input, and writes the gradients of its parameters.",
  doc: "backwards",
  defaults: { prompt: "The keeper of the lighthouse looked at the sea", step: -1, matrix: "h.0.mlp.c_fc.weight", token: -1, pace: 50 },
  render,
};

function render(root, page) {
  const { state, vocabulary } = page;
  let found = null;
  let shown = 0; // steps made
  let timer = null;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const S = () => found?.steps.length ?? 0;
  const T = () => found?.tokens.length ?? 0;
  const label = (t) => vocabulary.label(found.tokens[t]);
  const norm = (s, t) => found.dx[s * T() + t];
  const source = (s) => found.sources[found.steps[s].source];

  const prompt = textarea({ label: "Text: each token predicts the next one", value: state.prompt, onInput: debounce((value) => { page.set({ prompt: value, step: -1, token: -1 }); load(); }, 400) });
  const pace = slider({
    label: "Pace", value: state.pace, text: (value) => `${(1000 / wait(value)).toFixed(1)} steps a second`,
    toValue: (x) => Math.round(x / 10), toPosition: (value) => 10 * value, onInput: (value) => page.set({ pace: value }),
  });
  const at = slider({
    label: "Step", value: 0, text: (value) => (found ? `${Math.min(S(), value + 1)} of ${S()}` : "–"),
    toValue: (x) => Math.round((x / 1000) * Math.max(0, S() - 1)), toPosition: (value) => (1000 * value) / Math.max(1, S() - 1),
    onInput: (value) => { stop(); go(value); },
  });
  const play = button({ label: "Pause", kind: "primary", onClick: () => (timer ? stop() : start()) });
  const first = button({ label: "To the loss", onClick: () => { stop(); go(0); } });
  const back = button({ label: "One step back", hint: "In the picture: arrow up", onClick: () => { stop(); go(shown - 1); } });
  const next = button({ label: "One step", hint: "In the picture: arrow down", onClick: () => { stop(); go(shown + 1); } });
  const last = button({ label: "To the embeddings", onClick: () => { stop(); go(S() - 1); } });
  const says = el("div", { class: "step-card" });

  const rowOf = () => Math.max(8, Math.min(16, 620 / Math.max(1, S())));
  const band = (width) => (width - LEFT - 12) / Math.max(1, T());
  const y = (s) => TOP + s * rowOf();
  const flow = figure({
    name: "backward", title: "The gradient flows back: from the loss to the embeddings",
    describe: () => (found ? `${S()} steps in ${count(T())} tokens. Step ${shown + 1}: ${describe(shown)}` : "The steps of the backward pass."),
    height: () => (found ? TOP + S() * rowOf() + 92 : 320),
    draw,
    csv: () => {
      const rows = [["step", "op", "name", "position", "token", "arrives", "leaves"]];
      for (let s = 0; s < S(); s++) for (let t = 0; t < T(); t++) rows.push([s + 1, found.steps[s].op, found.steps[s].name, t + found.unread, label(t), found.dout[s * T() + t], norm(s, t)]);
      return rows;
    },
    cursor: {
      columns: T, rows: S,
      at: (px, py, width) => {
        const place = [Math.floor((px - LEFT) / band(width)), Math.floor((py - TOP) / rowOf())];
        return place[0] >= 0 && place[0] < T() && place[1] >= 0 && place[1] < S() ? place : null;
      },
      show: (t, s) => {
        layer(flow.svg, "hover").selectAll("rect").data([0]).join("rect").attr("class", "frame")
          .attr("x", LEFT + t * band(flow.width)).attr("y", y(s)).attr("width", band(flow.width)).attr("height", rowOf());
        if (document.activeElement === flow.svg.node() && s !== shown && !timer) go(s);
        return `Step ${s + 1}, ${describe(s)} At position ${t + found.unread}, “${label(t)}”: a gradient of length ${short(found.dout[s * T() + t])} arrives, and one of ${short(norm(s, t))} leaves. Enter or a click stops there.`;
      },
      choose: (t, s) => { stop(); go(s); },
    },
  });
  const parameters = parameterList(page, () => found, () => shown);
  const numbers = gradientNumbers(page, () => found);
  const outer = outerSum(page, () => found);

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      prompt.element, at.element, pace.element,
      el("div", { class: "buttons" }, play.element, back.element, next.element, first.element, last.element)),
    el("div", { class: "pair steps" }, flow.element, el("section", { class: "figure" }, el("h3", {}, "This step"), says)),
    numbers.element, parameters.element, outer.element);

  function wait(value) {
    return PACE[0] * (PACE[1] / PACE[0]) ** (value / 100);
  }

  async function load() {
    stop();
    const result = await page.call("backward", { prompt: state.prompt });
    if (!result) return;
    found = result;
    page.note(found.unread ? `The text is long: its last ${count(T() + 1)} tokens are read.` : "");
    go(state.step >= 0 ? state.step : still ? S() - 1 : 0, false);
    if (state.step < 0 && !still) start();
    outer.load();
  }

  function start() {
    if (!found) return;
    if (shown >= S() - 1) go(0, false);
    fill(play.element, "Pause");
    const tick = () => {
      if (shown >= S() - 1) return stop();
      go(shown + 1, false);
      timer = setTimeout(tick, wait(state.pace));
    };
    timer = setTimeout(tick, wait(state.pace));
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    fill(play.element, "Play");
  }

  function go(s, store = true) {
    if (!found) return;
    shown = Math.max(0, Math.min(S() - 1, s));
    if (store) page.set({ step: shown });
    at.set(shown);
    flow.redraw();
    parameters.update();
    numbers.load(shown);
    tell();
  }

  function describe(s) {
    const { op, name, layer: block } = found.steps[s];
    const where = block === null ? "" : `block ${block}, `;
    if (op === "residual") return `${where}the two paths of the residual stream meet: ${name}.`;
    if (op === "linear_cross_entropy") return "output head and loss.";
    return `${where}${op} of ${name}.`;
  }

  function tell() {
    const one = found.steps[shown];
    const { formula, code } = source(shown);
    const sizes = new Map(found.sizes.map((size) => [size.name, size]));
    const same = one.ran === code.at(-1).file;
    fill(says,
      el("p", { class: "strong" }, `Step ${shown + 1} of ${S()}: ${describe(shown)}`),
      el("p", { class: "small-text" }, one.op === "residual" ? "A sum in forward sends the gradient both ways. Where they meet again, the two add:" : "Forward computes:"),
      formulaBlock(formula),
      el("p", { class: "small-text" }, same ? "Backward, the lines that ran:" : `Backward. ${one.ran} ran, which is compiled; these lines say the same:`),
      code.map(codeBlock),
      one.parameters.length
        ? el("p", { class: "small-text" }, "Gradients written: ", one.parameters.flatMap((name, i) => [i ? ", " : "", el("code", {}, name), ` (${short(sizes.get(name).gradient)})`]))
        : el("p", { class: "small-text" }, "This op has no parameters."));
    const marked = says.querySelector(".marked");
    if (marked) marked.parentElement.scrollTop = marked.offsetTop - marked.parentElement.offsetTop - 40;
  }

  function draw(svg, width) {
    if (!found) return;
    const n = T();
    const cell = band(width);
    const row = rowOf();
    const values = Array.from(found.dx).filter((v) => v > 0);
    const [low, high] = d3.extent(values);
    const level = d3.scaleLog([Math.max(low, high * 1e-6), high], [0.06, 1]).clamp(true);

    const most = d3.max(found.losses);
    const tall = d3.scaleLinear([0, most || 1], [0, TOP - 44]);
    layer(svg, "losses").selectAll("rect").data(d3.range(n)).join("rect").attr("class", "forward")
      .attr("x", (t) => LEFT + t * cell + cell * 0.1).attr("width", cell * 0.8).attr("y", (t) => TOP - 16 - tall(found.losses[t])).attr("height", (t) => tall(found.losses[t]));
    layer(svg, "loss-name").selectAll("text").data([["loss of", 0], ["each token", 14]]).join("text").attr("x", LEFT - 10).attr("y", (d) => TOP - 46 + d[1]).attr("text-anchor", "end").text((d) => d[0]);
    layer(svg, "loss").selectAll("text").data([`mean loss ${found.loss.toFixed(4)} nats a token, at most ${most.toFixed(2)}`]).join("text").attr("class", "strong").attr("x", width < 480 ? 0 : LEFT).attr("y", 14).text((d) => d);

    layer(svg, "empty").selectAll("rect").data([0]).join("rect").attr("class", "hover").attr("x", LEFT).attr("y", TOP).attr("width", n * cell).attr("height", S() * row);
    const image = picture(S(), n, (s, t) => (s > shown ? null : norm(s, t) > 0 ? level(norm(s, t)) : 0), sequential);
    layer(svg, "rows").selectAll("image").data([image]).join("image").attr("href", (d) => d)
      .attr("x", LEFT).attr("y", TOP).attr("width", n * cell).attr("height", S() * row).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    layer(svg, "hover");
    layer(svg, "now").selectAll("rect").data([shown]).join("rect").attr("class", "frame").attr("x", LEFT - 2).attr("y", (s) => y(s) - 1).attr("width", n * cell + 3).attr("height", row + 1);

    const names = d3.range(S()).filter((s) => row >= 11 || s === shown);
    layer(svg, "names").selectAll("text").data(names).join("text").attr("class", (s) => `mono tiny${s === shown ? " strong" : ""}`)
      .attr("x", LEFT - 6).attr("y", (s) => y(s) + row - (row > 11 ? 4 : 1)).attr("text-anchor", "end").text((s) => briefly(found.steps[s]));
    const blocks = d3.groups(d3.range(S()).filter((s) => found.steps[s].layer !== null), (s) => found.steps[s].layer);
    layer(svg, "blocks").selectAll("path").data(blocks).join("path").attr("class", "rule")
      .attr("d", ([, own]) => `M22,${y(own[0]) + 2}h-5V${y(own.at(-1)) + row - 2}h5`);
    layer(svg, "block-names").selectAll("text").data(blocks).join("text").attr("text-anchor", "middle")
      .attr("transform", ([, own]) => `translate(12,${(y(own[0]) + y(own.at(-1)) + row) / 2}) rotate(-90)`).text(([block]) => (row * 10 > 60 ? `block ${block}` : block));

    const below = TOP + S() * row;
    const fits = cell >= (d3.range(n).every((t) => label(t).length === 1) ? 8 : 13);
    const step = fits ? 1 : Math.max(2, Math.ceil(13 / cell));
    const letters = step === 1 ? Math.max(1, ...d3.range(n).map((t) => Math.min(7, label(t).length))) : 4;
    layer(svg, "tokens").selectAll("text").data(d3.range(0, n, step)).join("text").attr("class", "mono small").attr("text-anchor", letters > 1 ? "end" : "middle")
      .attr("transform", (t) => `translate(${LEFT + (t + 0.5) * cell + (letters > 1 ? 4 : 0)},${below + (letters > 1 ? 6 : 14)})${letters > 1 ? " rotate(-90)" : ""}`)
      .text((t) => (step === 1 ? clip(label(t), 7) : String(t + found.unread)));
    layer(svg, "ramp").selectAll("rect").data(d3.range(50)).join("rect").attr("x", (i) => LEFT + 3 * i).attr("y", below + 62).attr("width", 3.5).attr("height", 9).attr("fill", (i) => sequential(0.06 + (0.94 * i) / 49));
    layer(svg, "ends").selectAll("text").data([[0, short(level.domain()[0]), "start"], [150, `${short(high)}${width < 480 ? "" : ": length of the gradient that leaves"}`, "start"]]).join("text")
      .attr("x", (d) => LEFT + d[0] - (d[0] ? 18 : 0)).attr("y", below + 86).attr("text-anchor", (d) => d[2]).text((d) => d[1]);
    svg.style("cursor", "pointer");
  }

  function briefly({ op, name }) {
    if (op === "linear_cross_entropy") return "head, loss";
    if (op === "residual") return "+";
    if (op === "attention") return "attention";
    return name.replace(/^h\.\d+\./, "").replace("attn.", "").replace("mlp.c_proj", "mlp c_proj").replace("mlp.", "");
  }

  load();
  return {
    update: (now) => {
      prompt.set(now.prompt);
      pace.set(now.pace);
      load();
    },
    destroy: () => { stop(); numbers.destroy(); outer.destroy(); },
  };
}

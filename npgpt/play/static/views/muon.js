// View 10: Muon's five steps towards a matrix whose singular values are all near 1.

import { axis, count, d3, figure, layer } from "../chart.js";
import { short } from "../code.js";
import { segmented, select, textarea } from "../controls.js";
import { debounce, el, fill } from "../dom.js";

const NEAR = [0.7, 1.2]; // where five steps lead
const ZERO = 1e-6; // of the largest: float32's rounding
const MOST = 200; // lines that are drawn

export const muonSteps = {
  name: "muon",
  title: "Muon's five steps",
  short: "Muon",
  sentence: "A gradient has a few large singular values and many small ones: a step along it moves the matrix in a few directions only. Muon multiplies the matrix with itself, five times, until nearly all of them are near 1. Each line is a singular value.",
  doc: "muon",
  defaults: { prompt: "The keeper of the lighthouse looked at the sea", matrix: "h.0.mlp.c_fc.weight", scale: "linear" },
  render,
};

function render(root, page) {
  const { state } = page;
  let found = null; // (6, r)
  let asked = null; // the state it belongs to
  const r = () => found.shape[1];
  const after = (s) => Array.from(found.slice(s * r(), (s + 1) * r()));
  const rank = () => after(0).filter((value) => value > ZERO * found[0]).length;
  const kept = (s) => after(s).slice(0, rank()); // the others are 0, and stay so

  const prompt = textarea({ label: "Text: the gradient of its loss is taken", value: state.prompt, onInput: debounce((value) => { page.set({ prompt: value }); load(); }, 400) });
  const matrix = select({ broad: true, label: "The gradient of this matrix", value: state.matrix, choices: [...new Set([muonSteps.defaults.matrix, state.matrix])].map((name) => [name, name]), onInput: (value) => { page.set({ matrix: value }); load(); } });
  const scale = segmented({ label: "Axis", value: state.scale, choices: [["linear", "linear"], ["log", "logarithmic"]], onInput: (value) => { page.set({ scale: value }); lines.redraw(); } });
  const says = el("p", { class: "small-text", role: "status" });
  const lines = figure({
    name: "muon", title: "Singular values of a gradient after each step",
    describe: () => (found ? d3.range(6).map(tell).join(" ") : "Singular values."),
    height: () => 380, draw,
    csv: () => [["value", ...d3.range(6).map((s) => `after_${s}`)], ...d3.range(r()).map((i) => [i, ...d3.range(6).map((s) => found[s * r() + i])])],
    cursor: {
      columns: () => (found ? 6 : 0),
      at: (x, y, width) => [Math.round(((x - 56) / (width - 76)) * 5), 0],
      show: (s) => {
        layer(lines.svg, "hover").selectAll("path").data([s]).join("path").attr("class", "cursor").attr("d", `M${56 + ((lines.width - 76) * s) / 5},10V330`);
        return tell(s);
      },
    },
  });
  root.append(el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, prompt.element, matrix.element, scale.element), lines.element, says);

  function tell(s) {
    const own = kept(s);
    const near = own.filter((value) => value >= NEAR[0] && value <= NEAR[1]).length;
    return `${s ? `After ${s} ${s > 1 ? "steps" : "step"}` : "Before"}: from ${short(d3.min(own))} to ${short(d3.max(own))}, median ${short(d3.median(own))}; ${count(near)} of ${count(own.length)} are from ${NEAR[0]} to ${NEAR[1]}.`;
  }

  async function load() {
    const now = { prompt: state.prompt, matrix: state.matrix };
    const result = await page.call("muon", { prompt: now.prompt, parameter: now.matrix });
    if (!result) return;
    found = result.singular;
    asked = now;
    fill(matrix.input, result.matrices.map((name) => el("option", { value: name }, name)));
    matrix.set(state.matrix);
    page.note(result.unread ? `The text is long: its last ${count(result.tokens)} tokens are read.` : "");
    const zeros = r() - rank();
    fill(says, `The gradient has ${count(r())} singular values${zeros ? `. ${count(zeros)} of them are 0, as its rank is at most the number of tokens that are predicted, and stay 0` : ""}. Before the steps, it is divided by its Frobenius norm.`);
    lines.redraw();
  }

  function draw(svg, width, tall) {
    if (!found) return;
    const log = state.scale === "log";
    const x = d3.scaleLinear([0, 5], [56, width - 20]);
    const y = log ? d3.scaleLog([d3.min(kept(0)) / 1.5, 2], [tall - 50, 10]) : d3.scaleLinear([0, Math.max(1.25, d3.max(found))], [tall - 50, 10]);
    layer(svg, "near").selectAll("rect").data([0]).join("rect").attr("class", "soft").attr("fill-opacity", 0.55).attr("x", 56).attr("width", width - 76).attr("y", y(NEAR[1])).attr("height", y(NEAR[0]) - y(NEAR[1]));
    axis(svg, "left", y, { x: 56, label: "singular value", length: tall - 40, ...(log ? { values: d3.range(-8, 1).map((k) => 10 ** k).filter((v) => v >= y.domain()[0]), format: short } : { ticks: 6 }) });
    axis(svg, "bottom", x, { y: tall - 50, label: "steps", length: width + 36, ticks: 5, format: "d" });
    layer(svg, "one").selectAll("path").data([0]).join("path").attr("class", "line backward dashed").attr("d", `M56,${y(1)}H${width - 20}`);
    const every = Math.max(1, Math.ceil(rank() / MOST));
    layer(svg, "lines").selectAll("path").data(d3.range(0, rank(), every)).join("path").attr("class", "line forward").attr("stroke-width", 1).attr("stroke-opacity", 0.5)
      .attr("d", (i) => `M${d3.range(6).map((s) => `${x(s).toFixed(1)},${y(found[s * r() + i]).toFixed(1)}`).join("L")}`);
    layer(svg, "hover");
  }

  load();
  return (now) => {
    prompt.set(now.prompt);
    matrix.set(now.matrix);
    scale.set(now.scale);
    if (asked?.prompt === now.prompt && asked.matrix === now.matrix) lines.redraw();
    else load();
  };
}

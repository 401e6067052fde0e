// Muon's five steps towards a matrix whose singular values are all near 1. A part of view 8.

import { axis, d3, figure, layer, sequential } from "../chart.js";
import { short } from "../code.js";
import { select } from "../controls.js";
import { el, fill } from "../dom.js";

/** Return {element, load}. */
export function muonSteps(page) {
  const { state } = page;
  let found = null; // (6, r)
  let names = [];
  const r = () => found.shape[1];
  const matrix = select({ label: "The gradient of this matrix, on the text of view 5", value: state.matrix, choices: [[state.matrix, state.matrix]], onInput: (value) => { page.set({ matrix: value }); load(); } });
  const lines = figure({
    name: "muon", title: "Muon's five steps: the singular values of a gradient",
    describe: () => (found ? `${r()} singular values, from ${short(d3.min(found.slice(0, r())))} to ${short(d3.max(found.slice(0, r())))} before, and from ${short(d3.min(found.slice(-r())))} to ${short(d3.max(found.slice(-r())))} after five steps.` : "Singular values."),
    height: () => 330, draw,
    csv: () => [["value", ...d3.range(6).map((s) => `after_${s}`)], ...d3.range(r()).map((i) => [i, ...d3.range(6).map((s) => found[s * r() + i])])],
    cursor: {
      columns: () => 6,
      at: (x, y, width) => [Math.round(((x - 56) / (width - 76)) * 5), 0],
      show: (s) => {
        const own = found.slice(s * r(), (s + 1) * r());
        return `After ${s} steps: from ${short(d3.min(own))} to ${short(d3.max(own))}, median ${short(d3.median(own))}.`;
      },
    },
  });

  async function load() {
    if (!names.length) {
      const result = await page.call("backward", { prompt: state.prompt });
      if (!result) return;
      names = result.matrices;
      if (!names.includes(state.matrix)) page.set({ matrix: names[0] });
      fill(matrix.input, names.map((name) => el("option", { value: name }, name)));
    }
    matrix.set(state.matrix);
    const result = await page.call("muon", { prompt: state.prompt, parameter: state.matrix });
    if (!result) return;
    found = result.singular;
    lines.redraw();
  }

  function draw(svg, width, tall) {
    if (!found) return;
    const x = d3.scaleLinear([0, 5], [56, width - 20]);
    const y = d3.scaleLinear([0, Math.max(1.25, d3.max(found))], [tall - 50, 10]);
    axis(svg, "left", y, { x: 56, label: "singular value", length: tall - 40, ticks: 6 });
    axis(svg, "bottom", x, { y: tall - 50, label: "steps", length: width + 36, ticks: 5, format: "d" });
    layer(svg, "one").selectAll("path").data([0]).join("path").attr("class", "line backward dashed").attr("d", `M56,${y(1)}H${width - 20}`);
    const every = Math.max(1, Math.ceil(r() / 160));
    layer(svg, "lines").selectAll("path").data(d3.range(0, r(), every)).join("path").attr("fill", "none").attr("stroke-width", 0.9).attr("stroke", (i) => sequential(0.1 + (0.9 * i) / r()))
      .attr("d", (i) => `M${d3.range(6).map((s) => `${x(s).toFixed(1)},${y(found[s * r() + i]).toFixed(1)}`).join("L")}`);
  }

  load();
  return { element: el("div", {}, el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, matrix.element), lines.element), load };
}

// View 7: one number of a parameter is moved, the slope of the loss measured, and set beside the gradient.

import { axis, count, d3, diverging, figure, layer } from "../chart.js";
import { short } from "../code.js";
import { number, select, textarea } from "../controls.js";
import { debounce, el, fill } from "../dom.js";

export const nudge = {
  name: "nudge",
  title: "Don't believe it? Nudge it",
  short: "Nudge it",
  sentence: "A gradient is a claim: move this number a little, and the loss changes by so much. Choose any number. It is moved a little up and down, the loss is computed each time, and the slope set beside the gradient that backward found.",
  doc: "nudge",
  defaults: { prompt: "The keeper of the lighthouse looked at the sea", parameter: "h.0.mlp.c_fc.weight", index: "0,0" },
  render,
};

/** Return a number with three digits. */
function brief(x) {
  if (x === 0) return "0";
  return Math.abs(x) >= 1e-2 && Math.abs(x) < 1e4 ? String(Number(x.toPrecision(3))) : x.toExponential(1);
}

/** Return the name of the number that was measured. */
const numberOf = ({ name, where }) => `${name}[${where.join(", ")}]`;

function render(root, page) {
  const { state } = page;
  let part = null; // numbers around the chosen one: values and gradient (R, C), start, shape
  let found = null;
  let names = []; // of the parameters, and their shapes

  const index = () => state.index.split(",").map(Number);
  const place = () => (index().length > 1 ? index() : [0, index()[0]]); // in the matrix; a vector is one row

  const prompt = textarea({ label: "Text: each token predicts the next one", value: state.prompt, onInput: debounce((value) => { page.set({ prompt: value }); load(); }, 400) });
  const parameter = select({
    broad: true, label: "Parameter", value: state.parameter, choices: [[state.parameter, state.parameter]],
    onInput: (value) => { page.set({ parameter: value, index: names.find((one) => one.name === value).largest.join(",") }); load(); },
  });
  const row = number({ label: "Row", value: place()[0], min: 0, onInput: debounce((value) => move(value, place()[1]), 250) });
  const column = number({ label: "Column", value: place()[1], min: 0, onInput: debounce((value) => move(place()[0], value), 250) });

  let cells = []; // buttons of the numbers
  const legend = el("p", { class: "small-text" });
  const verdict = el("div", { class: "facts", role: "status" });
  const curve = figure({
    name: "nudge", title: "The loss while the number moves",
    describe: () => (found ? `Loss at ${found.offsets.length} values of ${numberOf(found)}; measured slope ${short(found.slope)}, gradient ${short(found.gradient)}.` : "The loss while the number moves."),
    height: () => 330, draw,
    csv: () => [["value", "loss", "tangent"], ...Array.from(found.offsets, (d, i) => [found.value + d, found.losses[i], found.loss + d * found.gradient])],
    cursor: {
      columns: () => found?.offsets.length ?? 0,
      at: (x, y, width) => [Math.round(((x - 76) / (width - 96)) * (found.offsets.length - 1)), 0],
      show: (i) => {
        const { x } = scales(curve.width, 330);
        layer(curve.svg, "hover").selectAll("path").data([i]).join("path").attr("class", "cursor").attr("d", `M${x(found.value + found.offsets[i])},10V280`);
        return `At ${(found.value + found.offsets[i]).toPrecision(6)} the loss is ${found.losses[i].toPrecision(10)}; the gradient says ${(found.loss + found.offsets[i] * found.gradient).toPrecision(10)}.`;
      },
    },
  });

  async function load() {
    if (!names.length) {
      const result = await page.call("backward", { prompt: state.prompt });
      if (!result) return;
      names = result.sizes;
      fill(parameter.input, names.map(({ name }) => el("option", { value: name }, name)));
    }
    if (!names.some((one) => one.name === state.parameter)) page.set({ parameter: names[0].name, index: names[0].largest.join(",") });
    parameter.set(state.parameter);
    const { shape } = names.find((one) => one.name === state.parameter);
    const fits = index().length === shape.length && index().every((i, axis) => Number.isInteger(i) && i >= 0 && i < shape[axis]);
    if (!fits) page.set({ index: shape.map(() => 0).join(",") });
    row.input.max = shape.length > 1 ? shape[0] - 1 : 0;
    column.input.max = shape.at(-1) - 1;
    row.set(place()[0]);
    column.set(place()[1]);
    await show();
    await measure();
  }

  async function show(focus = false) {
    const [r, c] = place();
    const result = await page.call("parameter", { prompt: state.prompt, parameter: state.parameter, row: r, column: c });
    if (!result) return;
    part = result;
    page.note(part.unread ? `The text is long: its last ${count(part.read)} tokens are read.` : "");
    drawTable(focus);
  }

  async function measure() {
    const result = await page.call("nudge", { prompt: state.prompt, parameter: state.parameter, index: index() });
    if (!result) return;
    found = result;
    curve.redraw();
    tell();
  }

  const later = debounce(measure, 150); // while a key is held, cells are passed and not measured

  /** Choose a number. One that is in the table is marked at once. */
  async function move(r, c, focus = false) {
    if (!part) return;
    const { shape } = part;
    const [R, C] = [shape.length > 1 ? shape[0] : 1, shape.at(-1)];
    const next = [Math.max(0, Math.min(R - 1, r)), Math.max(0, Math.min(C - 1, c))];
    page.set({ index: (shape.length > 1 ? next : next.slice(1)).join(",") });
    row.set(next[0]);
    column.set(next[1]);
    if (cellAt(...next)) mark(focus);
    else await show(focus);
    later();
  }

  /** Return the cell of a number, undefined if it is outside of the table. */
  function cellAt(r, c) {
    const [R, C] = part.values.shape;
    const [i, j] = [r - part.start[0], c - part.start[1]];
    return i >= 0 && i < R && j >= 0 && j < C ? cells[i * C + j] : undefined;
  }

  /** Mark the chosen number. */
  function mark(focus) {
    const chosen = cellAt(...place());
    for (const node of cells) {
      node.tabIndex = node === chosen ? 0 : -1;
      node.setAttribute("aria-pressed", String(node === chosen));
    }
    if (focus) chosen?.focus();
  }

  const KEYS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const grid = el("div", {
    class: "number-grid", role: "group",
    onkeydown: (event) => {
      if (!(event.key in KEYS)) return;
      event.preventDefault();
      const [r, c] = place(); // now: an answer may be on its way
      const [dr, dc] = KEYS[event.key];
      if (part.shape.length > 1) move(r + dr, c + dc, true);
      else move(0, c + dc + 8 * dr, true); // it is wrapped into rows
    },
  });

  function drawTable(focus) {
    const [R, C] = part.values.shape;
    const wrap = R === 1 ? 8 : C; // a vector is wrapped into rows
    const [r0, c0] = part.start;
    const reach = d3.max(part.gradient, Math.abs) || 1;
    const cell = (k) => {
      const [i, j] = [r0 + Math.floor(k / C), c0 + (k % C)];
      const node = el("button", {
        type: "button", class: "number",
        title: `${state.parameter}[${part.shape.length > 1 ? `${i}, ${j}` : j}], and its gradient`,
        onclick: () => move(i, j, true),
      }, el("span", {}, brief(part.values[k])), el("small", {}, brief(part.gradient[k])));
      node.style.background = diverging(0.5 + (0.27 * part.gradient[k]) / reach); // light: the ink is dark
      return node;
    };
    const held = focus || grid.contains(document.activeElement);
    cells = d3.range(R * C).map(cell);
    grid.setAttribute("aria-label", `Numbers of ${state.parameter}; arrow keys move`);
    fill(grid, d3.range(0, R * C, wrap).map((k) => el("div", { class: "number-row" }, cells.slice(k, k + wrap))));
    mark(held);
    const what = part.shape.length > 1
      ? `Rows ${r0} to ${r0 + R - 1} of ${count(part.shape[0])}, columns ${c0} to ${c0 + C - 1} of ${count(part.shape[1])}.`
      : `Numbers ${c0} to ${c0 + C - 1} of ${count(part.shape[0])}.`;
    fill(legend, `${what} Large: the number. Small, and the colour: its gradient, orange below 0 and violet above.`);
  }

  function tell() {
    const { value, gradient, slope, error, agrees, h, loss } = found;
    const digits = (x) => (x === 0 ? "0" : x.toExponential(9));
    const fact = (name, text, kind) => el("div", { class: kind }, el("dt", {}, name), el("dd", {}, text));
    const off = Math.abs(slope - gradient) / Math.abs(gradient);
    fill(verdict,
      el("dl", {},
        fact("gradient, computed by backward", digits(gradient), "backward"),
        fact("slope, measured", digits(slope), "forward"),
        fact("relative difference", gradient === 0 || Math.abs(gradient) < error ? "–" : off.toExponential(1)),
        fact("value", value.toPrecision(6)), fact("loss", loss.toFixed(8)), fact("smallest nudge", short(h))),
      el("p", { class: agrees ? "verdict good" : "verdict bad" },
        agrees && Math.abs(gradient) <= error ? `Both are 0, but for rounding of ${error.toExponential(1)}.`
          : agrees ? `They agree. The measurement itself is uncertain by ${error.toExponential(1)}.`
            : `They differ by more than the measurement's uncertainty of ${error.toExponential(1)}.`),
      el("p", { class: "small-text" }, `Of ${numberOf(found)}. Both in float64, without dropout.`));
  }

  function scales(width, tall) {
    const tangent = Array.from(found.offsets, (d) => found.loss + d * found.gradient);
    const [low, high] = d3.extent([...found.losses, ...tangent]);
    const spare = 0.06 * (high - low) || 1e-12;
    return {
      x: d3.scaleLinear([found.value + found.offsets[0], found.value + found.offsets.at(-1)], [76, width - 20]),
      y: d3.scaleLinear([low - spare, high + spare], [tall - 50, 10]),
      tangent,
    };
  }

  function draw(svg, width, tall) {
    if (!found) return;
    const { x, y, tangent } = scales(width, tall);
    axis(svg, "bottom", x, { y: tall - 50, label: numberOf(found), length: width + 60, ticks: Math.max(3, width / 110) });
    const left = layer(svg, "axis-left").attr("transform", "translate(76,0)").call(d3.axisLeft(y).ticks(5).tickSizeOuter(0));
    left.selectAll("text.axis-label").data(["loss (nats a token)"]).join("text").attr("class", "axis-label").attr("fill", "currentColor").attr("transform", "rotate(-90)").attr("x", -(tall - 40) / 2).attr("y", -64).attr("text-anchor", "middle").text((d) => d);
    const points = Array.from(found.offsets, (d, i) => [x(found.value + d), i]);
    const path = (values) => `M${points.map(([px, i]) => `${px.toFixed(1)},${y(values[i]).toFixed(1)}`).join("L")}`;
    layer(svg, "tangent").selectAll("path").data([path(tangent)]).join("path").attr("class", "line backward dashed").attr("d", (d) => d);
    layer(svg, "line").selectAll("path").data([path(found.losses)]).join("path").attr("class", "line forward").attr("d", (d) => d);
    layer(svg, "points").selectAll("circle").data(points).join("circle").attr("class", "forward").attr("r", 3.5).attr("cx", (d) => d[0]).attr("cy", ([, i]) => y(found.losses[i]));
    layer(svg, "now").selectAll("circle").data([0]).join("circle").attr("class", "backward").attr("r", 6).attr("cx", x(found.value)).attr("cy", y(found.loss));
    layer(svg, "hover");
    layer(svg, "legend").selectAll("text").data([["forward", "loss, measured"], ["backward", "the gradient's tangent"]]).join("text").attr("class", (d) => d[0]).attr("x", width / 2 + 48).attr("y", (_, i) => 22 + 16 * i).attr("text-anchor", "middle").text((d) => d[1]);
  }

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, prompt.element, parameter.element, row.element, column.element),
    el("div", { class: "pair" },
      el("section", { class: "figure" }, el("h3", {}, "The numbers: choose one"), grid, legend),
      el("div", {}, el("section", { class: "figure" }, el("h3", {}, "Slope and gradient"), verdict), curve.element)));

  load();
  return {
    update: (now) => {
      prompt.set(now.prompt);
      load();
    },
    destroy: () => later.cancel(),
  };
}

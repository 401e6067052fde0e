// Pictures: a figure with a title, its axes, a reader's cursor and buttons that save it.

import { el, fill, unique } from "./dom.js";
import { saveCsv, savePng, saveSvg } from "./export.js";

export const d3 = globalThis.d3; // the files of d3/, loaded by index.html

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Return a figure: {element, svg, redraw(), say(text), cursor}.
 *
 * options:
 *   name      of the files that are saved
 *   title     a line above the picture
 *   describe  () => what a reader who cannot see it is told; or a string
 *   height    (width) => height, in pixels
 *   wide      optional: (width) => width of the picture, if it may be wider than the page: it scrolls
 *   draw      (svg, width, height): draws into a d3 selection, which is empty the first time only
 *   csv       () => rows, the first of them the names of the columns
 *   cursor    optional: {columns(), rows(), at(x, y, width) => [column, row] or null,
 *             show(column, row) => text}. Arrow keys, Home, End and the pointer move it; `show`
 *             marks the place in the picture and returns the line that is read out below it.
 */
export function figure({ name, title, describe, height, wide, draw, csv, cursor }) {
  const svg = d3.create("svg").attr("role", "img").attr("class", "picture");
  const node = svg.node();
  const readout = el("p", { class: "readout", role: "status" }, "Point at the picture, or focus it and use the arrow keys, to read its numbers.");
  const save = (label, what, run) =>
    el("button", { class: "small", type: "button", title: what, ariaLabel: what, onclick: run }, label);
  const tools = el("div", { class: "tools", role: "group", ariaLabel: `Save: ${title}` },
    save("SVG", `Save the picture as SVG: ${title}`, () => saveSvg(node, `npgpt-${name}`)),
    save("PNG", `Save the picture as PNG: ${title}`, () => savePng(node, `npgpt-${name}`)),
    csv && save("CSV", `Save the numbers as CSV: ${title}`, () => saveCsv(csv(), `npgpt-${name}`)));
  const caption = el("figcaption", {}, el("h3", { id: unique("figure") }, title), tools);
  const box = el("div", { class: "canvas" }, node);
  const element = el("figure", { class: "figure" }, caption, box, cursor && readout);
  let width = 0;

  function redraw() {
    if (!width) width = box.clientWidth; // an answer may come before the observer
    if (!width) return;
    const tall = height(width);
    const full = wide ? wide(width) : width;
    svg.attr("width", full).attr("height", tall).attr("viewBox", `0 0 ${full} ${tall}`);
    draw(svg, full, tall);
    for (const one of tools.children) one.disabled = !node.childElementCount; // nothing to save yet
    svg.attr("aria-label", typeof describe === "function" ? describe() : describe);
  }

  const observer = new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && now !== width) {
      width = now;
      redraw();
    }
  });
  observer.observe(box);

  const made = { element, svg, redraw, say: (text) => fill(readout, text), get width() { return width; } };
  if (cursor) addCursor(made, cursor, readout);
  return made;
}

/** Let the pointer and the keys move a cursor over a picture. */
function addCursor(made, cursor, readout) {
  const node = made.svg.node();
  let place = null;
  node.setAttribute("tabindex", "0");
  const move = (column, row) => {
    const columns = cursor.columns();
    const rows = cursor.rows?.() ?? 1;
    if (!columns || !rows) return;
    place = [Math.max(0, Math.min(columns - 1, column)), Math.max(0, Math.min(rows - 1, row))];
    fill(readout, cursor.show(...place));
  };
  node.addEventListener("pointermove", (event) => {
    const box = node.getBoundingClientRect();
    const found = cursor.at(event.clientX - box.left, event.clientY - box.top, made.width);
    if (found) move(...found);
  });
  node.addEventListener("click", () => place && cursor.choose?.(...place));
  node.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const [column, row] = place ?? [0, 0];
    const far = event.shiftKey ? 10 : 1;
    if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      if (place === null) move(0, 0);
      else move(column + dx * far, row + dy * far);
    } else if (event.key === "Home") move(0, row);
    else if (event.key === "End") move(Infinity, row);
    else if ((event.key === "Enter" || event.key === " ") && cursor.choose && place) {
      cursor.choose(...place);
    } else return;
    event.preventDefault();
  });
  made.moveTo = move;
  made.refresh = () => place && move(...place);
}

/** Return the child <g> of this class, made when it is missing. */
export function layer(svg, name) {
  const found = svg.select(`g.${name}`);
  return found.empty() ? svg.append("g").attr("class", name) : found;
}

/** Draw an axis with the name of its quantity and unit. side: "bottom" or "left". */
export function axis(svg, side, scale, { x = 0, y = 0, label, ticks = 5, values, format, length }) {
  const make = side === "bottom" ? d3.axisBottom(scale) : d3.axisLeft(scale);
  make.ticks(ticks, typeof format === "string" ? format : undefined).tickSizeOuter(0);
  if (values) make.tickValues(values);
  if (typeof format === "function") make.tickFormat(format);
  const group = layer(svg, `axis-${side}`).attr("transform", `translate(${x},${y})`).call(make);
  const text = group.selectAll("text.axis-label").data([label]).join("text")
    .attr("class", "axis-label").attr("fill", "currentColor").text((d) => d);
  if (side === "bottom") text.attr("x", length / 2).attr("y", 36).attr("text-anchor", "middle");
  else text.attr("transform", "rotate(-90)").attr("x", -length / 2).attr("y", -44).attr("text-anchor", "middle");
  return group;
}

/** Sequential and diverging colours that colour-blind readers can read: cividis, blue to orange. */
export const sequential = d3.interpolateCividis;
export const diverging = (t) => d3.interpolatePuOr(1 - t); // 0 orange ... 1 purple-blue

/** Return the colour of a text on a background: black or white, with a contrast of at least 4.5. */
export const inkOn = (color) => (d3.lab(color).l > 49.5 ? "#000000" : "#ffffff");

/** Return a probability for a label: "42.1 %", "0.31 %", "2e-7". */
export function percent(p) {
  if (p === 0) return "0";
  if (p >= 0.9995) return "100 %";
  if (p >= 0.1) return `${(100 * p).toFixed(1)} %`;
  if (p >= 0.0001) return `${(100 * p).toPrecision(2)} %`;
  return p.toExponential(1);
}

export const count = (n) => n.toLocaleString("en-US");

/** Return the first `most` characters of a text, the last of them "…" if it is longer. */
export function clip(text, most) {
  const characters = Array.from(text);
  return characters.length > most ? `${characters.slice(0, Math.max(1, most - 1)).join("")}…` : text;
}

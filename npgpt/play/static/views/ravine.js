// View 9: optimizers on a ravine: long, narrow, and not along the axes.

import { axis, d3, figure, layer } from "../chart.js";
import { short } from "../code.js";
import { button, slider } from "../controls.js";
import { debounce, el, fill } from "../dom.js";
import { COLORS, legend, legendHeight } from "../parts/legend.js";

// Name, colour, dashes. AdamW is left out: without weight decay it is Adam.
const RACERS = {
  sgd: ["SGD", COLORS.blue, null], rmsprop: ["RMSprop", COLORS.sky, "7 3"], momentum: ["momentum", COLORS.orange, null],
  nesterov: ["Nesterov", COLORS.red, "7 3"], adam: ["Adam", COLORS.green, null], muon: ["Muon", COLORS.pink, "7 3"],
};
const X = [-5, 2];
const Y = [-3.3, 2.2];
const LEVELS = [0.01, 0.05, 0.2, 0.5, 1, 2, 4, 8, 16, 32];
const LARGEST = 1e3; // loss of one that has diverged
const PACE = 60; // ms for each step
const WIDE = 146; // of an entry of the legend

export const ravine = {
  name: "ravine",
  title: "Optimizers on a ravine",
  short: "Ravine",
  sentence: "A loss is steep along a few directions and flat along many. Here are two parameters with one of each: a long, narrow valley, not along the axes. Each optimizer starts at the same place and makes its steps with the code that trains the model.",
  doc: "ravine",
  defaults: { factor: 1, step: 120 },
  render,
};

function render(root, page) {
  const { state } = page;
  let found = null;
  let timer = null;
  const N = () => found.losses.shape[1];
  const shown = () => Math.max(0, Math.min(N() - 1, Math.round(state.step)));
  const racers = () => Object.keys(RACERS).map((name) => found.names.indexOf(name));
  const style = (i) => RACERS[found.names[i]];
  const at = (i, s) => [found.paths[(i * N() + s) * 2], found.paths[(i * N() + s) * 2 + 1]];
  const loss = (i, s) => found.losses[i * N() + s];
  const known = (i, most) => d3.range(most + 1).filter((s) => loss(i, s) < 1e8); // SVG draws no larger ones
  const told = (value) => (value < LARGEST ? short(value) : "diverged");
  const below = (width) => legendHeight(width, Object.keys(RACERS).length, WIDE);
  const scale = d3.scaleLog([0.1, 10], [0, 1000]);

  const factor = slider({
    label: "Learning rates, times", value: state.factor, text: short,
    toValue: (x) => Number(scale.invert(x).toPrecision(2)), toPosition: (value) => Math.max(0, Math.min(1000, scale(value > 0 ? value : 0.1))),
    onInput: debounce((value) => { page.set({ factor: value }); load(); }, 120),
  });
  const play = button({ label: "Race", kind: "primary", onClick: () => (timer ? stop() : start()) });
  const go = (step) => { page.set({ step }); map.redraw(); curves.redraw(); };
  const cursor = (left, right) => ({
    columns: () => (found ? N() : 0),
    at: (x, y, width) => (right === null ? null : [Math.round(((x - left) / (width - left - right)) * (N() - 1)), 0]),
    show: (s) => { stop(); go(s); return `Step ${s}. ${order()}`; },
  });
  const map = figure({
    name: "ravine", title: "The paths, on lines of equal loss",
    describe: () => (found ? `Paths of ${racers().length} optimizers after ${shown()} steps. Losses: ${order()}` : "Optimizers on a ravine."),
    height: (width) => Math.min(460, ((width - 70) * (Y[1] - Y[0])) / (X[1] - X[0])) + 60 + below(width),
    draw: drawMap,
    csv: () => [["optimizer", "learning_rate", "step", "x", "y", "loss"], ...racers().flatMap((i) => d3.range(N()).map((s) => [found.names[i], found.rates[i], s, ...at(i, s), loss(i, s)]))],
    cursor: cursor(56, null),
  });
  const curves = figure({
    name: "ravine-losses", title: "Their losses",
    describe: () => (found ? `Losses of ${racers().length} optimizers over ${N() - 1} steps; after ${shown()}: ${order()}` : "Losses."),
    height: (width) => 300 + below(width), draw: drawLosses,
    csv: () => [["step", ...racers().map((i) => found.names[i])], ...d3.range(N()).map((s) => [s, ...racers().map((i) => loss(i, s))])],
    cursor: cursor(56, 14),
  });

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, factor.element, el("div", { class: "buttons" }, play.element)),
    map.element, curves.element);

  function order() {
    const rank = ([, value]) => (value < LARGEST ? value : Infinity);
    return racers().map((i) => [style(i)[0], loss(i, shown())]).sort((a, b) => d3.ascending(rank(a), rank(b)))
      .map(([name, value]) => `${name} ${told(value)}`).join(", ");
  }

  async function load() {
    const { factor: asked } = state;
    const result = await page.call("ravine", { factor: asked });
    if (!result) return;
    found = { ...result, factor: asked };
    map.redraw();
    curves.redraw();
  }

  function start() {
    if (!found) return;
    fill(play.element, "Pause");
    if (shown() === N() - 1) go(0); // else it goes on
    timer = setInterval(() => {
      if (shown() < N() - 1) go(shown() + 1);
      if (shown() >= N() - 1) stop();
    }, PACE);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    fill(play.element, "Race");
  }

  function drawMap(svg, width, whole) {
    if (!found) return;
    const tall = whole - below(width);
    const x = d3.scaleLinear(X, [56, width - 14]);
    const y = d3.scaleLinear(Y, [tall - 50, 10]);
    clip(svg, "ravine-map", x, y);
    layer(svg, "rings").attr("clip-path", "url(#ravine-map)").selectAll("path").data(LEVELS).join("path").attr("class", "ghost").attr("stroke-opacity", 0.45)
      .attr("d", (level) => `M${ring(level).map(([u, v]) => `${x(u).toFixed(1)},${y(v).toFixed(1)}`).join("L")}`);
    axis(svg, "left", y, { x: 56, label: "second parameter", length: tall - 40, ticks: 5 });
    axis(svg, "bottom", x, { y: tall - 50, label: "first parameter", length: width + 42, ticks: 6 });
    const own = layer(svg, "paths").attr("clip-path", "url(#ravine-map)");
    lines(own, (i) => known(i, shown()).map((s) => [x(at(i, s)[0]), y(at(i, s)[1])]));
    own.selectAll("circle").data(racers()).join("circle").attr("r", 5).attr("fill", (i) => style(i)[1])
      .each(function place(i) {
        const [u, v] = at(i, known(i, shown()).at(-1));
        d3.select(this).attr("cx", x(u)).attr("cy", y(v));
      });
    layer(svg, "goal").selectAll("path").data([0]).join("path").attr("class", "update").attr("d", `${d3.range(10).map((k) => `${k ? "L" : "M"}${x(0) + (k % 2 ? 3 : 8) * Math.sin((k * Math.PI) / 5)},${y(0) - (k % 2 ? 3 : 8) * Math.cos((k * Math.PI) / 5)}`).join("")}Z`);
    layer(svg, "step").selectAll("text").data([`step ${shown()} of ${N() - 1}`]).join("text").attr("class", "strong").attr("x", width - 18).attr("y", 24).attr("text-anchor", "end").text((d) => d);
    drawLegend(svg, width, tall);
  }

  function drawLosses(svg, width, whole) {
    if (!found) return;
    const tall = whole - below(width);
    const x = d3.scaleLinear([0, N() - 1], [56, width - 14]);
    const low = d3.min(found.losses, (value) => (value > 0 ? value : Infinity));
    const y = d3.scaleLog([Math.max(1e-8, low), 100], [tall - 50, 10]).nice();
    clip(svg, "ravine-losses", x, y);
    axis(svg, "left", y, { x: 56, label: "loss", length: tall - 40, values: d3.range(-8, 3, 2).map((k) => 10 ** k).filter((v) => v >= y.domain()[0]), format: (v) => v.toExponential(0) });
    axis(svg, "bottom", x, { y: tall - 50, label: "step", length: width + 42, ticks: 6, format: "d" });
    const own = layer(svg, "paths").attr("clip-path", "url(#ravine-losses)");
    lines(own, (i) => known(i, N() - 1).map((s) => [x(s), y(Math.max(1e-12, loss(i, s)))]));
    layer(svg, "hover").selectAll("path").data([shown()]).join("path").attr("class", "cursor").attr("d", (s) => `M${x(s)},10V${tall - 50}`);
    drawLegend(svg, width, tall);
  }

  /** Draw a line for each optimizer through its points. */
  function lines(group, points) {
    group.selectAll("path").data(racers()).join("path").attr("fill", "none").attr("stroke-width", 1.9)
      .attr("stroke", (i) => style(i)[1]).attr("stroke-dasharray", (i) => style(i)[2])
      .attr("d", (i) => `M${points(i).map((point) => point.map((v) => v.toFixed(1)).join()).join("L")}`);
  }

  /** Return the points of the ellipse on which the loss is `level`. */
  function ring(level) {
    const [[a, b], [, c]] = found.hessian;
    const angle = 0.5 * Math.atan2(2 * b, a - c); // of the steepest direction
    const [mean, half] = [(a + c) / 2, Math.hypot((a - c) / 2, b)];
    return d3.range(121).map((k) => {
      const u = Math.sqrt((2 * level) / (mean + half)) * Math.cos((k * Math.PI) / 60);
      const v = Math.sqrt((2 * level) / (mean - half)) * Math.sin((k * Math.PI) / 60);
      return [u * Math.cos(angle) - v * Math.sin(angle), u * Math.sin(angle) + v * Math.cos(angle)];
    });
  }

  function drawLegend(svg, width, top) {
    legend(svg, width, top, racers().map((i) => ({ text: `${style(i)[0]} ${told(loss(i, shown()))}`, stroke: style(i)[1], dash: style(i)[2] })), WIDE);
  }

  load();
  return {
    update: (now) => {
      factor.set(now.factor);
      if (found?.factor !== now.factor) load();
      else go(now.step);
    },
    destroy: stop,
  };
}

/** Make a clip path of a picture's inside. */
function clip(svg, id, x, y) {
  const [left, right] = x.range();
  const [bottom, top] = y.range();
  layer(svg, "clip").selectAll("clipPath").data([id]).join((enter) => { const made = enter.append("clipPath").attr("id", id); made.append("rect"); return made; })
    .select("rect").attr("x", left).attr("y", top).attr("width", right - left).attr("height", bottom - top);
}

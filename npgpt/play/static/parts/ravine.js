// Optimizers on a ravine: long, narrow, and not along the axes. A part of view 8.

import { axis, d3, figure, layer } from "../chart.js";
import { short } from "../code.js";
import { button, slider } from "../controls.js";
import { debounce, el, fill } from "../dom.js";

const NAMES = { sgd: "SGD", momentum: "momentum", nesterov: "Nesterov", rmsprop: "RMSprop", adam: "Adam", adamw: "AdamW", muon: "Muon" };
const X = [-5, 2];
const Y = [-2.4, 2.4];

/** Return {element, load, destroy}. AdamW is left out: without weight decay it is Adam. */
export function ravineRace(page) {
  const { state } = page;
  let found = null;
  let shown = 0; // steps
  let timer = null;
  const N = () => found.losses.shape[1];
  const racers = () => d3.range(found.names.length).filter((i) => found.names[i] !== "adamw");
  const at = (i, s) => [found.paths[(i * N() + s) * 2], found.paths[(i * N() + s) * 2 + 1]];
  const loss = (i, s) => found.losses[i * N() + s];
  const scale = d3.scaleLog([0.1, 10], [0, 1000]);

  const factor = slider({
    label: "Learning rates, times", value: state.factor, text: short,
    toValue: (x) => Number(scale.invert(x).toPrecision(2)), toPosition: (value) => scale(value),
    onInput: debounce((value) => { page.set({ factor: value }); load(); }, 120),
  });
  const play = button({ label: "Race", kind: "primary", onClick: () => (timer ? stop() : start()) });
  const map = figure({
    name: "ravine", title: "Optimizers on a ravine",
    describe: () => (found ? `Paths of ${racers().length} optimizers after ${shown} steps. ${order()}` : "Optimizers on a ravine."),
    height: (width) => Math.min(430, ((width - 70) * (Y[1] - Y[0])) / (X[1] - X[0])) + 60 + (width < 520 ? 120 : 0),
    draw,
    csv: () => [["optimizer", "learning_rate", "step", "x", "y", "loss"], ...racers().flatMap((i) => d3.range(N()).map((s) => [found.names[i], found.rates[i], s, ...at(i, s), loss(i, s)]))],
    cursor: {
      columns: () => (found ? N() : 0),
      at: () => null,
      show: (s) => { stop(); shown = s; map.redraw(); return `Step ${s}. ${order()}`; },
    },
  });
  const element = el("div", {},
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, factor.element, el("div", { class: "buttons" }, play.element)), map.element);

  function order() {
    return racers().map((i) => [NAMES[found.names[i]], loss(i, shown)]).sort((a, b) => (Number.isNaN(a[1]) ? 1 : Number.isNaN(b[1]) ? -1 : a[1] - b[1]))
      .map(([name, value]) => `${name} ${value < 1e3 ? short(value) : "diverged"}`).join(", ");
  }

  async function load() {
    const result = await page.call("ravine", { factor: state.factor });
    if (!result) return;
    found = result;
    shown = N() - 1;
    map.redraw();
  }

  function start() {
    if (!found) return;
    shown = 0;
    fill(play.element, "Pause");
    timer = setInterval(() => {
      shown += 1;
      map.redraw();
      if (shown >= N() - 1) stop();
    }, 60);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    fill(play.element, "Race");
  }

  function draw(svg, width, full) {
    if (!found) return;
    const narrow = width < 520; // the legend is below the picture
    const tall = narrow ? full - 120 : full;
    const [keyX, keyY] = narrow ? [56, tall + 8] : [width - 170, 16];
    const x = d3.scaleLinear(X, [56, width - 14]);
    const y = d3.scaleLinear(Y, [tall - 50, 10]);
    const [[a, b], [, c]] = found.hessian;
    const angle = 0.5 * Math.atan2(2 * b, a - c);
    const mean = (a + c) / 2;
    const half = Math.hypot((a - c) / 2, b);
    layer(svg, "clip").selectAll("clipPath").data([0]).join((enter) => { const made = enter.append("clipPath").attr("id", "ravine-clip"); made.append("rect"); return made; })
      .select("rect").attr("x", x(X[0])).attr("y", y(Y[1])).attr("width", x(X[1]) - x(X[0])).attr("height", y(Y[0]) - y(Y[1]));
    const ring = (level) => `M${d3.range(121).map((k) => {
      const t = (k * Math.PI) / 60;
      const u = Math.sqrt((2 * level) / (mean + half)) * Math.cos(t);
      const v = Math.sqrt((2 * level) / Math.max(1e-9, mean - half)) * Math.sin(t);
      return `${x(u * Math.cos(angle) - v * Math.sin(angle)).toFixed(1)},${y(u * Math.sin(angle) + v * Math.cos(angle)).toFixed(1)}`;
    }).join("L")}`;
    layer(svg, "rings").attr("clip-path", "url(#ravine-clip)").selectAll("path").data([0.01, 0.05, 0.2, 0.5, 1, 2, 4, 8, 14]).join("path").attr("class", "rule").attr("d", ring);
    axis(svg, "left", y, { x: 56, label: "second parameter", length: tall - 40, ticks: 5 });
    axis(svg, "bottom", x, { y: tall - 50, label: "first parameter", length: width + 42, ticks: 6 });
    const known = (i) => d3.range(shown + 1).filter((s) => !Number.isNaN(loss(i, s)));
    const color = (k) => d3.schemeTableau10[k];
    layer(svg, "paths").attr("clip-path", "url(#ravine-clip)").selectAll("path").data(racers()).join("path").attr("fill", "none").attr("stroke-width", 1.8).attr("stroke", (_, k) => color(k))
      .attr("d", (i) => `M${known(i).map((s) => `${x(at(i, s)[0]).toFixed(1)},${y(at(i, s)[1]).toFixed(1)}`).join("L")}`);
    layer(svg, "heads").attr("clip-path", "url(#ravine-clip)").selectAll("circle").data(racers()).join("circle").attr("r", 5).attr("fill", (_, k) => color(k)).attr("cx", (i) => x(at(i, known(i).at(-1))[0])).attr("cy", (i) => y(at(i, known(i).at(-1))[1]));
    layer(svg, "goal").selectAll("path").data([0]).join("path").attr("class", "update").attr("d", d3.range(10).map((k) => `${k ? "L" : "M"}${x(0) + (k % 2 ? 3 : 8) * Math.sin((k * Math.PI) / 5)},${y(0) - (k % 2 ? 3 : 8) * Math.cos((k * Math.PI) / 5)}`).join("") + "Z");
    const legend = layer(svg, "legend");
    legend.selectAll("rect").data(racers()).join("rect").attr("x", keyX).attr("y", (_, k) => keyY + 17 * k).attr("width", 12).attr("height", 5).attr("fill", (_, k) => color(k));
    legend.selectAll("text").data(racers()).join("text").attr("x", keyX + 18).attr("y", (_, k) => keyY + 7 + 17 * k).text((i) => `${NAMES[found.names[i]]}: ${loss(i, shown) < 1e3 ? short(loss(i, shown)) : "diverged"}`);
    layer(svg, "step").selectAll("text").data([`step ${shown} of ${N() - 1}`]).join("text").attr("class", "strong").attr("x", 66).attr("y", 24).text((d) => d);
  }

  load();
  return { element, load, destroy: stop };
}

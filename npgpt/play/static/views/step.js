// View 6: one step of an optimizer, what it predicts, and what becomes of the loss.

import { axis, clip, count, d3, figure, layer, percent } from "../chart.js";
import { codeBlock, formulaBlock, short } from "../code.js";
import { number, select, slider, textarea } from "../controls.js";
import { debounce, el, fill } from "../dom.js";

const OPTIMIZERS = [
  ["sgd", "SGD"], ["momentum", "SGD with momentum"], ["nesterov", "SGD, Nesterov's momentum"], ["rmsprop", "RMSprop"],
  ["adam", "Adam"], ["adamw", "AdamW"], ["muon", "Muon"],
];
const RATES = [1e-6, 1]; // both ends of the slider
const ROW = 17;

export const oneStep = {
  name: "step",
  title: "One step",
  sentence: "An optimizer makes a step of the gradient. To first order, the loss changes by the product of the two, <gradient, step>. What that leaves out shrinks with the square of the step: half the learning rate has a quarter of the error.",
  doc: "step",
  defaults: { prompt: "The keeper of the lighthouse looked at the sea", optimizer: "adamw", lr: 0.001, weight_decay: 0.1, earlier: 0, parameter: "h.0.mlp.c_fc.weight" },
  render,
};

function render(root, page) {
  const { state, vocabulary } = page;
  let found = null;

  const later = debounce(() => load(), 200);
  const change = (name) => (value) => { page.set({ [name]: value }); later(); };
  const prompt = textarea({ label: "Text that the step is made on", value: state.prompt, onInput: change("prompt") });
  const optimizer = select({ broad: true, label: "Optimizer", value: state.optimizer, choices: OPTIMIZERS, onInput: change("optimizer") });
  const scale = d3.scaleLog(RATES, [0, 1000]);
  const rate = slider({
    label: "Learning rate", value: state.lr, text: short,
    toValue: (x) => Number(scale.invert(x).toPrecision(2)), toPosition: (value) => Math.max(0, Math.min(1000, scale(value || RATES[0]))),
    onInput: change("lr"),
  });
  const decay = number({ label: "Weight decay, of matrices", value: state.weight_decay, min: 0, max: 10, step: "any", onInput: change("weight_decay") });
  const earlier = number({ label: "Earlier steps on this text", hint: "They fill the moments", value: state.earlier, min: 0, max: 100, onInput: change("earlier") });
  const parameter = select({ broad: true, label: "Parameter", value: state.parameter, choices: [[state.parameter, state.parameter]], onInput: change("parameter") });

  const numbers = el("div", { class: "facts" });
  const card = el("div", { class: "step-card" });

  const line = figure({
    name: "step-loss", title: "The loss along the step",
    describe: () => (found ? `Loss ${found.loss.toFixed(5)} before the step. Predicted change ${short(found.predicted)}, measured ${short(found.measured)}.` : "The loss along the step."),
    height: () => 300, draw: drawLine,
    csv: () => [["fraction", "loss", "predicted_loss", "error"], ...Array.from(found.fractions, (f, i) => [f, found.losses[i], found.loss + f * found.predicted, found.errors[i]])],
    cursor: {
      columns: () => found?.fractions.length ?? 0,
      at: (x, y, width) => [Math.round(((x - 64) / (width - 84)) * (found.fractions.length - 1)), 0],
      show: (i) => {
        const { x } = scales(line.width, 300);
        layer(line.svg, "hover").selectAll("path").data([i]).join("path").attr("class", "cursor").attr("d", `M${x(found.fractions[i])},10V250`);
        return `${found.fractions[i]} of the step: loss ${found.losses[i].toFixed(6)}, predicted ${(found.loss + found.fractions[i] * found.predicted).toFixed(6)}, error ${short(found.errors[i])}.`;
      },
    },
  });
  const targets = figure({
    name: "step-targets", title: "The probability of each target, before and after",
    describe: () => (found ? `${count(found.targets.length)} targets; their mean loss goes from ${found.loss.toFixed(4)} to ${(found.loss + found.measured).toFixed(4)}.` : "Probabilities."),
    height: () => 300, draw: drawTargets,
    csv: () => [["position", "target", "before", "after"], ...Array.from(found.targets, (id, t) => [t + 1 + found.unread, vocabulary.label(id), found.before[t], found.after[t]])],
    cursor: {
      columns: () => found?.targets.length ?? 0,
      at: (x, y, width) => [Math.floor(((x - 64) / (width - 76)) * found.targets.length), 0],
      show: (t) => {
        const band = (targets.width - 76) / found.targets.length;
        layer(targets.svg, "hover").selectAll("rect").data([t]).join("rect").attr("class", "hover").attr("x", 64 + t * band).attr("width", band).attr("y", 8).attr("height", 232);
        const k = found.ids.shape[1];
        const best = d3.range(Math.min(4, k)).map((j) => `“${vocabulary.label(found.ids[t * k + j])}” ${percent(found.top_before[t * k + j])} → ${percent(found.top_after[t * k + j])}`).join(", ");
        return `Target “${vocabulary.label(found.targets[t])}”: ${percent(found.before[t])} → ${percent(found.after[t])}. Most likely there: ${best}.`;
      },
    },
  });
  const scatter = figure({
    name: "step-update", title: "Gradient and update of one parameter's numbers",
    describe: () => (found ? `${count(found.gradient.length)} numbers of ${state.parameter}, each with its gradient and its update.` : "Gradient and update."),
    height: () => 430, draw: drawScatter,
    csv: () => [["gradient", "update"], ...Array.from(found.gradient, (g, i) => [g, found.update[i]])],
  });
  const list = figure({
    name: "step-parameters", title: "Every parameter in the step: root mean squares",
    describe: () => `${found?.changes.length ?? 0} parameters: gradient, moments and update.`,
    height: () => (found ? 34 + found.changes.length * ROW + 44 : 200), draw: drawList,
    csv: () => [["parameter", "weight", "gradient", "m", "v", "update", "predicted"], ...found.changes.map((one) => [one.name, one.weight, one.gradient, one.moments.m ?? NaN, one.moments.v ?? NaN, one.update, one.predicted])],
    cursor: {
      columns: () => 1, rows: () => found?.changes.length ?? 0,
      at: (x, y) => (y >= 34 && y < 34 + found.changes.length * ROW ? [0, Math.floor((y - 34) / ROW)] : null),
      show: (_, i) => {
        layer(list.svg, "hover").selectAll("rect").data([i]).join("rect").attr("class", "hover").attr("y", 34 + i * ROW).attr("width", list.width).attr("height", ROW);
        const one = found.changes[i];
        const moments = Object.entries(one.moments).map(([name, size]) => `, ${name} ${short(size)}`).join("");
        return `${one.name}: gradient ${short(one.gradient)}${moments}, update ${short(one.update)} of ${short(one.weight)}; its part of the predicted change: ${short(one.predicted)}. Enter or a click shows its numbers.`;
      },
      choose: (_, i) => { parameter.set(found.changes[i].name); change("parameter")(found.changes[i].name); },
    },
  });

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      prompt.element, optimizer.element, rate.element, decay.element, earlier.element, parameter.element),
    el("section", { class: "figure" }, el("h3", {}, "Predicted and measured"), numbers),
    el("div", { class: "pair" }, line.element, targets.element),
    el("div", { class: "pair" }, scatter.element, el("section", { class: "figure" }, el("h3", {}, "The rule"), card)),
    list.element);

  async function load() {
    const { prompt: text, ...settings } = state;
    const result = await page.call("step", { prompt: text, ...settings });
    if (!result) return;
    found = result;
    page.note(found.unread ? `The text is long: its last ${count(found.targets.length + 1)} tokens are read.` : "");
    fill(parameter.input, found.changes.map(({ name }) => el("option", { value: name }, name)));
    parameter.set(state.parameter);
    for (const one of [line, targets, scatter, list]) one.redraw();
    tell();
  }

  function tell() {
    const at = (fraction) => found.errors[found.fractions.indexOf(fraction)];
    const fact = (name, value, kind) => el("div", { class: kind }, el("dt", {}, name), el("dd", {}, value));
    fill(numbers, el("dl", {},
      fact("loss before", found.loss.toFixed(6)),
      fact("predicted: <gradient, step>", short(found.predicted), "backward"),
      fact("measured change", short(found.measured), "forward"),
      fact("error", short(at(1))),
      fact("error of half the step", short(at(0.5))),
      fact("ratio of the two; 4 for small steps", Math.abs(at(0.5)) > 1e-13 ? (at(1) / at(0.5)).toFixed(3) : "–")),
    el("p", { class: "small-text" }, `${found.optimizer} on the text alone, step ${found.steps}, in ${found.dtype}.`));
    const { before, gradient, moments, update } = found.entry;
    const place = `${state.parameter}[${found.index.join(", ")}]`;
    fill(card,
      found.rules.map((rule) => [
        found.rules.length > 1 ? el("p", { class: "small-text" }, rule.op === "adamw" ? "AdamW, of all other parameters:" : "Muon, of the blocks' matrices:") : null,
        formulaBlock(rule.formula), codeBlock(rule.code)]).flat(),
      el("p", { class: "small-text" }, `The number with the largest gradient, `, el("code", {}, place), ":"),
      el("table", {}, el("tbody", {}, [["p before", before], ["gradient", gradient], ...Object.entries(moments).map(([name, value]) => [`${name} after`, value]), ["update", update], ["p after", before + update]].map(([name, value]) =>
        el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value.toPrecision(7)))))),
      el("p", { class: "small-text" }, el("a", { href: `#/nudge?${new URLSearchParams({ prompt: state.prompt, parameter: state.parameter, index: found.index.join(",") })}` }, "Nudge this number")));
  }

  function scales(width, tall) {
    const line = Array.from(found.fractions, (f) => found.loss + f * found.predicted);
    const [low, high] = d3.extent(found.losses);
    const reach = Math.max(high - low, Math.abs(found.predicted) / 2);
    return {
      x: d3.scaleLinear([0, found.fractions.at(-1)], [64, width - 20]),
      y: d3.scaleLinear([Math.max(d3.min(line), low - reach) - reach * 0.04, Math.min(Math.max(high, found.loss), found.loss + 3 * reach) + reach * 0.06], [tall - 50, 10]),
    };
  }

  function drawLine(svg, width, tall) {
    if (!found) return;
    const { x, y } = scales(width, tall);
    const inside = (v) => y(Math.max(y.domain()[0], Math.min(y.domain()[1], v))).toFixed(1);
    axis(svg, "left", y, { x: 64, label: "loss (nats a token)", length: tall - 40, ticks: 5 });
    axis(svg, "bottom", x, { y: tall - 50, label: "fraction of the step", length: width + 44, ticks: 5 });
    layer(svg, "one").selectAll("path").data([x(1)]).join("path").attr("class", "rule").attr("d", (d) => `M${d},10V${tall - 50}`);
    const path = (value) => `M${Array.from(found.fractions, (f, i) => `${x(f).toFixed(1)},${inside(value(f, i))}`).join("L")}`;
    layer(svg, "tangent").selectAll("path").data([path((f) => found.loss + f * found.predicted)]).join("path").attr("class", "line backward dashed").attr("d", (d) => d);
    layer(svg, "line").selectAll("path").data([path((f, i) => found.losses[i])]).join("path").attr("class", "line forward").attr("d", (d) => d);
    layer(svg, "points").selectAll("circle").data(Array.from(found.losses)).join("circle").attr("class", "forward").attr("r", (_, i) => (found.fractions[i] === 1 ? 6 : 3.5)).attr("cx", (_, i) => x(found.fractions[i])).attr("cy", inside);
    layer(svg, "hover");
    layer(svg, "legend").selectAll("text").data([["forward", "measured"], ["backward", "predicted by <gradient, step>"]]).join("text").attr("class", (d) => d[0]).attr("x", width - 20).attr("y", (_, i) => 22 + 16 * i).attr("text-anchor", "end").text((d) => d[1]);
  }

  function drawTargets(svg, width, tall) {
    if (!found) return;
    const n = found.targets.length;
    const x = d3.scaleLinear([0, n], [64, width - 12]);
    const low = Math.max(1e-9, Math.min(d3.min(found.before), d3.min(found.after)));
    const y = d3.scaleLog([low / 1.5, 1], [tall - 60, 12]).clamp(true);
    axis(svg, "left", y, { x: 64, label: "probability", length: tall - 48, ticks: 5, format: "~g" });
    layer(svg, "hover");
    layer(svg, "stems").selectAll("path").data(d3.range(n)).join("path").attr("class", "ghost").attr("d", (t) => `M${x(t + 0.5)},${y(found.before[t])}V${y(found.after[t])}`);
    for (const [name, kind, r] of [["before", "forward", 3], ["after", "backward", 4]]) {
      layer(svg, name).selectAll("circle").data(d3.range(n)).join("circle").attr("class", kind).attr("r", r).attr("cx", (t) => x(t + 0.5)).attr("cy", (t) => y(found[name][t]));
    }
    const band = x(1) - x(0);
    const step = Math.max(1, Math.ceil(12 / band));
    layer(svg, "tokens").selectAll("text").data(d3.range(0, n, step)).join("text").attr("class", "mono tiny").attr("x", (t) => x(t + 0.5)).attr("y", tall - 42).attr("text-anchor", "middle")
      .text((t) => (step === 1 ? clip(vocabulary.label(found.targets[t]), Math.max(1, Math.floor(band / 7))) : t + 1 + found.unread));
    layer(svg, "legend").selectAll("text").data([["forward", "● before", 64], ["backward", "● after", 140]]).join("text").attr("class", (d) => d[0]).attr("x", (d) => d[2]).attr("y", tall - 14).text((d) => d[1]);
  }

  function drawScatter(svg, width, tall) {
    if (!found) return;
    const reach = (values) => d3.max(values, Math.abs) || 1;
    const x = d3.scaleLinear([-1.05 * reach(found.gradient), 1.05 * reach(found.gradient)], [76, width - 14]);
    const y = d3.scaleLinear([-1.1 * reach(found.update), 1.1 * reach(found.update)], [tall - 50, 10]);
    axis(svg, "bottom", x, { y: tall - 50, label: "gradient", length: width + 60, ticks: Math.max(2, width / 110), format: "~g" });
    const left = layer(svg, "axis-left").attr("transform", "translate(76,0)").call(d3.axisLeft(y).ticks(5).tickFormat((v) => (v ? d3.format("~e")(v) : "0")).tickSizeOuter(0));
    left.selectAll("text.axis-label").data(["update"]).join("text").attr("class", "axis-label").attr("fill", "currentColor").attr("transform", "rotate(-90)").attr("x", -(tall - 40) / 2).attr("y", -62).attr("text-anchor", "middle").text((d) => d);
    layer(svg, "zero").selectAll("path").data([`M76,${y(0)}H${width - 14}M${x(0)},10V${tall - 50}`]).join("path").attr("class", "rule").attr("d", (d) => d);
    layer(svg, "points").selectAll("circle").data(d3.range(found.gradient.length)).join("circle").attr("class", "backward").attr("fill-opacity", 0.5).attr("r", 2.2)
      .attr("cx", (i) => x(found.gradient[i])).attr("cy", (i) => y(found.update[i]));
  }

  function drawList(svg, width, tall) {
    if (!found) return;
    const rows = found.changes;
    const left = width > 620 ? 190 : 150;
    const marks = [
      ["weight", "forward", (one) => one.weight, "■ parameter"], ["gradient", "backward", (one) => one.gradient, "● gradient"],
      ["m", "first", (one) => one.moments.m, "○ m"], ["v", "second", (one) => (one.moments.v === undefined ? undefined : Math.sqrt(one.moments.v)), "◇ √v"],
      ["update", "update", (one) => one.update, "▲ update"],
    ].filter(([, , value]) => rows.some((one) => value(one)));
    const all = marks.flatMap(([, , value]) => rows.map(value)).filter((v) => v > 0);
    const x = d3.scaleLog(d3.extent(all), [left + 10, width - 14]).nice();
    const y = (i) => 34 + (i + 0.5) * ROW;
    const letters = Math.floor(left / 6.7);
    layer(svg, "hover");
    layer(svg, "lines").selectAll("path").data(rows).join("path").attr("class", "rule").attr("d", (_, i) => `M${left},${y(i)}H${width - 8}`);
    layer(svg, "names").selectAll("text").data(rows).join("text").attr("class", (one) => `mono tiny${one.name === state.parameter ? " strong" : ""}`).attr("x", left - 6).attr("y", (_, i) => y(i) + 4).attr("text-anchor", "end")
      .text((one) => (one.name.length > letters ? `…${one.name.slice(1 - letters)}` : one.name));
    const shapes = { weight: "M-3,-3h6v6h-6z", gradient: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", m: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", v: "M0,-4.5L4.5,0L0,4.5L-4.5,0z", update: "M0,-4.5L4.5,4L-4.5,4z" };
    for (const name of Object.keys(shapes)) {
      const mark = marks.find(([own]) => own === name);
      layer(svg, `mark-${name}`).selectAll("path").data(mark ? rows.map((one, i) => [mark[2](one), i]).filter(([value]) => value > 0) : []).join("path")
        .attr("class", mark?.[1]).attr("d", shapes[name]).attr("transform", ([value, i]) => `translate(${x(value)},${y(i)})`);
    }
    const bottom = layer(svg, "axis-bottom").attr("transform", `translate(0,${tall - 40})`).call(d3.axisBottom(x).ticks(Math.max(3, width / 130), "~g").tickSizeOuter(0));
    bottom.selectAll("text.axis-label").data(["root mean square"]).join("text").attr("class", "axis-label").attr("fill", "currentColor").attr("text-anchor", "middle").attr("x", d3.mean(x.range())).attr("y", 34).text((d) => d);
    layer(svg, "legend").selectAll("text").data(marks).join("text").attr("class", (d) => (d[1] === "forward" || d[1] === "backward" ? d[1] : "strong")).attr("x", (_, i) => (width > 620 ? left + 8 + i * 92 : 4 + d3.sum(marks.slice(0, i), (d) => 12 + 6.4 * d[3].length))).attr("y", 20).text((d) => d[3]);
    svg.style("cursor", "pointer");
  }

  load();
  return (now) => {
    prompt.set(now.prompt);
    optimizer.set(now.optimizer);
    rate.set(now.lr);
    decay.set(now.weight_decay);
    earlier.set(now.earlier);
    load();
  };
}

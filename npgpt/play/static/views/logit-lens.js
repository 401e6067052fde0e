// View 4: the next token that each layer would predict.

import { axis, clip, count, d3, figure, inkOn, layer, percent, sequential } from "../chart.js";
import { segmented, textarea } from "../controls.js";
import { debounce, el } from "../dom.js";

const ROW = 30;
const LEFT = 92;
const BITS = 1 / Math.LN2;

export const logitLens = {
  name: "logit-lens",
  title: "Logit lens",
  sentence: "The last LayerNorm and the output head read the residual stream in the middle of the model, as if the blocks above were left out. From the bottom to the top, one sees when the model makes up its mind.",
  doc: "logit-lens",
  defaults: { prompt: "The keeper of the lighthouse looked at the sea", colour: "probability", position: -1 },
  render,
};

const COLOURS = [["probability", "probability"], ["surprise", "surprise"], ["entropy", "entropy"]];

function render(root, page) {
  const { state, vocabulary } = page;
  let found = null;
  const T = () => found.tokens.length;
  const rows = () => found.ids.shape[0];
  const at = (l, t) => l * T() + t;
  const top = (l, t, j = 0) => {
    const n = found.ids.shape[2];
    return [found.ids[at(l, t) * n + j], found.probs[at(l, t) * n + j]];
  };
  const name = (l) => (l === rows() - 1 ? "output" : l === 0 ? "embedding" : `after block ${l - 1}`);
  const position = () => (found && state.position >= 0 && state.position < T() ? state.position : (found ? T() - 1 : 0));

  const prompt = textarea({ label: "Text", value: state.prompt, onInput: debounce((value) => { page.set({ prompt: value, position: -1 }); load(); }, 400) });
  const colour = segmented({ label: "Colour", value: state.colour, choices: COLOURS, onInput: (value) => { page.set({ colour: value }); grid.redraw(); } });

  let letters = 1; // of the longest text that a cell shows, at most 12
  const cellOf = (width) => Math.max(7.4 * letters + 14, Math.min(120, (width - LEFT - 8) / T()));
  const grid = figure({
    name: "logit-lens", title: "The likeliest next token, per layer and position",
    describe: () => (found ? `${rows()} rows of ${count(T())} positions. At the last position, the output is ${vocabulary.label(top(rows() - 1, T() - 1)[0])}.` : "Logit lens."),
    height: () => (found ? rows() * ROW + 74 : 200),
    wide: (width) => (found ? Math.max(width, LEFT + 8 + T() * cellOf(width)) : width),
    draw: drawGrid,
    csv: () => {
      const n = found.ids.shape[2];
      const lines = [["layer", "position", "read_token", "rank", "id", "token", "probability", "entropy_bits", "surprise_bits"]];
      for (let l = 0; l < rows(); l++) for (let t = 0; t < T(); t++) for (let j = 0; j < n; j++) {
        const [id, p] = top(l, t, j);
        lines.push([name(l), t + found.unread, vocabulary.label(found.tokens[t]), j + 1, id, vocabulary.label(id), p, found.entropy[at(l, t)] * BITS, found.surprise[at(l, t)] * BITS]);
      }
      return lines;
    },
    cursor: {
      columns: () => (found ? T() : 0), rows: () => (found ? rows() : 0),
      at: (x, y) => {
        const place = [Math.floor((x - LEFT) / cellOf(grid.width)), Math.floor((y - 34) / ROW)];
        return place[0] >= 0 && place[0] < T() && place[1] >= 0 && place[1] < rows() ? place : null;
      },
      show: (t, row) => {
        const l = rows() - 1 - row;
        const cell = cellOf(grid.width);
        layer(grid.svg, "frames").selectAll("rect").data([0]).join("rect").attr("class", "frame")
          .attr("x", LEFT + t * cell).attr("y", 34 + row * ROW).attr("width", cell - 1).attr("height", ROW - 1);
        const n = found.ids.shape[2];
        const best = d3.range(n).map((j) => `“${vocabulary.label(top(l, t, j)[0])}” ${percent(top(l, t, j)[1])}`).join(", ");
        const follows = t + 1 < T() ? ` What follows, “${vocabulary.label(found.tokens[t + 1])}”, is ${count(found.rank[at(l, t)] + 1)}. of the likeliest.` : "";
        return `${name(l)}, position ${t + found.unread}, after “${vocabulary.label(found.tokens[t])}”: ${best}.${follows}`;
      },
      choose: (t) => { page.set({ position: t }); grid.redraw(); path.redraw(); },
    },
  });

  const path = figure({
    name: "logit-lens-position", title: "One position, from the embedding to the output",
    describe: () => (found ? `The probability of the model's answer after “${vocabulary.label(found.tokens[position()])}” in each layer.` : "One position."),
    height: () => 280,
    draw: drawPath,
    csv: () => [["layer", "answer_probability", "entropy_bits"], ...d3.range(rows()).map((l) => [name(l), share(l), found.entropy[at(l, position())] * BITS])],
  });

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, prompt.element, colour.element),
    grid.element, path.element);

  async function load() {
    const result = await page.call("logit-lens", { prompt: state.prompt });
    if (!result) return;
    found = result;
    page.note(found.unread ? `The text is longer than the context: the model reads its last ${count(T())} tokens.` : "");
    letters = 1;
    for (let l = 0; l < rows(); l++) for (let t = 0; t < T(); t++) letters = Math.max(letters, Math.min(12, vocabulary.label(top(l, t)[0]).length));
    grid.redraw();
    path.redraw();
  }

  /** Return the number of a cell between 0 and 1, 1 for the strongest colour. */
  function level(l, t) {
    if (state.colour === "probability") return top(l, t)[1];
    const most = Math.log(page.model.config.vocab_size);
    const value = state.colour === "entropy" ? found.entropy[at(l, t)] : found.surprise[at(l, t)];
    return Number.isNaN(value) ? 0 : Math.max(0, 1 - value / most);
  }

  function drawGrid(svg, width) {
    if (!found) return;
    const cell = cellOf(grid.width);
    const cells = d3.cross(d3.range(rows()), d3.range(T()));
    const y = (l) => 34 + (rows() - 1 - l) * ROW;
    const fits = Math.floor((cell - 8) / 7.4);
    layer(svg, "heads").selectAll("text").data(d3.range(T())).join("text").attr("class", (t) => (t === position() ? "mono strong" : "mono"))
      .attr("x", (t) => LEFT + t * cell + cell / 2).attr("y", 24).attr("text-anchor", "middle").text((t) => clip(vocabulary.label(found.tokens[t]), fits));
    layer(svg, "names").selectAll("text").data(d3.range(rows())).join("text").attr("x", LEFT - 8).attr("y", (l) => y(l) + 19).attr("text-anchor", "end").text(name);
    layer(svg, "cells").selectAll("rect").data(cells).join("rect").attr("x", ([, t]) => LEFT + t * cell).attr("y", ([l]) => y(l))
      .attr("width", cell - 1).attr("height", ROW - 1).attr("fill", ([l, t]) => sequential(level(l, t)));
    layer(svg, "texts").selectAll("text").data(cells).join("text").attr("class", "cell").attr("x", ([, t]) => LEFT + t * cell + cell / 2 - 0.5).attr("y", ([l]) => y(l) + 19)
      .attr("text-anchor", "middle").attr("fill", ([l, t]) => inkOn(sequential(level(l, t))))
      .text(([l, t]) => clip(vocabulary.label(top(l, t)[0]), fits));
    const below = 34 + rows() * ROW + 12;
    layer(svg, "ramp").selectAll("rect").data(d3.range(60)).join("rect").attr("x", (i) => LEFT + 3 * i).attr("y", below).attr("width", 3.5).attr("height", 9).attr("fill", (i) => sequential(i / 59));
    const most = `${(Math.log2(page.model.config.vocab_size)).toFixed(1)} bits`;
    const ends = [state.colour === "probability" ? "0" : most, { probability: "100 % for the likeliest token", surprise: "0 bits of surprise at the token that follows", entropy: "0 bits of entropy" }[state.colour]];
    layer(svg, "ends").selectAll("text").data(ends).join("text").attr("x", (_, i) => LEFT + 180 * i).attr("y", below + 24).text((d) => d);
    svg.style("cursor", "pointer");
  }

  /** Return the probability of the output's likeliest token in a layer. */
  function share(l) {
    return found.answer[at(l, position())];
  }

  function drawPath(svg, width, tall) {
    if (!found) return;
    const t = position();
    const [answer] = top(rows() - 1, t);
    const x = d3.scalePoint(d3.range(rows()), [70, width - 40]);
    const y = d3.scaleLinear([0, 1], [tall - 56, 54]);
    axis(svg, "left", y, { x: 52, label: "probability", length: tall - 2, ticks: 4, format: (v) => `${100 * v} %` });
    layer(svg, "names").selectAll("text").data(d3.range(rows())).join("text").attr("x", x).attr("y", tall - 36).attr("text-anchor", "middle")
      .text((l) => (x.step() > 84 ? name(l) : l));
    layer(svg, "under").selectAll("text").data([x.step() > 84 ? "" : "blocks that the stream has passed"]).join("text").attr("x", width / 2).attr("y", tall - 14).attr("text-anchor", "middle").text((d) => d);
    layer(svg, "head").selectAll("text").data([`After “${vocabulary.label(found.tokens[t])}”: “${vocabulary.label(answer)}”, the answer, in each layer`])
      .join("text").attr("class", "strong").attr("y", 14).text((d) => d);
    layer(svg, "points-head").selectAll("text").data([0]).join("text").attr("y", 32).text("points: the token that each layer holds likeliest");
    layer(svg, "line").selectAll("path").data([`M${d3.range(rows()).map((l) => `${x(l).toFixed(1)},${y(share(l)).toFixed(1)}`).join("L")}`]).join("path").attr("class", "line forward").attr("d", (d) => d);
    layer(svg, "points").selectAll("circle").data(d3.range(rows())).join("circle").attr("class", (l) => (top(l, t)[0] === answer ? "forward" : "backward"))
      .attr("cx", x).attr("cy", (l) => y(top(l, t)[1])).attr("r", 5);
    layer(svg, "labels").selectAll("text").data(d3.range(rows())).join("text").attr("class", "mono").attr("x", x).attr("y", (l) => y(top(l, t)[1]) - 10)
      .attr("text-anchor", "middle").text((l) => clip(vocabulary.label(top(l, t)[0]), 10));
  }

  load();
  return (now) => {
    prompt.set(now.prompt);
    colour.set(now.colour);
    load();
  };
}

// View 3: where each position reads from, per layer and head.

import { clip, count, d3, figure, layer, percent, sequential } from "../chart.js";
import { chips } from "../chips.js";
import { select, textarea } from "../controls.js";
import { debounce, el } from "../dom.js";
import { picture } from "../pixels.js";

export const attention = {
  name: "attention",
  title: "Attention",
  sentence: "Each position reads from itself and those before it. A head's weights say how much of each, and sum to 1 in every row. Every head of every layer reads in its own way: choose one.",
  doc: "attention",
  defaults: { prompt: "The keeper of the lighthouse looked at the sea. The sea", layer: 0, head: 0, query: -1 },
  render,
};

function render(root, page) {
  const { state, vocabulary } = page;
  const { n_layer: L, n_head: H } = page.model.config;
  let found = null; // weights (T, T) of the head, and the tokens
  let small = null; // (L, H, S, S)
  let image = null; // the weights as the address of a picture, and what it was made of
  state.layer = Math.min(L - 1, Math.max(0, state.layer));
  state.head = Math.min(H - 1, Math.max(0, state.head));

  const T = () => found?.tokens.length ?? 0;
  const query = () => (state.query >= 0 && state.query < T() ? state.query : T() - 1);
  const weight = (q, k) => found.weights[q * T() + k];
  const label = (i) => vocabulary.label(found.tokens[i]);
  const number = (i) => i + found.unread; // of a position in the whole text

  const prompt = textarea({ label: "Text", value: state.prompt, onInput: debounce((value) => { page.set({ prompt: value, query: -1 }); load(); }, 400) });
  const range = (n) => d3.range(n).map((i) => [String(i), String(i)]);
  const layerBox = select({ label: "Layer", value: String(state.layer), choices: range(L), onInput: (value) => choose(Number(value), state.head) });
  const headBox = select({ label: "Head", value: String(state.head), choices: range(H), onInput: (value) => choose(state.layer, Number(value)) });

  const text = chips({ label: "The text: choose the token that reads", kind: "forward", onChoose: (i) => pick(i) });
  const says = el("p", { class: "scale" });

  const side = (width) => Math.min(width - 70, 560);
  const step = (width) => Math.max(1, Math.ceil((13 * T()) / side(width))); // positions between two names
  const names = (width) => (step(width) === 1 ? 66 : 36);
  const matrix = figure({
    name: "attention", title: "The weights of one head",
    describe: () => (found ? `Layer ${state.layer}, head ${state.head}: ${count(T())} by ${count(T())} weights; each row sums to 1.` : "Attention weights."),
    height: (width) => side(width) + 24 + names(width),
    draw: drawMatrix,
    csv: () => {
      const rows = [["reads", "reads_token", "from", "from_token", "weight"]];
      for (let q = 0; q < T(); q++) for (let k = 0; k <= q; k++) rows.push([number(q), label(q), number(k), label(k), weight(q, k)]);
      return rows;
    },
    cursor: {
      columns: T, rows: T,
      at: (x, y, width) => {
        const cell = side(width) / T();
        const place = [Math.floor((x - 64) / cell), Math.floor((y - 8) / cell)];
        return place.every((i) => i >= 0 && i < T()) && place[0] <= place[1] ? place : null;
      },
      show: (k, q) => {
        const from = Math.min(k, q);
        const cell = side(matrix.width) / T();
        layer(matrix.svg, "hover").selectAll("rect").data([[0, q, q + 1, 1], [from, q, 1, 1]]).join("rect").attr("class", (_, i) => (i ? "frame" : "hover"))
          .attr("x", (d) => 64 + d[0] * cell).attr("y", (d) => 8 + d[1] * cell).attr("width", (d) => d[2] * cell).attr("height", (d) => d[3] * cell);
        return `Position ${number(q)}, “${label(q)}”, reads ${percent(weight(q, from))} from position ${number(from)}, “${label(from)}”. Enter or a click shows all that it reads.`;
      },
      choose: (k, q) => { pick(q); text.select(q); },
    },
  });

  const grid = figure({
    name: "attention-heads", title: "Every head: a row for each layer, a column for each head",
    describe: `Small pictures of ${L} layers of ${H} heads. Arrow keys move, Enter chooses one.`,
    height: (width) => 26 + L * (cellOf(width) + 4),
    draw: drawGrid,
    csv: () => {
      const rows = [["layer", "head", "reads_tile", "from_tile", "largest_weight"]];
      const S = small.shape[2];
      for (let i = 0; i < small.length; i++) rows.push([Math.floor(i / (H * S * S)), Math.floor(i / (S * S)) % H, Math.floor(i / S) % S, i % S, small[i] / 255]);
      return rows;
    },
    cursor: {
      columns: () => H, rows: () => L,
      at: (x, y, width) => {
        const place = [Math.floor((x - 26) / (cellOf(width) + 4)), Math.floor((y - 22) / (cellOf(width) + 4))];
        return place[0] >= 0 && place[0] < H && place[1] >= 0 && place[1] < L ? place : null;
      },
      show: (h, l) => {
        frames(h, l);
        return `Layer ${l}, head ${h}. Enter or a click shows it.`;
      },
      choose: (h, l) => choose(l, h),
    },
  });

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, prompt.element, layerBox.element, headBox.element),
    el("section", { class: "figure" }, el("h3", {}, "What a token reads"), text.element, says),
    el("div", { class: "pair" }, grid.element, matrix.element));

  async function load() {
    await head();
    const result = await page.call("attention-overview", { prompt: state.prompt });
    if (!result) return;
    small = result.small;
    grid.redraw();
  }

  async function head() {
    const result = await page.call("attention", { prompt: state.prompt, layer: state.layer, head: state.head });
    if (!result) return;
    found = result;
    image = null;
    page.note(found.unread ? `The text is longer than the context: the model reads its last ${count(T())} tokens.` : "");
    matrix.redraw();
    grid.redraw();
    pick(query(), false);
    text.select(query());
  }

  function choose(l, h) {
    page.set({ layer: l, head: h });
    layerBox.set(String(l));
    headBox.set(String(h));
    head();
  }

  function pick(q, store = true) {
    if (!found) return;
    if (store) page.set({ query: q });
    const most = d3.max(d3.range(q + 1), (k) => weight(q, k));
    text.show(Array.from(found.tokens, (id, i) => ({
      label: label(i).replaceAll("␣", "\u00a0"), text: label(i).includes("⏎") ? "\n" : "",
      level: i <= q ? Math.sqrt(weight(q, i) / most) : null, given: i > q,
      title: i <= q ? `${percent(weight(q, i))} from “${label(i)}”` : "comes later: it is not read",
    })));
    const order = d3.range(q + 1).sort((a, b) => weight(q, b) - weight(q, a)).slice(0, 5);
    says.replaceChildren(`Position ${number(q)}, “${label(q)}”, reads ${order.map((k) => `${percent(weight(q, k))} from “${label(k)}” (${number(k)})`).join(", ")}${q + 1 > order.length ? ", and less from the others" : ""}.`);
    matrix.moveTo?.(order[0], q);
  }

  function drawMatrix(svg, width) {
    if (!found) return;
    const n = T();
    const size = side(width);
    const cell = size / n;
    image ??= picture(n, n, (q, k) => (k <= q ? Math.sqrt(weight(q, k)) : null), sequential);
    layer(svg, "image").selectAll("image").data([image]).join("image").attr("href", (d) => d)
      .attr("x", 64).attr("y", 8).attr("width", size).attr("height", size).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    layer(svg, "hover");
    const ticks = d3.range(0, n, step(width));
    const name = (i) => (step(width) === 1 ? clip(label(i), 8) : String(number(i)));
    layer(svg, "rows").selectAll("text").data(ticks).join("text").attr("class", "mono small").attr("x", 58).attr("y", (i) => 8 + (i + 0.5) * cell + 4)
      .attr("text-anchor", "end").text(name);
    layer(svg, "columns").selectAll("text").data(ticks).join("text").attr("class", "mono small")
      .attr("transform", (i) => `translate(${64 + (i + 0.5) * cell + 4},${size + 16}) rotate(-90)`).attr("text-anchor", "end").text(name);
    layer(svg, "legend").selectAll("rect").data(d3.range(40)).join("rect").attr("x", (i) => 64 + size - 150 + i * 3).attr("y", 18).attr("width", 3.5).attr("height", 8)
      .attr("fill", (i) => sequential(i / 39));
    layer(svg, "legend-text").selectAll("text").data([[64 + size - 150, "0"], [64 + size - 30, "100 %"], [64 + size - 90, "25"]]).join("text")
      .attr("x", (d) => d[0]).attr("y", 40).attr("text-anchor", "middle").text((d) => d[1]);
    layer(svg, "names").selectAll("text").data([["position that is read", 64 + size / 2, size + 18 + names(width), 0], ["position that reads", 10, 8 + size / 2, -90]]).join("text")
      .attr("transform", (d) => `translate(${d[1]},${d[2]}) rotate(${d[3]})`).attr("text-anchor", "middle").text((d) => d[0]);
  }

  function cellOf(width) {
    return Math.max(14, Math.min(Math.max(44, 500 / L), (width - 30) / H - 4));
  }

  function drawGrid(svg, width) {
    const cell = cellOf(width);
    const cells = d3.cross(d3.range(L), d3.range(H));
    layer(svg, "tops").selectAll("text").data(d3.range(H)).join("text").attr("x", (h) => 26 + h * (cell + 4) + cell / 2).attr("y", 14).attr("text-anchor", "middle").text((h) => h);
    layer(svg, "sides").selectAll("text").data(d3.range(L)).join("text").attr("x", 18).attr("y", (l) => 22 + l * (cell + 4) + cell / 2 + 4).attr("text-anchor", "end").text((l) => l);
    layer(svg, "cells").selectAll("image").data(small ? cells : []).join("image")
      .attr("href", ([l, h]) => smallPicture(l, h)).attr("x", ([, h]) => 26 + h * (cell + 4)).attr("y", ([l]) => 22 + l * (cell + 4))
      .attr("width", cell).attr("height", cell).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    svg.style("cursor", "pointer");
    frames(state.head, state.layer);
  }

  function frames(h, l) {
    const cell = cellOf(grid.width);
    layer(grid.svg, "frames").selectAll("rect").data([[state.head, state.layer], [h, l]]).join("rect").attr("class", "frame")
      .attr("x", (d) => 25 + d[0] * (cell + 4)).attr("y", (d) => 21 + d[1] * (cell + 4)).attr("width", cell + 2).attr("height", cell + 2);
  }

  const pictures = new Map();
  function smallPicture(l, h) {
    const S = small.shape[2];
    const key = `${l} ${h}`;
    const known = pictures.get(key);
    if (known?.of === small) return known.address;
    const start = (l * H + h) * S * S;
    const address = picture(S, S, (q, k) => (k <= q ? Math.sqrt(small[start + q * S + k] / 255) : null), sequential);
    pictures.set(key, { of: small, address });
    return address;
  }

  load();
  return (now) => {
    prompt.set(now.prompt);
    layerBox.set(String(now.layer));
    headBox.set(String(now.head));
    load();
  };
}

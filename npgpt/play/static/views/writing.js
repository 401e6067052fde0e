// View 2: a text grows token by token; each has alternatives, and a surprise.

import { axis, clip, count, d3, figure, layer, percent } from "../chart.js";
import { chips } from "../chips.js";
import { button, number, slider, textarea } from "../controls.js";
import { debounce, el } from "../dom.js";

const BITS = 1 / Math.LN2;
const MOST = 12; // bits of surprise with the strongest colour
const ROW = 26;

export const writing = {
  name: "writing",
  title: "Writing",
  sentence: "GPT-2 writes one token at a time. The colour is its surprise at each: none for the token that it expected, strong for one that it held unlikely. Choose a token to see its alternatives, and one of these to go another way.",
  doc: "writing",
  defaults: { prompt: "The lighthouse", written: "", chosen: 0, temperature: 0.8, top_k: 0, top_p: 1, seed: 123 },
  render,
};

function render(root, page) {
  const { state, vocabulary } = page;
  let prompt = []; // the tokens of the prompt
  let written = []; // the tokens after it, of which the first `state.chosen` were chosen by the reader
  let reading = null;
  let place = null; // the position whose alternatives are shown
  let busy = false;

  const ids = () => [...prompt, ...written];
  const T = () => prompt.length + written.length;
  const keep = () => page.set({ written: written.join(",") });

  /** Set another continuation. One that is being written ends. */
  function replace(tokens) {
    page.calls.get("write")?.abort();
    written = tokens;
    keep();
  }

  const text = chips({ label: "The text, token by token", kind: "backward", onChoose: (i) => { place = i; alternatives.redraw(); } });
  const promptBox = textarea({
    label: "Prompt", value: state.prompt,
    onInput: debounce((value) => { replace([]); page.set({ prompt: value, chosen: 0 }); encode(); }, 350),
  });
  const t = slider({
    label: "Temperature", value: state.temperature, text: (value) => (value ? String(value) : "0 (greedy)"),
    toValue: (x) => Math.round(x / 5) / 100, toPosition: (value) => 500 * value,
    onInput: (value) => page.set({ temperature: value }),
  });
  const p = slider({
    label: "Top-p", value: state.top_p, text: (value) => (value < 1 ? String(value) : "all"),
    toValue: (x) => Math.max(1, Math.round(x / 10)) / 100, toPosition: (value) => 1000 * value,
    onInput: (value) => page.set({ top_p: value }),
  });
  const k = number({ label: "Top-k (0: all)", value: state.top_k, min: 0, max: page.model.config.vocab_size, onInput: (value) => page.set({ top_k: value }) });
  const seed = number({ label: "Seed", value: state.seed, min: 0, max: Number.MAX_SAFE_INTEGER, onInput: (value) => page.set({ seed: value }) });
  const one = button({ label: "Write a token", onClick: () => write(1) });
  const many = button({ label: "Write 40", kind: "primary", onClick: () => write(40) });
  const back = button({ label: "Take one back", onClick: () => cut(T() - 1) });
  const again = button({ label: "Start again", onClick: () => cut(prompt.length) });

  const alternatives = figure({
    name: "alternatives", title: "The alternatives at the chosen token",
    describe: () => describePlace(),
    height: () => 30 + (reading ? reading.ids.shape[1] : 10) * ROW,
    draw: drawAlternatives,
    csv: () => {
      const [, n] = reading.ids.shape;
      const rows = [["position", "rank", "id", "token", "probability"]];
      for (let i = 0; i < reading.ids.shape[0]; i++) {
        for (let j = 0; j < n; j++) {
          const id = reading.ids[i * n + j];
          if (id >= 0) rows.push([i + reading.unread, j + 1, id, vocabulary.label(id), reading.probs[i * n + j]]);
        }
      }
      return rows;
    },
    cursor: {
      columns: () => 1,
      rows: () => (row() === null ? 0 : reading.ids.shape[1]),
      at: (x, y) => (y >= 30 ? [0, Math.floor((y - 30) / ROW)] : null),
      show: (column, j) => {
        layer(alternatives.svg, "hover").selectAll("rect").data([j]).join("rect").attr("class", "hover")
          .attr("y", 30 + j * ROW).attr("width", alternatives.width).attr("height", ROW);
        const [id, prob] = option(j);
        return `“${vocabulary.label(id)}”, token ${id}: ${percent(prob)}. Enter or a click writes it here, and drops what follows.`;
      },
      choose: (column, j) => choose(option(j)[0]),
    },
  });
  const surprise = figure({
    name: "surprise", title: "Surprise of each token",
    describe: () => (reading ? `Surprise of ${count(reading.tokens.length)} tokens in bits, mean ${mean(reading.surprise).toFixed(2)}, beside the surprise that the model expects.` : "Surprise of each token."),
    height: () => 30 + 10 * ROW,
    draw: drawSurprise,
    csv: () => [["position", "id", "token", "surprise_bits", "expected_bits", "rank"], ...Array.from(reading.tokens, (id, i) =>
      [i + reading.unread, id, vocabulary.label(id), reading.surprise[i] * BITS, reading.entropy[i] * BITS, reading.rank[i]])],
    cursor: {
      columns: () => reading?.tokens.length ?? 0,
      at: (x, y, width) => [Math.floor(((x - 52) / (width - 60)) * reading.tokens.length), 0],
      show: (i) => {
        const band = (surprise.width - 60) / reading.tokens.length;
        layer(surprise.svg, "hover").selectAll("rect").data([i]).join("rect").attr("class", "hover")
          .attr("x", 52 + i * band).attr("width", band).attr("y", 8).attr("height", 10 * ROW - 30);
        return describeToken(i);
      },
      choose: (i) => { place = i + reading.unread; text.select(place); alternatives.redraw(); },
    },
  });

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      promptBox.element, t.element, k.element, p.element, seed.element,
      el("div", { class: "buttons" }, many.element, one.element, back.element, again.element)),
    el("section", { class: "figure" }, el("h3", {}, "The text"), text.element,
      el("p", { class: "scale" }, "expected ", el("span", { class: "ramp backward" }), ` ${MOST} bits of surprise or more`)),
    el("div", { class: "pair" }, alternatives.element, surprise.element));

  async function encode() {
    const found = await page.call("encode", { prompt: state.prompt });
    if (!found) return;
    prompt = Array.from(found.tokens);
    place = null;
    await read();
  }

  async function read() {
    const found = await page.call("read", { tokens: ids() });
    if (!found) return;
    reading = found;
    page.note(found.unread ? `The text has ${count(T())} tokens. The model reads the last ${count(page.model.config.context_length)}; those before have no colour.` : "");
    showText();
    if (place === null || place > T()) place = T();
    alternatives.redraw();
    surprise.redraw();
  }

  function showText() {
    text.show(ids().map((id, i) => {
      const j = reading ? i - reading.unread : -1;
      const known = j >= 0 && j < (reading?.tokens.length ?? 0) && !Number.isNaN(reading.surprise[j]);
      return {
        label: shown(id), text: vocabulary.label(id).includes("⏎") ? "\n" : "",
        level: known ? (reading.surprise[j] * BITS) / MOST : null, given: i < prompt.length,
        title: known ? describeToken(j) : `token ${id}`,
      };
    }));
  }

  /** Return the text of a token in the running text: a space is a space. */
  function shown(id) {
    return vocabulary.label(id).replaceAll("␣", "\u00a0");
  }

  async function write(n) {
    if (busy || !prompt.length) return;
    busy = true;
    text.select(-1);
    const mine = written;
    const before = mine.length;
    try {
      await page.call("write", {
        tokens: ids(), count: n, temperature: state.temperature, top_k: state.top_k || null,
        top_p: state.top_p < 1 ? state.top_p : null, seed: state.seed, drawn: written.length - state.chosen,
      }, { onEvent: ({ token }) => { mine.push(token); if (written === mine) showText(); } });
    } finally {
      busy = false;
    }
    if (written !== mine || mine.length === before) return; // another one took its place
    keep();
    place = T();
    await read();
  }

  /** Write an alternative at the position that is shown, and drop what follows. */
  function choose(id) {
    const start = place - prompt.length;
    if (start < 0) return page.note("This token belongs to the prompt: edit the prompt above to change it.");
    replace([...written.slice(0, start), id]);
    page.set({ chosen: written.length });
    place = T();
    text.select(-1);
    return read();
  }

  function cut(length) {
    if (busy || length < prompt.length) return;
    replace(written.slice(0, length - prompt.length));
    page.set({ chosen: Math.min(state.chosen, written.length) });
    place = null;
    text.select(-1);
    read();
  }

  function row() {
    if (!reading) return null;
    const i = (place ?? T()) - reading.unread;
    return i > 0 && i < reading.ids.shape[0] ? i : null;
  }

  function option(j) {
    const n = reading.ids.shape[1];
    return [reading.ids[row() * n + j], reading.probs[row() * n + j]];
  }

  function describePlace() {
    if (row() === null) return "The first token: nothing comes before it, so that nothing predicts it.";
    const n = Math.min(3, reading.ids.shape[1]);
    return `The likeliest tokens here: ${d3.range(n).map((j) => `${vocabulary.label(option(j)[0])} ${percent(option(j)[1])}`).join(", ")}.`;
  }

  function describeToken(j) {
    const id = reading.tokens[j];
    const said = `“${vocabulary.label(id)}”, token ${id}`;
    if (Number.isNaN(reading.surprise[j])) return `${said}: the first that is read, which nothing predicts.`;
    return `${said}: surprise ${(reading.surprise[j] * BITS).toFixed(2)} bits (${percent(Math.exp(-reading.surprise[j]))}), ${count(reading.rank[j] + 1)}. of the likeliest; expected ${(reading.entropy[j] * BITS).toFixed(2)} bits.`;
  }

  function drawAlternatives(svg, width) {
    const here = row();
    const next = place === null || place === T();
    const actual = here === null || next ? null : reading.tokens[here];
    layer(svg, "head").selectAll("text").data([here === null ? "Nothing comes before the first token." : next ? "After the text:" : `In place of “${clip(vocabulary.label(actual), 20)}”:`])
      .join("text").attr("class", "strong").attr("y", 16).text((d) => d);
    const rows = here === null ? [] : d3.range(reading.ids.shape[1]);
    const letters = d3.max(rows, (j) => vocabulary.label(option(j)[0]).length) ?? 1;
    const labels = Math.min(width * 0.36, Math.max(60, 7.6 * Math.min(18, letters) + 16));
    const x = d3.scaleLinear([0, Math.max(0.1, here === null ? 1 : option(0)[1])], [0, width - labels - 70]);
    const y = (j) => 30 + j * ROW;
    layer(svg, "hover");
    layer(svg, "names").selectAll("text").data(rows).join("text").attr("class", (j) => (option(j)[0] === actual ? "mono strong" : "mono"))
      .attr("x", labels - 10).attr("y", (j) => y(j) + 17).attr("text-anchor", "end").text((j) => clip(vocabulary.label(option(j)[0]), 18));
    layer(svg, "bars").selectAll("rect").data(rows).join("rect").attr("class", (j) => (option(j)[0] === actual ? "backward" : "forward"))
      .attr("x", labels).attr("y", (j) => y(j) + 5).attr("height", ROW - 10).attr("width", (j) => Math.max(1, x(option(j)[1])));
    layer(svg, "values").selectAll("text").data(rows).join("text")
      .attr("x", (j) => labels + 8 + x(option(j)[1])).attr("y", (j) => y(j) + 17).text((j) => percent(option(j)[1]));
    svg.style("cursor", rows.length ? "pointer" : null);
  }

  function drawSurprise(svg, width, tall) {
    if (!reading) return;
    const n = reading.tokens.length;
    const bits = (v) => (Number.isNaN(v) ? 0 : Math.min(1e3, v * BITS));
    const most = Math.max(MOST, d3.max(reading.surprise, bits));
    const x = d3.scaleLinear([0, n], [52, width - 8]);
    const y = d3.scaleLinear([0, most], [tall - 52, 44]).nice(); // the legend is above
    axis(svg, "left", y, { x: 52, label: "bits", length: tall - 8, ticks: 4 });
    axis(svg, "bottom", d3.scaleLinear([reading.unread, reading.unread + n], x.range()), { y: tall - 52, label: "position", length: width + 44, ticks: Math.min(n, 8), format: "d" });
    layer(svg, "hover");
    layer(svg, "bars").selectAll("rect").data(d3.range(n)).join("rect").attr("class", "backward")
      .attr("x", (i) => x(i) + Math.min(1, (x(1) - x(0)) / 8)).attr("width", Math.max(0.5, (x(1) - x(0)) * 0.8))
      .attr("y", (i) => y(bits(reading.surprise[i]))).attr("height", (i) => y(0) - y(bits(reading.surprise[i])));
    const line = d3.range(n).filter((i) => !Number.isNaN(reading.entropy[i])).map((i) => `${x(i + 0.5).toFixed(1)},${y(bits(reading.entropy[i])).toFixed(1)}`);
    layer(svg, "expected").selectAll("path").data([line.length ? `M${line.join("L")}` : ""]).join("path").attr("class", "line forward").attr("d", (d) => d);
    layer(svg, "legend").selectAll("text").data([["backward", "surprise"], ["forward", "expected surprise (entropy)"]]).join("text")
      .attr("class", (d) => d[0]).attr("x", width - 8).attr("y", (_, i) => 18 + 16 * i).attr("text-anchor", "end").text((d) => d[1]);
  }

  function parse() {
    return state.written.split(",").map(Number).filter((id) => Number.isInteger(id) && id >= 0 && id < page.model.config.vocab_size && state.written !== "");
  }

  written = parse();
  encode();
  return (now) => {
    promptBox.set(now.prompt);
    t.set(now.temperature);
    k.set(now.top_k);
    p.set(now.top_p);
    seed.set(now.seed);
    if (now.written !== written.join(",")) replace(parse());
    encode();
  };
}

function mean(values) {
  const known = Array.from(values).filter((v) => !Number.isNaN(v));
  return known.length ? (known.reduce((a, b) => a + b, 0) / known.length) * BITS : 0;
}

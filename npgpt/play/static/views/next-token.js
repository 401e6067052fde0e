// View 1: the distribution of the next token, before and after each filter.

import { axis, clip, count, d3, figure, layer, percent } from "../chart.js";
import { number, segmented, slider, textarea } from "../controls.js";
import { debounce, el, fill } from "../dom.js";
import { Distribution } from "../sampling.js";
import { Vocabulary } from "../tokens.js";

const ROWS = 20;
const DRAWS = 1000;
const ROW = 22; // pixels
const HEAD = 62;

export const nextToken = {
  name: "next-token",
  title: "Next token",
  sentence: "After a text, GPT-2 gives every token of its vocabulary a score. Softmax makes probabilities of the scores, top-k, temperature and top-p change them, and one token is drawn.",
  doc: "next-token",
  defaults: { source: "model", prompt: "The lighthouse", temperature: 1, top_k: 0, top_p: 1, seed: 123 },
  render,
};

function render(root, page) {
  const { state } = page;
  let distribution = null; // of the prompt
  let words = page.vocabulary; // the texts of its tokens
  let stages = []; // of the settings
  let drawn = null; // how often each token was drawn: Map of id to count, and `first`
  let points = []; // ranks that the second picture shows

  const settings = () => ({
    temperature: state.temperature,
    topK: state.top_k || null,
    topP: state.top_p < 1 ? state.top_p : null,
  });
  const request = () => ({
    source: state.source, prompt: state.prompt, temperature: state.temperature,
    top_k: state.top_k || null, top_p: state.top_p < 1 ? state.top_p : null,
  });

  const load = async () => {
    const found = await page.call("next-token", { source: state.source, prompt: state.prompt });
    if (!found) return;
    words = found.words ? Vocabulary.ofWords(found.words) : page.vocabulary;
    distribution = new Distribution(found.logits);
    points = ranks(distribution.size);
    drawn = null;
    page.note(found.unread ? `The prompt has ${count(found.unread + found.tokens.length)} tokens. The model reads the last ${count(page.model.config.context_length)} of them.` : "");
    k.set(state.top_k);
    redraw();
    draw();
  };
  const draw = async () => {
    const found = await page.call("draws", { ...request(), seed: state.seed, count: DRAWS });
    if (!found) return;
    const times = new Map();
    for (const id of found.drawn) times.set(id, (times.get(id) ?? 0) + 1);
    drawn = { times, first: found.drawn[0] };
    redraw();
  };
  const drawSoon = debounce(draw, 250);
  const loadSoon = debounce(load, 350);

  /** A setting has changed: draw at once, and draw tokens when it rests. */
  const change = (changes) => {
    page.set(changes);
    if (!distribution) return;
    drawn = null;
    redraw();
    drawSoon();
  };

  const V = () => distribution?.size ?? page.model.config.vocab_size;
  const source = segmented({
    label: "Logits of", value: state.source, choices: [["model", "the model"], ["book", "the book's nine words"]],
    onInput: (value) => { page.set({ source: value }); prompt.element.hidden = value === "book"; load(); },
  });
  const prompt = textarea({
    label: "Prompt", value: state.prompt, onInput: (value) => { page.set({ prompt: value }); loadSoon(); },
  });
  prompt.element.hidden = state.source === "book";
  const t = slider({
    label: "Temperature", hint: "Divides the logits. 0 always takes the likeliest token.",
    value: state.temperature, text: (value) => (value === 0 ? "0 (greedy)" : String(value)),
    toValue: (x) => Number((10 * (x / 1000) ** 2).toFixed(x < 500 ? 3 : 2)),
    toPosition: (value) => 1000 * Math.sqrt(value / 10), onInput: (value) => change({ temperature: value }),
  });
  const k = slider({
    label: "Top-k", hint: "Keeps the k likeliest tokens.", value: state.top_k,
    text: (value) => (value ? count(value) : "all"),
    toValue: (x) => (x === 1000 ? 0 : Math.max(1, Math.round(V() ** (x / 1000)))),
    toPosition: (value) => (value ? Math.min(999, 1000 * (Math.log(value) / Math.log(V()))) : 1000),
    onInput: (value) => change({ top_k: value }),
  });
  const p = slider({
    label: "Top-p", hint: "Keeps the likeliest tokens that together have this probability.", value: state.top_p,
    text: (value) => (value < 1 ? String(value) : "all"), toValue: (x) => Math.max(1, x) / 1000,
    toPosition: (value) => 1000 * value, onInput: (value) => change({ top_p: value }),
  });
  const seed = number({
    label: "Seed", hint: "The same seed draws the same tokens.", value: state.seed, min: 0,
    max: Number.MAX_SAFE_INTEGER, onInput: (value) => change({ seed: value }),
  });

  const bars = figure({
    name: "next-token", title: "Before and after each filter, in their order",
    describe: () => (stages.length
      ? `The likeliest tokens after each stage. After all: ${top(5).map(({ label, final }) => `${label} ${percent(final)}`).join(", ")}.`
      : "The likeliest tokens after each stage."),
    height: () => HEAD + (Math.min(ROWS, V()) + (V() > ROWS ? 1 : 0)) * ROW + 6,
    draw: drawBars,
    csv: () => {
      const head = ["id", "token", "logit", "softmax", "top_k", "temperature", "top_p", "draws"];
      return [head, ...Array.from(distribution.order, (id, i) =>
        [id, words.label(id), distribution.logits[id], ...stages.map((s) => s.probs[i]), drawn?.times.get(id) ?? 0])];
    },
    cursor: {
      columns: () => 1,
      rows: () => Math.min(ROWS, V()),
      at: (x, y) => {
        const row = Math.floor((y - HEAD) / ROW);
        return row >= 0 && row < Math.min(ROWS, V()) ? [0, row] : null;
      },
      show: (column, row) => {
        if (!stages.length) return "";
        layer(bars.svg, "hover").selectAll("rect").data([row]).join("rect").attr("class", "hover")
          .attr("y", HEAD + row * ROW).attr("width", bars.width).attr("height", ROW);
        return describeRank(row);
      },
    },
  });

  const curve = figure({
    name: "vocabulary", title: "The whole vocabulary, by rank",
    describe: () => (stages.length ? `Probability by rank, both on logarithmic axes: ${count(stages[3].count)} of ${count(V())} tokens are left.` : "Probability by rank."),
    height: (width) => (width < 500 ? 250 : 300),
    draw: drawCurve,
    csv: () => [["rank", "id", "token", "softmax", "after_all_filters"], ...Array.from(distribution.order, (id, i) =>
      [i + 1, id, words.label(id), stages[0].probs[i], stages[3].probs[i]])],
    cursor: {
      columns: () => points.length,
      at: (x, y, width) => {
        const rank = scales(width, 300).x.invert(x) - 1;
        if (rank < -0.5) return null;
        const i = d3.bisectCenter(points, rank);
        return [Math.max(0, i), 0];
      },
      show: (column) => {
        if (!stages.length) return "";
        const { x } = scales(curve.width, 300);
        const at = x(points[column] + 1);
        layer(curve.svg, "mark").selectAll("line").data([at]).join("line").attr("class", "cursor")
          .attr("x1", at).attr("x2", at).attr("y1", 14).attr("y2", curve.height - 46);
        return describeRank(points[column]);
      },
    },
  });
  const command = el("p", { class: "command" });

  root.append(
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      source.element, t.element, k.element, p.element, seed.element, prompt.element),
    bars.element, curve.element, el("div", { class: "figure" }, command));

  function redraw() {
    if (!distribution) return;
    stages = distribution.stages(settings());
    bars.redraw();
    curve.redraw();
    bars.refresh();
    curve.refresh();
    showCommand();
  }

  function top(n) {
    return Array.from({ length: Math.min(n, V()) }, (_, i) => ({ label: words.label(distribution.order[i]), final: stages[3].probs[i] }));
  }

  function describeRank(i) {
    const id = distribution.order[i];
    const after = stages.map((s) => `${s.name} ${percent(s.probs[i])}`).join(", ");
    const times = drawn ? `; drawn ${count(drawn.times.get(id) ?? 0)} of ${count(DRAWS)} times` : "";
    return `Rank ${count(i + 1)} of ${count(V())}: “${words.label(id)}”, token ${id}: ${after}${times}.`;
  }

  function drawBars(svg, width) {
    if (!stages.length) return;
    const shown = Math.min(ROWS, V());
    const letters = d3.max(d3.range(shown), (i) => words.label(distribution.order[i]).length);
    const labels = Math.min(width < 560 ? 74 : 150, Math.max(70, 7.6 * letters + 14));
    const gap = width < 560 ? 6 : 18;
    const panel = (width - labels - 4 * gap) / 5;
    const roomy = panel > 100;
    const total = ({ probs, count: left }) => { // of the tokens that have no row
      let sum = left > shown ? 1 : 0;
      for (let i = 0; i < shown; i++) sum -= probs[i];
      return Math.max(0, sum);
    };
    const titles = roomy
      ? ["softmax", state.top_k ? `top-k ${count(state.top_k)}` : "top-k: all", state.temperature ? `÷ temperature ${state.temperature}` : "temperature 0", state.top_p < 1 ? `top-p ${state.top_p}` : "top-p: all", `${count(DRAWS)} draws`]
      : ["softmax", "top-k", "÷ T", "top-p", "draws"];
    const columns = stages.map((s, j) => ({
      title: titles[j],
      lines: roomy ? [`${count(s.count)} ${s.count === 1 ? "token" : "tokens"}`, `${s.entropy.toFixed(2)} bits`] : [count(s.count), s.entropy.toFixed(2)],
      value: (i) => (i < shown ? s.probs[i] : total(s)), before: j ? stages[j - 1] : null,
    }));
    const share = (i) => (drawn ? (drawn.times.get(distribution.order[i]) ?? 0) / DRAWS : 0);
    columns.push({
      title: titles[4],
      lines: roomy ? [drawn ? `${count(drawn.times.size)} different` : "…", `seed ${state.seed}`] : [drawn ? count(drawn.times.size) : "…", ""],
      value: (i) => {
        if (i < shown) return share(i);
        let sum = drawn ? 1 : 0;
        for (let j = 0; j < shown; j++) sum -= share(j);
        return Math.max(0, sum);
      },
      before: stages[3], draws: true,
    });
    let most = 0.02;
    for (const column of columns) for (let i = 0; i < shown; i++) most = Math.max(most, column.value(i));
    const room = roomy ? 52 : 0; // for the number behind a bar
    const x = d3.scaleLinear([0, most], [0, panel - room]);
    const rows = d3.range(V() > ROWS ? shown + 1 : shown);
    const y = (i) => HEAD + i * ROW;

    layer(svg, "hover");
    layer(svg, "names").selectAll("text").data(rows).join("text")
      .attr("x", labels - 10).attr("y", (i) => y(i) + 15).attr("text-anchor", "end")
      .attr("class", (i) => (i < shown ? "mono" : "muted"))
      .text((i) => (i < shown ? clip(words.label(distribution.order[i]), labels < 100 ? 8 : 17) : labels < 100 ? "others" : `${count(V() - shown)} others`));
    layer(svg, "sides").selectAll("text").data(roomy ? [] : ["tokens", "bits"]).join("text")
      .attr("x", labels - 10).attr("y", (_, i) => 31 + 16 * i).attr("text-anchor", "end").text((d) => d);
    svg.classed("tight", !roomy);
    const groups = layer(svg, "columns").selectAll("g.column").data(columns).join("g").attr("class", "column")
      .attr("transform", (_, j) => `translate(${labels + j * (panel + gap)},0)`);
    groups.selectAll("text.title").data((c) => [c.title]).join("text").attr("class", "title strong").attr("y", 14).text((d) => d);
    groups.selectAll("text.sub").data((c) => c.lines).join("text").attr("class", "sub").attr("y", (_, i) => 31 + 16 * i).text((d) => d);
    groups.selectAll("line.rule").data([0]).join("line").attr("class", "rule").attr("y1", HEAD - 3).attr("y2", y(rows.length));
    groups.each(function each(column) {
      const group = d3.select(this);
      group.selectAll("rect.bar").data(rows).join("rect")
        .attr("class", (i) => `bar ${i === shown ? "soft" : column.draws ? "backward" : "forward"}`)
        .attr("y", (i) => y(i) + 4).attr("height", ROW - 8)
        .attr("width", (i) => Math.min(panel - room, column.value(i) > 0 ? Math.max(0.5, x(column.value(i))) : 0));
      group.selectAll("line.ghost").data(column.before ? rows.filter((i) => i < shown && column.before.probs[i] > 0) : []).join("line")
        .attr("class", "ghost").attr("x1", (i) => x(column.before.probs[i])).attr("x2", (i) => x(column.before.probs[i]))
        .attr("y1", (i) => y(i) + 2).attr("y2", (i) => y(i) + ROW - 2);
      group.selectAll("text.value").data(roomy ? rows : []).join("text").attr("class", "value")
        .attr("x", (i) => 5 + Math.min(panel - room, Math.max(x(column.value(i)), column.before && i < shown ? Math.min(x(column.before.probs[i]), panel - room) : 0)))
        .attr("y", (i) => y(i) + 15)
        .text((i) => (column.draws ? (drawn ? count(Math.round(column.value(i) * DRAWS)) : "") : column.value(i) > 0 ? percent(column.value(i)) : "–"));
    });
  }

  function scales(width) {
    const tall = width < 500 ? 250 : 300;
    const left = 58;
    const probs = stages.length ? stages[0].probs : [1];
    const least = Math.max(1e-12, probs[stages.length ? stages[0].count - 1 : 0]);
    return {
      x: d3.scaleLog([1, V()], [left, width - 12]),
      y: d3.scaleLog([10 ** Math.floor(Math.log10(least)), 1], [tall - 46, 14]),
      left, tall,
    };
  }

  function drawCurve(svg, width, tall) {
    if (!stages.length) return;
    curve.height = tall;
    const { x, y, left } = scales(width);
    const [bottom] = y.domain();
    const base = y(bottom);
    const trace = (probs) => {
      const found = [];
      for (const i of points) {
        if (probs[i] < bottom) break;
        found.push(`${x(i + 1).toFixed(1)},${y(Math.min(1, probs[i])).toFixed(1)}`);
      }
      return found;
    };
    const after = trace(stages[3].probs);
    const end = after.length ? after[after.length - 1].split(",")[0] : left;
    axis(svg, "bottom", x, { y: base, label: "rank of the token", length: left + width, ticks: width < 500 ? 4 : 6, format: "~s" });
    const tens = Math.round(Math.log10(bottom)); // the exponent at the bottom
    const values = d3.range(0, tens - 0.5, -Math.ceil(-tens / 6)).map((exponent) => 10 ** exponent);
    axis(svg, "left", y, { x: left, label: "probability", length: tall - 30, values, format: (v) => (v > 0.005 ? `${Math.round(100 * v)} %` : v.toExponential(0)) });
    layer(svg, "shapes").selectAll("path").data([
      ["area soft", after.length ? `M${left},${base}L${after.join("L")}L${end},${base}Z` : ""],
      ["line before", `M${trace(stages[0].probs).join("L")}`],
      ["line forward", after.length > 1 ? `M${after.join("L")}${stages[3].count < V() ? `L${end},${base}` : ""}` : after.length ? `M${after[0]}L${end},${base}` : ""],
    ]).join("path").attr("class", (d) => d[0]).attr("d", (d) => d[1]);
    const cuts = [];
    if (state.top_k && state.top_k < V()) cuts.push([stages[1].count, `top-k keeps ${count(stages[1].count)}`]);
    if (state.top_p < 1 && state.temperature) cuts.push([stages[3].count, `top-p keeps ${count(stages[3].count)}`]);
    const place = (rank) => Math.min(width - 12, x(rank + 0.5));
    layer(svg, "cuts").selectAll("line").data(cuts).join("line").attr("class", "ghost")
      .attr("x1", ([rank]) => place(rank)).attr("x2", ([rank]) => place(rank)).attr("y1", 14).attr("y2", base);
    layer(svg, "cut-names").selectAll("text").data(cuts).join("text").attr("y", (_, i) => base - 10 - 16 * i)
      .attr("x", ([rank]) => place(rank) + (place(rank) > width - 130 ? -6 : 6))
      .attr("text-anchor", ([rank]) => (place(rank) > width - 130 ? "end" : "start")).text(([, text]) => text);
    layer(svg, "legend").selectAll("text").data([["muted", "– –  softmax of the logits"], ["forward", "—  after all filters"]]).join("text")
      .attr("class", ([kind]) => kind).attr("x", width - 12).attr("y", (_, i) => 24 + 16 * i).attr("text-anchor", "end").text(([, text]) => text);
    layer(svg, "mark");
  }

  function showCommand() {
    if (state.source === "book") {
      fill(command, "The logits of chapter 5 of Build a Large Language Model (from Scratch), drawn with PyTorch's random stream: with temperature 1 and seed 123, the counts are the book's.");
      return;
    }
    const flags = [`--model ${quote(page.model.name)}`, `--prompt ${quote(state.prompt)}`, `--temperature ${state.temperature}`];
    if (state.top_k) flags.push(`--top-k ${state.top_k}`);
    if (state.top_p < 1) flags.push(`--top-p ${state.top_p}`);
    flags.push(`--seed ${state.seed}`);
    fill(command,
      drawn ? ["The first draw is ", el("span", { class: "token" }, words.label(drawn.first)), ", the token with which this command begins:"] : "The first draw is the token with which this command begins:",
      el("code", {}, `npgpt generate ${flags.join(" ")}`));
  }

  load();
  return (now) => {
    source.set(now.source);
    prompt.set(now.prompt);
    prompt.element.hidden = now.source === "book";
    t.set(now.temperature);
    k.set(now.top_k);
    p.set(now.top_p);
    seed.set(now.seed);
    load();
  };
}

/** Return the ranks to draw: all of the first ones, then evenly spaced on a logarithmic axis. */
function ranks(V) {
  const found = [];
  for (let i = 0; i < V; i = Math.max(i + 1, Math.floor((i + 1) * 1.025) - 1)) found.push(i);
  if (found[found.length - 1] !== V - 1) found.push(V - 1);
  return found;
}

/** Return a word for a POSIX shell. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

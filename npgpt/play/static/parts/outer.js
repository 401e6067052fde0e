// One matrix's gradient as the sum over tokens of outer(x, dy). A part of view 5.

import { count, d3, diverging, figure, layer } from "../chart.js";
import { short } from "../code.js";
import { button, select } from "../controls.js";
import { el, fill } from "../dom.js";
import { picture } from "../pixels.js";

const BARS = 120; // height of the shares
const article = (noun) => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;

/** Return {element, load, destroy}. `found()`: the answer of view 5. */
export function outerSum(page, found) {
  const { state, vocabulary } = page;
  let parts = null; // x (N, I), dy (N, O), gradient (I, O), shares (N,); N = T, or 2 T: both uses of a tied matrix
  let timer = null;
  const T = () => (parts ? parts.shares.length / parts.parts.length : 0);
  const products = (t) => parts.parts.map((_, k) => k * T() + t); // of a token
  const share = (t) => d3.sum(products(t), (n) => parts.shares[n]);
  const last = () => (state.token >= 0 && state.token < T() ? state.token : T() - 1);

  const matrix = select({ broad: true, label: "Matrix", value: state.matrix, choices: [[state.matrix, state.matrix]], onInput: (value) => { page.set({ matrix: value }); load(); } });
  const play = button({ label: "Add the tokens up", onClick: () => (timer ? stop() : start()) });
  const says = el("p", { class: "scale" });
  const sum = figure({
    name: "outer", title: "One matrix's gradient, token by token",
    describe: () => (parts ? `The gradient of ${state.matrix} is the sum over ${count(T())} tokens of ${formula()}. Shown: ${last() + 1} tokens added.` : "A gradient as a sum over tokens."),
    height: (width) => BARS + 74 + side(width) * (narrow(width) ? 3 : 1) + (narrow(width) ? 54 : 4),
    draw,
    csv: () => [["position", "token", "share", ...(parts.parts.length > 1 ? parts.parts : [])], ...d3.range(T()).map((t) => [
      t + found().unread, label(t), share(t), ...(parts.parts.length > 1 ? products(t).map((n) => parts.shares[n]) : [])])],
    cursor: {
      columns: T,
      at: (x, y, width) => (y < BARS + 40 && x > 52 ? [Math.floor(((x - 52) / (width - 60)) * T()), 0] : null),
      show: (t) => {
        const band = (sum.width - 60) / T();
        layer(sum.svg, "hover").selectAll("rect").data([t]).join("rect").attr("class", "hover").attr("x", 52 + t * band).attr("width", band).attr("y", 8).attr("height", BARS);
        if (document.activeElement === sum.svg.node() && !timer) choose(t);
        return `Position ${t + found().unread}, “${label(t)}”: ${shareOf(t)} in the gradient. Enter or a click adds the tokens up to it.`;
      },
      choose: (t) => { stop(); choose(t); },
    },
  });
  const element = el("div", {},
    el("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, matrix.element, el("div", { class: "buttons" }, play.element)),
    sum.element);
  sum.element.append(says);

  const formula = () => parts.parts.join(" + ");
  const inPercent = (value) => `${(100 * value).toFixed(2)} %`;
  function shareOf(t) {
    if (parts.parts.length === 1) return `its outer product has a share of ${inPercent(share(t))}`;
    return `its outer products have a share of ${inPercent(share(t))}, ${parts.parts.map((name, k) => `${inPercent(parts.shares[products(t)[k]])} by ${name}`).join(" and ")}`;
  }

  const narrow = (width) => width < 560;
  const side = (width) => (narrow(width) ? width * 0.5 : ((width - 40) / 3) * 0.55);
  const label = (t) => vocabulary.label(found().tokens[t]);

  async function load() {
    stop();
    const names = found().matrices;
    if (!names.includes(state.matrix)) page.set({ matrix: names[0] });
    fill(matrix.input, names.map((name) => el("option", { value: name }, name)));
    matrix.set(state.matrix);
    const result = await page.call("backward-outer", { prompt: state.prompt, parameter: state.matrix });
    if (!result) return;
    parts = result;
    parts.reach = d3.quantile(Array.from(parts.gradient, Math.abs), 0.995) || 1;
    sum.redraw();
    tell();
  }

  function choose(t, store = true) {
    state.token = t;
    if (store) page.set({ token: t });
    sum.redraw();
    tell();
  }

  function start() {
    if (!parts) return;
    fill(play.element, "Pause");
    state.token = last() === T() - 1 ? -1 : state.token;
    let t = state.token;
    const tick = () => {
      t += 1;
      choose(t, false);
      if (t >= T() - 1) return stop();
      timer = setTimeout(tick, Math.max(40, Math.min(400, 6000 / T())));
    };
    tick();
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
    fill(play.element, "Add the tokens up");
  }

  function tell() {
    const { rows, columns, error, axes } = parts;
    const tied = parts.parts.length > 1 ? " The matrix is used twice, as the output head and as the embedding: its gradient is the sum of both." : "";
    fill(says, `${state.matrix}, ${count(rows)} by ${count(columns)}: the sum over tokens of ${formula()}.${tied} The sum of all outer products and the gradient that backward wrote differ by ${error.toExponential(1)} of its length. A row is ${article(axes[0])}, a column ${article(axes[1])}, both in means of blocks; colours from ${short(-parts.reach)} (orange) to ${short(parts.reach)} (violet).`);
  }

  function draw(svg, width) {
    if (!parts) return;
    const n = T();
    const now = last();
    const shares = d3.range(n).map(share);
    const x = d3.scaleLinear([0, n], [52, width - 8]);
    const y = d3.scaleLinear([Math.min(0, d3.min(shares)), d3.max(shares)], [BARS, 10]).nice();
    const group = layer(svg, "axis-left").attr("transform", "translate(52,0)").call(d3.axisLeft(y).ticks(4, "%").tickSizeOuter(0));
    group.selectAll("text.axis-label").data(["share of the gradient"]).join("text").attr("class", "axis-label").attr("fill", "currentColor").attr("transform", "rotate(-90)").attr("text-anchor", "middle").attr("x", -BARS / 2 - 4).attr("y", -40).text((d) => d);
    layer(svg, "hover");
    const band = x(1) - x(0);
    layer(svg, "bars").selectAll("rect").data(d3.range(n)).join("rect").attr("class", (t) => (t === now ? "backward" : t < now ? "forward" : "soft"))
      .attr("x", (t) => x(t) + band * 0.1).attr("width", band * 0.8).attr("y", (t) => Math.min(y(0), y(shares[t]))).attr("height", (t) => Math.abs(y(shares[t]) - y(0)));
    const step = band >= 8 ? 1 : Math.ceil(26 / band);
    layer(svg, "tokens").selectAll("text").data(d3.range(0, n, step)).join("text").attr("class", "mono tiny").attr("x", (t) => x(t + 0.5)).attr("y", BARS + 16).attr("text-anchor", "middle")
      .text((t) => (band / step > 5 && step === 1 ? label(t).slice(0, Math.max(1, Math.floor(band / 7))) : step > 1 ? t + found().unread : ""));
    const [I, O] = parts.gradient.shape;
    const [added, own] = [new Float64Array(I * O), new Float64Array(I * O)]; // own: of the last token
    for (let t = 0; t <= now; t++) for (const n of products(t)) for (let i = 0; i < I; i++) {
      const value = parts.x[n * I + i];
      for (let j = 0; j < O; j++) {
        const product = value * parts.dy[n * O + j];
        added[i * O + j] += product;
        if (t === now) own[i * O + j] += product;
      }
    }
    const color = (value) => 0.5 + value / (2 * parts.reach);
    const all = [
      [`${parts.parts.length > 1 ? "both products" : parts.parts[0]} of “${label(now)}”`, (i, j) => color(own[i * O + j])],
      [`sum of the first ${now + 1}`, (i, j) => color(added[i * O + j])],
      [`the gradient: sum of all ${n}`, (i, j) => color(parts.gradient[i * O + j])],
    ];
    const wide = narrow(width) ? width - 8 : (width - 40) / 3;
    const place = (k) => (narrow(width) ? [0, BARS + 66 + k * (side(width) + 26)] : [k * (wide + 16), BARS + 66]);
    layer(svg, "pictures").selectAll("image").data(all).join("image").attr("href", ([, value]) => picture(I, O, value, diverging))
      .attr("x", (_, k) => place(k)[0]).attr("y", (_, k) => place(k)[1]).attr("width", wide).attr("height", side(width)).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    layer(svg, "titles").selectAll("text").data(all).join("text").attr("class", "strong").attr("x", (_, k) => place(k)[0]).attr("y", (_, k) => place(k)[1] - 8).text((d) => d[0]);
  }

  return { element, load, destroy: stop };
}

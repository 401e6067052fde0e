// The gradient that arrives at a step, number by number: tokens by channels. A part of view 5.

import { count, d3, diverging, figure, layer } from "../chart.js";
import { short } from "../code.js";
import { debounce } from "../dom.js";
import { picture } from "../pixels.js";

const LEFT = 52;
const TOP = 10;

/** Return {element, load(step)}: it loads once the steps stand still. `found()`: the answer of view 5. */
export function gradientNumbers(page, found) {
  let values = null; // (T, channels or means of some)
  let channels = 0;
  let name = "";
  const T = () => values?.shape[0] ?? 0;
  const C = () => values?.shape[1] ?? 0;
  const tall = () => Math.max(150, Math.min(420, 9 * T()));
  const map = figure({
    name: "gradient-numbers", title: "The gradient that arrives at this step, number by number",
    describe: () => (values ? `d(loss)/d(${name}): ${count(T())} tokens by ${count(channels)} channels.` : "The gradient that arrives at this step."),
    height: () => TOP + tall() + 64,
    draw,
    csv: () => [["position", "token", "channel", "gradient"], ...d3.cross(d3.range(T()), d3.range(C())).map(([t, c]) => [t + found().unread, page.vocabulary.label(found().tokens[t]), first(c), values[t * C() + c]])],
    cursor: {
      columns: C, rows: T,
      at: (x, y, width) => {
        const place = [Math.floor(((x - LEFT) / (width - LEFT - 12)) * C()), Math.floor(((y - TOP) / tall()) * T())];
        return place[0] >= 0 && place[0] < C() && place[1] >= 0 && place[1] < T() ? place : null;
      },
      show: (c, t) => {
        const [w, h] = [(map.width - LEFT - 12) / C(), tall() / T()];
        layer(map.svg, "hover").selectAll("rect").data([0]).join("rect").attr("class", "frame").attr("x", LEFT + c * w - 1).attr("y", TOP + t * h - 1).attr("width", w + 2).attr("height", h + 2);
        const what = channels > C() ? `mean of channels ${first(c)} to ${first(c + 1) - 1}` : `channel ${c}`;
        return `${name} at position ${t + found().unread}, “${page.vocabulary.label(found().tokens[t])}”, ${what}: ${short(values[t * C() + c])}.`;
      },
    },
  });
  const first = (c) => Math.floor((c * channels) / C());

  const load = debounce(async (step) => {
    const result = await page.call("backward-numbers", { prompt: page.state.prompt, step });
    if (!result) return;
    ({ values, channels } = result);
    const one = found().steps[step];
    name = one.op === "linear_cross_entropy" ? "ln_f" : one.name;
    map.redraw();
  }, 250);

  function draw(svg, width) {
    if (!values) return;
    const wide = width - LEFT - 12;
    const reach = d3.quantile(Array.from(values, Math.abs), 0.99) || d3.max(values, Math.abs) || 1;
    layer(svg, "image").selectAll("image").data([picture(T(), C(), (t, c) => 0.5 + values[t * C() + c] / (2 * reach), diverging)]).join("image").attr("href", (d) => d)
      .attr("x", LEFT).attr("y", TOP).attr("width", wide).attr("height", tall()).attr("preserveAspectRatio", "none").style("image-rendering", "pixelated");
    layer(svg, "hover").selectAll("rect").remove();
    const below = TOP + tall();
    const x = d3.scaleLinear([0, channels], [LEFT, LEFT + wide]);
    const y = d3.scaleLinear([found().unread, found().unread + T()], [TOP, below]);
    const axes = [["bottom", d3.axisBottom(x), `translate(0,${below})`, "channel", LEFT + wide / 2, 34, 0], ["left", d3.axisLeft(y), `translate(${LEFT},0)`, "position", -(TOP + tall() / 2), -38, -90]];
    for (const [side, make, move, text, tx, ty, turn] of axes) {
      const group = layer(svg, `axis-${side}`).attr("transform", move).call(make.ticks(side === "left" ? Math.min(6, T()) : 8, "d").tickSizeOuter(0));
      group.selectAll("text.axis-label").data([text]).join("text").attr("class", "axis-label").attr("fill", "currentColor").attr("text-anchor", "middle").attr("transform", `rotate(${turn})`).attr("x", tx).attr("y", ty).text((d) => d);
    }
    layer(svg, "scale").selectAll("text").data([`${width < 480 ? "" : `d(loss)/d(${name}): `}${short(-reach)} orange, ${short(reach)} violet`]).join("text").attr("x", width < 480 ? 0 : LEFT).attr("y", below + 56).text((d) => d);
  }

  return { element: map.element, load, destroy: () => load.cancel() };
}

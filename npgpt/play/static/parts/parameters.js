// The gradient of every parameter by name, beside the parameter itself. A part of view 5.

import { d3, figure, layer } from "../chart.js";
import { short } from "../code.js";

const ROW = 17;
const TOP = 40;

/** Return {element, update}. `found()`: the answer of the server; `shown()`: the last step made. */
export function parameterList(page, found, shown) {
  const sizes = () => found()?.sizes ?? [];
  const names = (width) => (width > 620 ? 190 : 150);
  const half = (width) => (width - names(width) - 30) / 2;
  const list = figure({
    name: "gradients", title: "The gradient of every parameter",
    describe: () => `${sizes().length} parameters: root mean square of the gradient and of the parameter, and their ratio.`,
    height: () => TOP + sizes().length * ROW + 44,
    draw,
    csv: () => [["parameter", "shape", "gradient_rms", "parameter_rms", "ratio", "largest_at"], ...sizes().map((one) => [one.name, one.shape.join("x"), one.gradient, one.weight, one.ratio ?? NaN, one.largest.join(" ")])],
    cursor: {
      columns: () => 1, rows: () => sizes().length,
      at: (x, y) => (y >= TOP && y < TOP + sizes().length * ROW ? [0, Math.floor((y - TOP) / ROW)] : null),
      show: (_, i) => {
        layer(list.svg, "hover").selectAll("rect").data([i]).join("rect").attr("class", "hover").attr("y", TOP + i * ROW).attr("width", list.width).attr("height", ROW);
        const one = sizes()[i];
        return `${one.name}, ${one.shape.join(" by ")}: gradient ${short(one.gradient)}, parameter ${short(one.weight)}, ratio ${short(one.ratio)}. Enter or a click nudges the number with the largest gradient.`;
      },
      choose: (_, i) => {
        const one = sizes()[i];
        const query = new URLSearchParams({ prompt: page.state.prompt, parameter: one.name, index: one.largest.join(",") });
        location.hash = `#/nudge?${query}`;
      },
    },
  });

  function draw(svg, width, tall) {
    const rows = sizes();
    if (!rows.length) return;
    const left = names(width);
    const made = new Set(found().steps.slice(0, shown() + 1).flatMap((step) => step.parameters));
    const positive = (values) => values.filter((v) => v > 0);
    const x = d3.scaleLog(d3.extent(positive(rows.flatMap((one) => [one.gradient, one.weight]))), [left + 8, left + half(width) - 14]).nice();
    const ratio = d3.scaleLog(d3.extent(positive(rows.map((one) => one.ratio))), [left + half(width) + 26, width - 10]).nice();
    const y = (i) => TOP + (i + 0.5) * ROW;
    const letters = Math.floor(left / 6.7);
    layer(svg, "hover");
    layer(svg, "lines").selectAll("path").data(rows).join("path").attr("class", "rule").attr("d", (_, i) => `M${left},${y(i)}H${width - 8}`);
    layer(svg, "names").selectAll("text").data(rows).join("text").attr("class", "mono tiny").attr("x", left - 6).attr("y", (_, i) => y(i) + 4).attr("text-anchor", "end")
      .text((one) => (one.name.length > letters ? `…${one.name.slice(1 - letters)}` : one.name));
    layer(svg, "weights").selectAll("rect").data(rows).join("rect").attr("class", "forward").attr("width", 6).attr("height", 6)
      .attr("x", (one) => x(one.weight || x.domain()[0]) - 3).attr("y", (_, i) => y(i) - 3).attr("visibility", (one) => (one.weight ? null : "hidden"));
    const dot = (place, has) => (group) => group.selectAll("circle").data(rows).join("circle").attr("class", "backward").attr("r", 4.5).attr("cy", (_, i) => y(i))
      .attr("cx", (one) => place(one)).attr("visibility", (one) => (made.has(one.name) && has(one) ? null : "hidden"));
    layer(svg, "gradients").call(dot((one) => x(one.gradient || x.domain()[0]), (one) => one.gradient));
    layer(svg, "ratios").call(dot((one) => ratio(one.ratio || ratio.domain()[0]), (one) => one.ratio));
    for (const [name, scale, title] of [["size", x, width > 620 ? "root mean square" : "r.m.s."], ["share", ratio, width > 620 ? "gradient / parameter" : "ratio"]]) {
      const group = layer(svg, `axis-${name}`).attr("transform", `translate(0,${tall - 40})`).call((width > 620 ? d3.axisBottom(scale).ticks(4, "~g") : d3.axisBottom(scale).tickValues(scale.domain()).tickFormat(d3.format("~e"))).tickSizeOuter(0));
      group.selectAll("text.axis-label").data([title]).join("text").attr("class", "axis-label").attr("fill", "currentColor").attr("text-anchor", "middle").attr("x", d3.mean(scale.range())).attr("y", 34).text((d) => d);
    }
    layer(svg, "legend").selectAll("text").data([["backward", "● gradient, once it is written", width > 620 ? left + 8 : 4], ["forward", "■ parameter", width > 620 ? left + 200 : 196]]).join("text").attr("class", (d) => d[0]).attr("x", (d) => d[2]).attr("y", 22).text((d) => d[1]);
    svg.style("cursor", "pointer");
  }

  return { element: list.element, update: list.redraw };
}

// The legend below a picture, in as many columns as fit.

import { layer } from "../chart.js";

const ROW = 18;

/** Colours that colour-blind readers can tell apart (Okabe and Ito). */
export const COLORS = { blue: "#0072b2", sky: "#56b4e9", orange: "#e69f00", red: "#d55e00", green: "#009e73", pink: "#cc79a7" };

const columns = (width, wide) => Math.max(1, Math.min(6, Math.floor((width - 8) / wide)));

/** Return the height of a legend of `count` entries, each of `wide` pixels. */
export const legendHeight = (width, count, wide) => 10 + ROW * Math.ceil(count / columns(width, wide));

/** Draw a legend at height `top`. entries: {text, stroke or class (of a line), dash}. */
export function legend(svg, width, top, entries, wide) {
  const band = (width - 8) / columns(width, wide);
  const x = (k) => 6 + band * (k % columns(width, wide));
  const y = (k) => top + 6 + ROW * Math.floor(k / columns(width, wide));
  const group = layer(svg, "legend");
  group.selectAll("path").data(entries).join("path").attr("class", (one) => one.class ?? null).attr("fill", "none").attr("stroke-width", 2.4)
    .attr("stroke", (one) => one.stroke ?? null).attr("stroke-dasharray", (one) => one.dash ?? null).attr("d", (_, k) => `M${x(k)},${y(k)}h20`);
  group.selectAll("text").data(entries).join("text").attr("x", (_, k) => x(k) + 26).attr("y", (_, k) => y(k) + 4).text((one) => one.text);
}

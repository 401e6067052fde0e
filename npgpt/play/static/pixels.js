// A matrix of numbers as a picture, one pixel for each.

import { d3 } from "./chart.js";

/**
 * Return the address of a picture. level(i, j) is a number in [0, 1], or null for nothing;
 * `scale` is the colour of a number, such as chart.js's `sequential`.
 */
export function picture(height, width, level, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const colors = d3.range(256).map((i) => d3.rgb(scale(i / 255)));
  for (let i = 0; i < height; i++) {
    for (let j = 0; j < width; j++) {
      const value = level(i, j);
      if (value === null) continue;
      const { r, g, b } = colors[Math.round(255 * Math.max(0, Math.min(1, value)))];
      pixels.data.set([r, g, b, 255], 4 * (i * width + j));
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

// A picture as SVG or PNG, and its numbers as CSV.

const INHERITED = [
  "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray",
  "stroke-linecap", "stroke-linejoin", "opacity", "font-family", "font-size", "font-weight",
  "font-style", "text-anchor", "dominant-baseline", "letter-spacing", "visibility",
];

/** Return the text of an SVG file that looks as the picture does now. */
export function svgText(svg) {
  const copy = svg.cloneNode(true);
  const originals = [svg, ...svg.querySelectorAll("*")];
  const copies = [copy, ...copy.querySelectorAll("*")];
  originals.forEach((node, i) => {
    const style = getComputedStyle(node);
    for (const name of INHERITED) copies[i].setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "style", "tabindex"]) copies[i].removeAttribute(name);
  });
  copies.forEach((node) => { if (node.getAttribute("data-export") === "no") node.remove(); });
  const { width, height } = svg.getBoundingClientRect();
  const back = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  back.setAttribute("width", "100%");
  back.setAttribute("height", "100%");
  back.setAttribute("fill", getComputedStyle(document.body).backgroundColor);
  copy.prepend(back);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  if (!copy.hasAttribute("viewBox")) copy.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
}

export function saveSvg(svg, name) {
  save(new Blob([svgText(svg)], { type: "image/svg+xml" }), `${name}.svg`);
}

/** Save a picture as PNG, with two pixels for each of the page. */
export async function savePng(svg, name, scale = 2) {
  const { width, height } = svg.getBoundingClientRect();
  const image = new Image();
  const loaded = new Promise((resolve, reject) => Object.assign(image, { onload: resolve, onerror: reject }));
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(svg))}`;
  await loaded; // decode() waits for the page's next frames
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  save(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), `${name}.png`);
}

/** Save rows of numbers and texts, the first of them the names of the columns. */
export function saveCsv(rows, name) {
  save(new Blob([csvText(rows)], { type: "text/csv" }), `${name}.csv`);
}

/**
 * Return the rows as CSV. Texts are JSON strings, in quotes: white space stays visible, and no
 * spreadsheet takes a token like "=1+1" for a formula.
 */
export function csvText(rows) {
  const [head, ...others] = rows;
  const cell = (value) => {
    if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
    return `"${JSON.stringify(String(value ?? "")).replaceAll('"', '""')}"`;
  };
  return `${[head.join(","), ...others.map((row) => Array.from(row, cell).join(","))].join("\r\n")}\r\n`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

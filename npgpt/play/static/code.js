// The formula of an op, and the lines of code that compute it.

import { el } from "./dom.js";

/** Return a block of code with the numbers of its lines, and the name of its file above. */
export function codeBlock({ file, line, text, highlighted = [] }) {
  const lines = text.replace(/\n$/, "").split("\n");
  const marked = new Set(highlighted);
  return el("div", { class: "code" },
    el("p", { class: "file" }, `${file}, lines ${line} to ${line + lines.length - 1}`),
    el("pre", { tabindex: "0", ariaLabel: `Code of ${file}` }, lines.map((words, i) =>
      el("span", { class: marked.has(line + i) ? "code-line marked" : "code-line", "data-line": String(line + i) }, `${words}\n`))));
}

/** Return the formula of an op. */
export function formulaBlock(text) {
  return el("pre", { class: "formula", tabindex: "0", ariaLabel: "Formula" }, text);
}

/** Return a number with four digits: "0.0123", "4.5e-7". */
export function short(x) {
  if (x === null || Number.isNaN(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(4))) : x.toExponential(2);
}

// A text whose tokens are buttons, coloured by a number: arrow keys move, Enter chooses.

import { el, fill } from "./dom.js";

/**
 * Return {element, show(tokens), select(i)}.
 *
 * show: [{label, text, level, title}, ...]; level from 0 to 1 is the strength of the colour, null
 * for a token without a number. `kind`: "forward" (blue) or "backward" (orange).
 */
export function chips({ label, kind, onChoose }) {
  const element = el("div", { class: `chips ${kind}`, role: "group", ariaLabel: label });
  let nodes = [];
  let selected = -1;

  function select(i, focus = false) {
    nodes[selected]?.setAttribute("aria-pressed", "false");
    nodes[selected]?.setAttribute("tabindex", "-1");
    selected = i;
    nodes[i]?.setAttribute("aria-pressed", "true");
    nodes[Math.max(0, i)]?.setAttribute("tabindex", "0");
    if (focus) nodes[i]?.focus();
  }

  element.addEventListener("keydown", (event) => {
    const now = nodes.indexOf(document.activeElement);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -10, ArrowDown: 10 }[event.key];
    let next = null;
    if (step) next = now + step;
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = nodes.length - 1;
    if (next === null || now < 0) return;
    event.preventDefault();
    next = Math.max(0, Math.min(nodes.length - 1, next));
    select(next, true);
    onChoose(next);
  });

  function show(tokens) {
    const focused = nodes.includes(document.activeElement);
    nodes = tokens.map(({ label: text, level, title, given }, i) => {
      const node = el("button", {
        type: "button", class: given ? "chip-token given" : "chip-token", tabindex: "-1", title, ariaPressed: "false",
        onclick: () => { select(i); onChoose(i); },
      }, text);
      if (level !== null) node.style.setProperty("--level", `${Math.round(100 * Math.max(0, Math.min(1, level)))}%`);
      return node;
    });
    const parts = [];
    tokens.forEach(({ text }, i) => {
      parts.push(nodes[i]);
      if (text?.includes("\n")) parts.push(el("br"));
    });
    fill(element, parts);
    select(Math.min(selected, nodes.length - 1), focused);
  }

  return { element, show, select, get selected() { return selected; } };
}

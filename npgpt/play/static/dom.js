// Elements without markup in strings: a token may spell <script>, and text stays text.

/** el("button", {class: "plain", onclick: f, ariaLabel: "Close"}, "text", node, ...) */
export function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node[name] = value;
    else if (name.startsWith("aria") && name !== "aria") {
      node.setAttribute(`aria-${name.slice(4).toLowerCase()}`, value);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Replace the children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** Call a function once its last call is `ms` milliseconds old. */
export function debounce(call, ms) {
  let timer;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), ms);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

let last = 0;

/** Return an id that no other element has. */
export function unique(name) {
  last += 1;
  return `${name}-${last}`;
}

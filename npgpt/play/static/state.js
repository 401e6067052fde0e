// The state of a view is in the address: #/next-token?prompt=...&temperature=0.8 is a link to it.

/** Return {view, values} of an address's hash; values are strings. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { view: path, values: Object.fromEntries(new URLSearchParams(query)) };
}

/** Return the state: the defaults, with those values that have the type of their default. */
export function typed(values, defaults) {
  const state = { ...defaults };
  for (const [name, value] of Object.entries(values)) {
    if (!Object.hasOwn(defaults, name)) continue;
    if (typeof defaults[name] === "number") {
      const number = Number(value);
      if (value.trim() !== "" && Number.isFinite(number)) state[name] = number;
    } else if (typeof defaults[name] === "boolean") state[name] = value === "true";
    else state[name] = value;
  }
  return state;
}

/** Return the hash of a state: what differs from the defaults. */
export function format(view, state, defaults) {
  const changed = Object.entries(state).filter(([name, value]) => value !== defaults[name]);
  const query = new URLSearchParams(changed.map(([name, value]) => [name, String(value)])).toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

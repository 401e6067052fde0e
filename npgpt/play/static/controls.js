// Labelled controls. Each has an `element` and `set(value)`, which does not call `onInput`.

import { el, unique } from "./dom.js";

/**
 * A slider with a number beside it.
 *
 * toValue, toPosition: the scale between the slider, 0 to 1000, and the value.
 * text(value): what is shown and read out. onInput(value) while it moves, onChange(value) after.
 */
export function slider({ label, hint, value, toValue, toPosition, text, onInput, onChange }) {
  const id = unique("slider");
  const output = el("output", { for: id });
  const input = el("input", {
    type: "range", id, min: 0, max: 1000, step: 1, title: hint,
    oninput: () => {
      const now = toValue(Number(input.value));
      show(now);
      onInput(now);
    },
    onchange: () => onChange?.(toValue(Number(input.value))),
  });
  const show = (now) => {
    output.textContent = text(now);
    input.setAttribute("aria-valuetext", text(now));
  };
  const set = (now) => {
    if (toValue(Number(input.value)) !== now) input.value = toPosition(now);
    show(now);
  };
  set(value);
  const element = el("div", { class: "control" },
    el("div", { class: "line" }, el("label", { for: id }, label), output), input);
  return { element, input, set };
}

/** An integer, or a number with `step`. Values outside [min, max] are marked, and not passed on. */
export function number({ label, hint, value, min, max, step = 1, onInput }) {
  const id = unique("number");
  const input = el("input", {
    type: "number", id, min, max, step, value, title: hint, inputmode: "decimal",
    oninput: () => input.checkValidity() && input.value !== "" && onInput(Number(input.value)),
  });
  const set = (now) => {
    if (Number(input.value) !== now) input.value = now;
  };
  const element = el("div", { class: "control" }, el("label", { for: id }, label), input);
  return { element, input, set };
}

/** A text of several lines. */
export function textarea({ label, value, rows = 2, onInput }) {
  const id = unique("text");
  const input = el("textarea", { id, rows, spellcheck: "false", oninput: () => onInput(input.value) });
  const set = (now) => {
    if (input.value !== now) input.value = now;
  };
  set(value);
  const element = el("div", { class: "control wide" }, el("label", { for: id }, label), input);
  return { element, input, set };
}

/** One of several values: choices is [[value, text], ...]. `broad`: the texts are names of parameters. */
export function select({ label, hint, value, choices, broad, onInput }) {
  const id = unique("select");
  const input = el("select", { id, title: hint, oninput: () => onInput(input.value) },
    choices.map(([choice, text]) => el("option", { value: choice }, text)));
  const set = (now) => { input.value = now; };
  set(value);
  const element = el("div", { class: broad ? "control broad" : "control" }, el("label", { for: id }, label), input);
  return { element, input, set };
}

/** One of a few values, all of them visible: choices is [[value, text], ...]. */
export function segmented({ label, value, choices, onInput }) {
  const name = unique("segmented");
  const inputs = choices.map(([choice, text]) => {
    const input = el("input", { type: "radio", name, value: choice, onchange: () => onInput(choice) });
    return [choice, input, el("label", {}, input, el("span", {}, text))];
  });
  const set = (now) => inputs.forEach(([choice, input]) => { input.checked = choice === now; });
  set(value);
  const element = el("fieldset", { class: "segmented" },
    el("legend", {}, label), el("div", {}, inputs.map(([, , node]) => node)));
  return { element, set };
}

/** A button. */
export function button({ label, hint, kind = "", onClick }) {
  const element = el("button", { type: "button", class: kind, title: hint, onclick: onClick }, label);
  return { element };
}

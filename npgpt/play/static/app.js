// The page around the views: the model, the address, the theme, and what is under way.

import { ApiError, call } from "./api.js";
import { count } from "./chart.js";
import { debounce, el, fill } from "./dom.js";
import { section } from "./help.js";
import { format, parse, typed } from "./state.js";
import { Vocabulary } from "./tokens.js";
import { VIEWS } from "./views/index.js";

const main = el("main", { id: "main", tabindex: "-1" });
const progress = el("div", { class: "progress", role: "status" });
const nav = el("nav", { ariaLabel: "Views" });
const chip = el("p", { class: "chip" });
let current = null; // the view that is shown

/** What a view gets beside its root: the model, its state in the address, and the server. */
class Page {
  constructor(view, state, model, vocabulary) {
    Object.assign(this, { view, state, model, vocabulary });
    this.calls = new Map(); // name -> AbortController
    this.errors = new Map(); // name of a call that has failed -> {message, stale}
    this.answered = false; // no picture is drawn before the first answer
    this.save = debounce(() => {
      history.replaceState(null, "", format(this.view.name, this.state, this.view.defaults));
    }, 150); // browsers allow a hundred changes in half a minute
  }

  /** Change the state, and the address with it. The view draws itself. */
  set(changes) {
    Object.assign(this.state, changes);
    this.save();
  }

  /**
   * Call a function of the server, api.js. A call of the same name that is under way is aborted.
   * Returns null if this one is aborted, or has failed: then the page shows the error.
   */
  async call(name, body, options = {}) {
    this.calls.get(name)?.abort();
    const controller = new AbortController();
    this.calls.set(name, controller);
    const shown = new Progress(() => controller.abort());
    try {
      const result = await call(name, body, {
        ...options,
        signal: controller.signal,
        onProgress: (step) => {
          shown.update(step);
          options.onProgress?.(step);
        },
      });
      this.answered = true;
      this.forgive(name);
      return result;
    } catch (error) {
      if (error.name !== "AbortError") this.fail(name, error, !options.onEvent);
      return null;
    } finally {
      shown.end();
      if (this.calls.get(name) === controller) this.calls.delete(name);
    }
  }

  /** Show one line about a call that has failed. `stale`: its pictures stay, and are marked. */
  fail(name, error, stale) {
    if (!(error instanceof ApiError)) console.error(error);
    this.errors.set(name, { message: error.message, stale });
    this.showErrors();
  }

  /** Forget that a call has failed. */
  forgive(name) {
    if (this.errors.delete(name)) this.showErrors();
  }

  showErrors() {
    const all = [...this.errors.values()];
    const stale = this.answered && all.some((one) => one.stale);
    this.root.classList.toggle("stale", stale);
    fill(this.alert, Array.from(new Set(all.map((one) => one.message)), (message) => el("p", {}, message)),
      stale ? el("p", { class: "stale-note" }, "The pictures below are those of before.") : null);
  }

  /** Show one line that is no error, or none. */
  note(text) {
    fill(this.notes, text ? el("p", {}, text) : null);
  }

  leave() {
    this.save.cancel();
    for (const controller of this.calls.values()) controller.abort();
  }
}

/** The line of a computation that takes longer than a moment, with a button that ends it. */
class Progress {
  constructor(cancel) {
    this.text = el("span");
    this.bar = el("progress", { max: 1, ariaLabel: "Progress of the computation" });
    const stop = el("button", { type: "button", class: "small", onclick: cancel }, "Cancel");
    this.line = el("div", {}, this.bar, this.text, stop);
    this.timer = setTimeout(() => progress.append(this.line), 300);
    this.update({ done: 0, total: 0, text: "Computing" });
  }

  update({ done, total, text }) {
    if (total) this.bar.value = done / total;
    else this.bar.removeAttribute("value");
    this.text.textContent = total ? `${text} (${count(done)} of ${count(total)})` : text;
  }

  end() {
    clearTimeout(this.timer);
    this.line.remove();
  }
}

function show(model, vocabulary) {
  const { view: name, values } = parse(location.hash);
  const view = VIEWS.find((one) => one.name === name) ?? VIEWS[0];
  const state = typed(values, view.defaults);
  if (current?.page.view === view) {
    Object.assign(current.page.state, state);
    current.update?.(current.page.state);
    return;
  }
  current?.page.leave();
  current?.destroy?.();
  document.title = `${view.title} · npgpt play`;
  for (const link of nav.querySelectorAll("a")) {
    if (link.dataset.view === view.name) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "nearest" });
    } else link.removeAttribute("aria-current");
  }
  const page = new Page(view, state, model, vocabulary);
  page.alert = el("div", { class: "alert", role: "alert" });
  page.notes = el("div", { class: "notes", role: "status" });
  const root = el("div", { class: `view ${view.name}` });
  page.root = root;
  const link = el("button", { type: "button", class: "small", onclick: () => copyLink(link) }, "Copy link");
  fill(main,
    el("header", { class: "intro" },
      el("div", {}, el("h2", {}, view.title), el("p", { class: "lead" }, view.sentence)),
      el("div", { class: "tools" }, link)),
    about(view.doc), page.alert, page.notes, root);
  window.scrollTo(0, 0);
  const made = view.render(root, page) ?? {};
  current = { page, ...(typeof made === "function" ? { update: made } : made) };
}

/** Return the documentation of a view, which opens below its sentence. */
function about(name) {
  const text = el("div");
  return el("details", {
    class: "about",
    ontoggle: async () => text.childElementCount || fill(text, await section(name)),
  }, el("summary", {}, "What this is, and how it is computed"), text);
}

async function copyLink(button) {
  current.page.save.cancel();
  history.replaceState(null, "", format(current.page.view.name, current.page.state, current.page.view.defaults));
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The link is in the address bar";
  }
  setTimeout(() => { button.textContent = "Copy link"; }, 2000);
}

function themeButton() {
  const names = { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
  const order = Object.keys(names);
  let now = "auto";
  try {
    now = localStorage.getItem("theme") ?? now;
  } catch { /* storage is off: the theme is that of the system */ }
  if (!(now in names)) now = "auto";
  const apply = () => {
    if (now === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.textContent = names[now]; // the colours of pictures are those of the style sheet
  };
  const button = el("button", {
    type: "button", class: "small",
    onclick: () => {
      now = order[(order.indexOf(now) + 1) % order.length];
      try {
        localStorage.setItem("theme", now);
      } catch { /* as above */ }
      apply();
    },
  });
  apply();
  return button;
}

async function start() {
  fill(nav, el("ul", {}, VIEWS.map((view) =>
    el("li", {}, el("a", { href: `#/${view.name}`, "data-view": view.name }, view.short ?? view.title)))));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is that of the view
    main.focus();
  });
  document.body.append(
    el("header", { class: "top" },
      el("a", { class: "brand", href: `#/${VIEWS[0].name}` },
        el("img", { src: "/icon.svg", alt: "", width: 28, height: 28 }), el("h1", {}, "npgpt play")),
      chip, themeButton()),
    nav, progress, main);
  const bar = el("progress", { max: 1, ariaLabel: "Progress of the model" });
  const text = el("p", { role: "status" }, "Loading the model");
  const wait = setTimeout(() => fill(main, el("div", { class: "loading" }, text, bar)), 200);
  let model;
  try {
    model = await call("model", {}, {
      onProgress: ({ done, total, text: said }) => {
        if (total) bar.value = done / total;
        else bar.removeAttribute("value");
        text.textContent = total ? `${said} (step ${count(done)} of ${count(total)})` : said;
      },
    });
  } catch (error) {
    clearTimeout(wait);
    fill(main, el("div", { class: "alert", role: "alert" }, el("p", {}, error.message)));
    return;
  }
  clearTimeout(wait);
  const [made, total] = model.run ?? [];
  const steps = !model.run ? "" : made === total || total === null ? `, ${count(made)} steps` : `, ${count(made)} of ${count(total)} steps`;
  fill(chip, el("strong", {}, model.name), `${steps} · ${count(model.parameters)} parameters · ${model.config.n_layer} layers · tokenizer ${model.tokenizer}`);
  const vocabulary = new Vocabulary(model.text, model.lengths, model.end_of_text);
  window.addEventListener("hashchange", () => show(model, vocabulary));
  show(model, vocabulary);
}

start();

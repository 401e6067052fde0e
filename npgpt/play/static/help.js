// The section of help.md about a view, as elements: headings, paragraphs, lists, code, emphasis.

import { el } from "./dom.js";

let pages = null; // title of a section in lower case, with hyphens -> its lines

/** Return the elements of a section, such as "next-token". */
export async function section(name) {
  if (pages === null) {
    const text = await (await fetch("/help.md")).text();
    pages = new Map(text.split(/^## /m).slice(1).map((part) => {
      const [title, ...lines] = part.split("\n");
      return [title.trim().toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, ""), lines];
    }));
  }
  return blocks(pages.get(name) ?? []);
}

function blocks(lines) {
  const found = [];
  let paragraph = [];
  const close = () => {
    if (paragraph.length) {
      const items = paragraph[0].startsWith("- ");
      const text = paragraph.join("\n");
      found.push(items
        ? el("ul", {}, text.slice(2).split("\n- ").map((item) => el("li", {}, inline(item))))
        : el("p", {}, inline(text)));
    }
    paragraph = [];
  };
  for (let i = 0; i < lines.length; i++) {
    if (lines[i].startsWith("```")) {
      close();
      const end = lines.indexOf("```", i + 1);
      found.push(el("pre", { tabindex: "0" }, el("code", {}, lines.slice(i + 1, end).join("\n"))));
      i = end;
    } else if (lines[i].trim() === "") close();
    else paragraph.push(lines[i]);
  }
  close();
  return found;
}

/** Return texts and elements for `code`, *emphasis* and **strong**. */
function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\*[^*]+\*)/).map((part) => {
    if (part.startsWith("`")) return el("code", {}, part.slice(1, -1));
    if (part.startsWith("**")) return el("strong", {}, part.slice(2, -2));
    if (part.startsWith("*")) return el("em", {}, part.slice(1, -1));
    return part.replaceAll("\n", " ");
  });
}

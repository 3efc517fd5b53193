// The text beside the picture: a row per line, one stop of the Tab key, arrow keys between rows.

import { level, percent, WORDS } from "./confidence.js";
import { icon, make, roving } from "./dom.js";

/** `list` is an <ol>; `join` as in picture.js; `copyLine(text)` copies one. */
export function createLines(list, join, copyLine) {
  let rows = [];
  const visit = roving(list, () => rows);

  function show(page) {
    rows = page.lines.map((line, index) => row(line, index, join, copyLine));
    list.replaceChildren(...rows);
    list.scrollTo(0, 0);
    stop(0);
  }

  /** The row that Tab comes to, and with it that row's button. */
  function stop(index) {
    visit(index);
    rows.forEach((item, at) => item.querySelector("button").setAttribute("tabindex", at === index ? "0" : "-1"));
  }

  function mark(index, scroll) {
    rows.forEach((item, at) => item.classList.toggle("joined", at === index));
    if (index === null || !rows[index]) return;
    stop(index);
    if (scroll) rows[index].scrollIntoView({ block: "nearest" });
  }

  const focus = (index) => rows[index]?.focus();
  return { show, mark, focus };
}

function row(line, index, join, copyLine) {
  const step = level(line.rec_score);
  const copy = make("button", {
    type: "button", class: "button quiet square row-copy", title: "Copy this line",
    "aria-label": `Copy line ${index + 1}`, tabindex: "-1",
  }, icon("copy"));
  const item = make("li", { class: `row ${step}`, tabindex: "-1" },
    make("span", { class: line.text ? "row-text" : "row-text none", dir: "auto", lang: "" }, line.text || "no text"),
    make("span", { class: "row-score", title: `${percent(line.rec_score)} ${WORDS[step]}` },
      step === "sure" ? null : make("span", { class: "row-word" }, WORDS[step]), percent(line.rec_score)),
    copy);
  copy.addEventListener("click", () => copyLine(line.text));
  item.addEventListener("pointerenter", (event) => join.hover(event, index, "lines"));
  item.addEventListener("pointerleave", (event) => join.hover(event, null, "lines"));
  item.addEventListener("focusin", () => join.select(index, "lines"));
  item.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.target !== item) return;
    event.preventDefault();
    copyLine(line.text);
  });
  return item;
}

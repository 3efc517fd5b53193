// The picture with its boxes, which are in the page's pixels whatever size the picture is shown or was sent at.
// `show` draws a page, `mark` lifts one box out; zoom is a factor of what fits.

import { level, percent, WORDS } from "./confidence.js";
import { make, makeSvg, roving } from "./dom.js";

const ZOOMS = [1, 1.5, 2, 3, 4, 6];
const MAX_ENLARGED = 2; // small pictures are enlarged to fit, but not into blocks

/** `stage` is the scrolling element; `join` is told of hover and focus, as in app.js. */
export function createPicture(stage, join) {
  let page = null;
  let sheet = null;
  let boxes = [];
  let zoom = 0;
  let visit = () => {};

  function show(newPage, url, drawnIn) {
    page = newPage;
    zoom = 0;
    boxes = page.lines.map((line, index) => box(line, index, join));
    const overlay = makeSvg("svg", {
      class: "overlay", viewBox: `0 0 ${page.width_px} ${page.height_px}`, preserveAspectRatio: "none",
      role: "group", "aria-label": "Boxes around the lines; arrow keys move between them",
    }, ...boxes);
    visit = roving(overlay, () => boxes);
    visit(0);
    sheet = make("div", { class: drawnIn ? "sheet drawn-in" : "sheet" },
      url ? pictureOf(page, url) : null, boxes.length ? overlay : null);
    stage.replaceChildren(sheet);
    stage.scrollTo(0, 0);
    fit();
  }

  function fit() {
    if (!page) return;
    const { width, height } = room(stage);
    const whole = window.matchMedia("(min-width: 45rem)").matches ? height / page.height_px : Infinity;
    const scale = Math.min(width / page.width_px, whole, MAX_ENLARGED) * ZOOMS[zoom];
    sheet.style.width = `${Math.max(1, page.width_px * scale)}px`;
    sheet.style.height = `${Math.max(1, page.height_px * scale)}px`;
  }

  function mark(index, scroll) {
    boxes.forEach((element, at) => element.classList.toggle("joined", at === index));
    if (index === null || !boxes[index]) return;
    visit(index);
    if (scroll) reveal(stage, boxes[index]);
  }

  /** Show no picture, or `instead`. */
  function clear(...instead) {
    page = null;
    boxes = [];
    stage.replaceChildren(...instead);
  }

  function zoomBy(step) {
    zoom = step === 0 ? 0 : Math.min(Math.max(zoom + step, 0), ZOOMS.length - 1);
    fit();
    return { least: zoom === 0, most: zoom === ZOOMS.length - 1 };
  }

  new ResizeObserver(fit).observe(stage);
  return { show, mark, clear, zoomBy };
}

/** The picture in a frame of the page's shape. The service draws the page beside its text: then the left half. */
function pictureOf({ width_px, height_px }, url) {
  const image = make("img", { class: "sheet-image", src: url, alt: "" });
  image.addEventListener("load", () => {
    const widths = (image.naturalWidth / image.naturalHeight) * (height_px / width_px);
    image.classList.toggle("beside", widths > 1.5);
  });
  return make("div", { class: "sheet-frame" }, image);
}

function box(line, index, join) {
  const outline = line.outline_px?.length ? line.outline_px : line.quad_px;
  const name = `${line.text || "no text"}, ${percent(line.rec_score)} ${WORDS[level(line.rec_score)]}`;
  const element = makeSvg("polygon", {
    class: `box ${level(line.rec_score)}`, points: outline.map((point) => point.join(",")).join(" "),
    role: "button", "aria-label": name, tabindex: "-1",
  });
  element.addEventListener("pointerenter", (event) => join.hover(event, index, "picture"));
  element.addEventListener("pointerleave", (event) => join.hover(event, null, "picture"));
  element.addEventListener("focus", () => join.select(index, "picture"));
  element.addEventListener("click", () => join.select(index, "picture"));
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    join.go(index);
  });
  return element;
}

/** Pixels inside the padding of an element, less a scrollbar's. */
function room(element) {
  const style = getComputedStyle(element);
  return {
    width: element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight),
    height: element.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom),
  };
}

/** Scroll `stage`, and nothing around it, until `element` is inside. */
function reveal(stage, element) {
  const inner = element.getBoundingClientRect();
  const outer = stage.getBoundingClientRect();
  const by = (from, to, low, high) => (from < low || to > high ? (from + to - low - high) / 2 : 0);
  const left = by(inner.left, inner.right, outer.left, outer.right);
  const top = by(inner.top, inner.bottom, outer.top, outer.bottom);
  if (left || top) stage.scrollBy({ left, top });
}

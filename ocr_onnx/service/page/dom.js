// Small helpers to build elements. Text only ever becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element with attributes and children; strings become text nodes, null children are left out. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** An icon of the page's symbols; decoration, so hidden from screen readers. */
export function icon(name) {
  return makeSvg("svg", { class: "icon", "aria-hidden": "true" }, makeSvg("use", { href: `#icon-${name}` }));
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/**
 * Make the children of a group one stop of the Tab key, between which the arrow keys move.
 * `items()` gives them in order. Returns `visit(index)`, which makes one the stop without focusing it.
 */
export function roving(group, items) {
  const visit = (index) => {
    items().forEach((item, at) => item.setAttribute("tabindex", at === index ? "0" : "-1"));
  };
  group.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const last = all.length - 1;
    const to = {
      ArrowDown: Math.min(at + 1, last), ArrowRight: Math.min(at + 1, last),
      ArrowUp: Math.max(at - 1, 0), ArrowLeft: Math.max(at - 1, 0), Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    all[to].focus();
  });
  return visit;
}

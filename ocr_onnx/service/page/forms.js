// What leaves the page: text and JSON in the forms of `ocr-onnx run`, to the clipboard or into a file.

/** The texts of the lines, without regions that held none; as PageResult.text. */
export const textOf = (page) => page.lines.map((line) => line.text).filter(Boolean).join("\n");

/** A page's name for people, who count from one. */
export const nameOf = (page) => (page.index === null ? page.source : `${page.source}, page ${page.index + 1}`);

/** One page's text, or the texts of several, each under its name. */
export function textForm(pages) {
  const ended = (page) => (textOf(page) ? `${textOf(page)}\n` : "");
  if (pages.length === 1) return ended(pages[0]);
  return pages.map((page) => `==> ${nameOf(page)} <==\n${ended(page)}`).join("\n");
}

/** One page's object as PageResult.from_dict reads it, or a list of them. */
export function jsonForm(pages) {
  return `${JSON.stringify(pages.length === 1 ? pages[0] : pages, null, 2)}\n`;
}

/** Offer a text as a file. */
export function download(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Copy a text; returns whether it worked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // navigator.clipboard is missing on plain http, and may be forbidden
  }
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "off-screen";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

// The page: files come in by choice, drop or paste, are read one after another, and shown entry by entry.

import { byId, icon, make } from "./dom.js";
import { copy, download, jsonForm, textForm, textOf } from "./forms.js";
import { createQueue } from "./jobs.js";
import { createLines } from "./lines.js";
import { createPicture } from "./picture.js";
import { models } from "./reading.js";

const entries = [];
let shown = null; // the entry beside whose picture its text stands
let hovered = null;
let selected = null;
let pasted = 0;

// A box and a line are joined by their number: hover joins for the moment, focus or click until the next.
const join = {
  hover(event, index, from) {
    if (event.pointerType === "touch") return;
    hovered = index;
    markJoined(from);
  },
  select(index, from) {
    selected = index;
    markJoined(from);
  },
  go: (index) => lines.focus(index),
};

function markJoined(from) {
  const index = hovered ?? selected;
  picture.mark(index, from === "lines");
  lines.mark(index, from === "picture");
}

const lines = createLines(byId("lines"), join, (text) => copied(text, "Line copied"));
const picture = createPicture(byId("stage"), join);
const keys = createKeys();
const queue = createQueue({ insert, changed, remove, progress }, keys);

// --- entries and the list of pages

function insert(entry, before) {
  const at = before ? entries.indexOf(before) : entries.length;
  entry.button = make("button", { type: "button", class: "page" });
  entry.item = make("li", {}, entry.button);
  entry.button.addEventListener("click", () => show(entry));
  byId("page-list").insertBefore(entry.item, before?.item ?? null);
  entries.splice(at, 0, entry);
  drawButton(entry);
  layOut();
  const tailIsShown = shown === before && shown?.state === "reading" && entry.job === shown.job;
  if (!shown || tailIsShown) show(entry);
  if (entry.state === "failed") say(`${entry.name}: ${entry.error.problem}`);
}

function changed(entry) {
  drawButton(entry);
  layOut();
  if (entry === shown) draw(entry);
  if (entry.state === "failed") say(`${entry.name}: ${entry.error.problem}. ${entry.error.remedy}`);
  else if (entry.note && !entry.told) say(entry.note);
  entry.told = Boolean(entry.note);
}

function remove(entry) {
  const at = entries.indexOf(entry);
  entries.splice(at, 1);
  const hadFocus = document.activeElement === entry.button;
  entry.item.remove();
  layOut();
  if (entry === shown) show(entries[Math.max(0, at - 1)] ?? null);
  if (hadFocus) shown?.button.focus();
  const texts = entry.job.entries.filter((other) => other.page);
  const count = texts.reduce((sum, other) => sum + other.page.lines.length, 0);
  if (texts.length) say(`${entry.name}: ${counted(texts.length, "page")}, ${counted(count, "line")} read`);
}

function drawButton(entry) {
  const picture = entry.url
    ? make("img", { class: "thumb", src: entry.url, alt: "", loading: "lazy" })
    : make("span", { class: "thumb" }, icon("page"));
  entry.button.replaceChildren(picture, make("span", { class: "page-words" },
    make("span", { class: "page-name", dir: "auto" }, entry.name),
    make("span", { class: `page-state ${entry.state}` }, entry.state === "failed" ? icon("alert") : null, stateOf(entry))));
}

function stateOf(entry) {
  if (entry.page) return [pageNumber(entry.page), counted(entry.page.lines.length, "line")].filter(Boolean).join(", ");
  return { waiting: "waiting", reading: "reading …", stopped: "stopped", failed: "not read" }[entry.state];
}

const pageNumber = (page) => (page.index === null ? "" : `page ${page.index + 1}`);

function layOut() {
  byId("intake").hidden = entries.length > 0;
  byId("desk").hidden = entries.length === 0;
  byId("pages").hidden = entries.length < 2;
  byId("add").hidden = byId("clear").hidden = entries.length === 0;
  byId("all-label").hidden = readPages().length < 2;
}

// --- the entry that is shown

function show(entry) {
  shown = entry;
  hovered = selected = null;
  for (const other of entries) {
    if (other === entry) other.button.setAttribute("aria-current", "page");
    else other.button.removeAttribute("aria-current");
  }
  if (!entry) return;
  entry.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  draw(entry);
}

function draw(entry) {
  const { page } = entry;
  byId("picture-title").textContent = byId("picture-title").title = entry.name;
  byId("picture-size").textContent = page ? [pageNumber(page), `${page.width_px} × ${page.height_px} px`].filter(Boolean).join(", ") : "";
  byId("text-count").textContent = page ? counted(page.lines.length, "line") : "";
  byId("desk").classList.toggle("without-lines", !page?.lines.length);
  byId("stage").classList.toggle("busy", entry.state === "reading");
  drawPicture(entry);
  lines.show(page ?? { lines: [] });
  byId("notes").replaceChildren(...notesOf(entry));
  drawActions();
}

async function drawPicture(entry) {
  zoom(0);
  if (entry.page) return picture.show(entry.page, entry.url, entry.drawnIn);
  picture.clear(icon("page"));
  if (!entry.url) return;
  const image = new Image();
  image.src = entry.url;
  await image.decode();
  if (entry !== shown || entry.page) return;
  picture.show({ lines: [], width_px: image.naturalWidth, height_px: image.naturalHeight }, entry.url, false);
}

function notesOf(entry) {
  const { page, error, state } = entry;
  if (error) return [errorCard(entry)];
  if (state === "stopped") {
    return [note("stopped", "Stopped before it was read."), retryButton(entry)];
  }
  if (!page) return [note("going", entry.note || (state === "waiting" ? "Waits for its turn." : "Reading …"))];
  const notes = page.warnings.map((warning) => note("warning", sentence(warning)));
  if (page.filtered) notes.push(note("warning", `${counted(page.filtered, "uncertain line")} left out by the score filter.`));
  if (!page.lines.length) notes.push(note("empty", "No text was found on this page."));
  return notes;
}

const note = (kind, words) => make("p", { class: `note ${kind}` }, kind === "warning" ? icon("alert") : null, words);

function errorCard(entry) {
  const { error } = entry;
  return make("div", { class: "error" },
    make("h3", { dir: "auto" }, icon("alert"), error.subject),
    make("p", { class: "problem" }, sentence(error.problem)),
    make("p", { class: "remedy" }, sentence(error.remedy)),
    error.requestId ? make("p", { class: "request" }, "Request ", make("code", {}, error.requestId)) : null,
    retryButton(entry));
}

function retryButton(entry) {
  const button = make("button", { type: "button", class: "button" }, "Try again");
  button.addEventListener("click", () => {
    queue.retry(entry.job);
    byId("content").focus({ preventScroll: true });
  });
  return button;
}

// --- copy and download

const readPages = () => entries.filter((entry) => entry.page).map((entry) => entry.page);
const takesAll = () => byId("all").checked && readPages().length > 1;
const chosen = () => (takesAll() ? readPages() : shown?.page ? [shown.page] : []);

function drawActions() {
  const none = chosen().length === 0;
  for (const id of ["copy", "save-txt", "save-json"]) byId(id).disabled = none;
}

function stem() {
  if (takesAll()) return "pages";
  const name = shown.job.file.name.replace(/[\\/:*?"<>|\u0000-\u001f]/g, "_");
  return shown.page.index === null ? name : `${name}-p${shown.page.index + 1}`;
}

async function copied(text, words) {
  toast((await copy(text)) ? words : "The browser did not allow copying. Select the text and copy it yourself.");
}

byId("copy").addEventListener("click", () => {
  const pages = chosen();
  copied(pages.length === 1 ? textOf(pages[0]) : textForm(pages), takesAll() ? "Text of all pages copied" : "Text copied");
});
byId("save-txt").addEventListener("click", () => download(textForm(chosen()), `${stem()}.txt`, "text/plain;charset=utf-8"));
byId("save-json").addEventListener("click", () => download(jsonForm(chosen()), `${stem()}.json`, "application/json"));
byId("all").addEventListener("change", drawActions);

// --- files in

function take(files) {
  if (files.length === 0) return;
  say(`${counted(files.length, "file")} added`);
  queue.add(files);
}

function choose() {
  byId("files").value = "";
  byId("files").click();
}

byId("choose").addEventListener("click", choose);
byId("add").addEventListener("click", choose);
byId("files").addEventListener("change", (event) => take([...event.target.files]));

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length === 0) return;
  event.preventDefault();
  take(files.map((file) => (/^image\.\w+$/.test(file.name) ? renamed(file) : file)));
});

/** Browsers call every pasted picture image.png; people paste several. */
function renamed(file) {
  pasted += 1;
  return new File([file], `pasted-${pasted}.${file.name.split(".").pop()}`, { type: file.type });
}

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
window.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  byId("drag").hidden = false;
});
window.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) byId("drag").hidden = true;
});
window.addEventListener("drop", (event) => {
  byId("drag").hidden = true;
  if (!hasFiles(event)) return;
  event.preventDefault();
  take([...event.dataTransfer.files]);
});

// --- progress, messages, key, theme

function progress(at) {
  byId("work").hidden = at === null;
  if (!at) return;
  byId("progress").max = at.total;
  if (at.total > 1) byId("progress").value = at.finished;
  else byId("progress").removeAttribute("value"); // how far one file is nobody knows
  const pages = at.job.pages ? `, ${counted(at.job.pages, "page")} so far` : "";
  byId("progress-text").textContent = `Reading ${at.finished + 1} of ${counted(at.total, "file")}${pages}`;
}

byId("stop").addEventListener("click", () => queue.stop());
byId("clear").addEventListener("click", () => {
  queue.stop();
  for (const entry of entries.splice(0)) {
    entry.item.remove();
    if (entry.url) URL.revokeObjectURL(entry.url);
    URL.revokeObjectURL(entry.job.url);
  }
  show(null);
  picture.clear();
  layOut();
  byId("choose").focus();
});

for (const [id, step] of [["zoom-in", 1], ["zoom-out", -1], ["zoom-fit", 0]]) {
  byId(id).addEventListener("click", () => zoom(step));
}

function zoom(step) {
  const { least, most } = picture.zoomBy(step);
  byId("zoom-out").disabled = byId("zoom-fit").disabled = least;
  byId("zoom-in").disabled = most;
}

byId("boxes").addEventListener("click", () => {
  const hidden = byId("stage").classList.toggle("no-boxes");
  byId("boxes").setAttribute("aria-pressed", String(!hidden));
});

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

/** The API key, in this variable and nowhere else. */
function createKeys() {
  let key = "";
  const waiting = [];
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key = byId("key").value.trim();
    byId("key").value = "";
    byId("key-form").hidden = true;
    waiting.splice(0).forEach((resolve) => resolve());
    about();
  });
  const ask = (signal, refused) => new Promise((resolve, reject) => {
    open(refused);
    byId("key").focus();
    waiting.push(resolve);
    signal.addEventListener("abort", () => {
      byId("key-form").hidden = true;
      reject(signal.reason);
    }, { once: true });
  });
  function open(refused) {
    byId("key-title").textContent = refused ? "The server refused this key" : "This server asks for a key";
    byId("key-form").hidden = false;
    say(byId("key-title").textContent);
  }
  return { current: () => key, ask, open };
}

/** What the service runs, for the footer; without an answer the footer stays empty. */
async function about() {
  try {
    const told = await models(keys.current());
    const names = told.models.map((model) => model.name);
    const parts = [`ocr-onnx ${told.version}`, `models ${told.name}`, ...names, told.device];
    byId("about").textContent = parts.filter(Boolean).join(" · ");
  } catch (error) {
    if (error.status === 401) keys.open(keys.current() !== "");
  }
}

let toastTimer = 0;
function toast(words) {
  say(words);
  byId("toast").textContent = words;
  byId("toast").classList.add("up");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => byId("toast").classList.remove("up"), 2500);
}

function say(words) {
  byId("say").textContent = words;
}

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function sentence(words) {
  const start = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

about();

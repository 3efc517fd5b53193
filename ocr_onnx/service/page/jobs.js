// Files are read one after another. What a file has become so far is a row of entries: one per page as it
// arrives, one per page that failed, and at their end, until the file is done, one for the file itself.
//
// An entry: {job, name, state, page, error, note, url, drawnIn}; state is "waiting", "reading", "stopped",
// "failed" or "done". `url` is the picture to show, null without one; `drawnIn` says that it has boxes already.

import { readFile, ReadError } from "./reading.js";

const MAX_TRIES = 6; // of a service that is busy
const MAX_WAIT_S = 60;

/**
 * `view`: insert(entry, before or null), changed(entry), remove(entry), progress({finished, total, job} or null).
 * `keys`: current() gives the API key or "", ask(signal, refused) resolves once there is another one.
 */
export function createQueue(view, keys) {
  const jobs = [];
  let current = null;
  let finished = 0;
  let total = 0;

  function add(files) {
    for (const file of files) {
      const job = { file, url: URL.createObjectURL(file), shown: false, entries: [], abort: null, pages: 0 };
      append(job, entryOf(job, "waiting"));
      jobs.push(job);
    }
    total += files.length;
    work();
  }

  async function work() {
    if (current) return tell();
    while ((current = jobs.shift())) {
      tell();
      await run(current);
      finished += 1;
    }
    current = null;
    finished = total = 0;
    view.progress(null);
  }

  async function run(job) {
    const tail = job.entries.at(-1);
    job.abort = new AbortController();
    change(tail, { state: "reading", error: null, note: "" });
    try {
      job.shown = await browserShows(job.url);
      if (job.shown) change(tail, { url: job.url });
      await readPatiently(job, tail);
    } catch (error) {
      if (error.name === "AbortError") change(tail, { state: "stopped", note: "" });
      else if (error instanceof ReadError) change(tail, { state: "failed", note: "", error });
      else throw error;
    }
  }

  /** Read, wait and try again while the service is busy, and ask for a key where it wants one. */
  async function readPatiently(job, tail) {
    for (let tries = 1; ; tries += 1) {
      const key = keys.current();
      try {
        return await readOnce(job, tail, key);
      } catch (error) {
        const busy = error instanceof ReadError && error.retryAfterS !== null && tries < MAX_TRIES;
        if (error.status === 401) {
          change(tail, { note: "Waiting for a key." });
          await keys.ask(job.abort.signal, key !== "");
        } else if (busy) {
          await countDown(job, tail, Math.min(Math.ceil(error.retryAfterS), MAX_WAIT_S));
        } else throw error;
        change(tail, { note: "" });
      }
    }
  }

  async function readOnce(job, tail, key) {
    const request = { picture: !job.shown, key, signal: job.abort.signal };
    for await (const event of readFile(job.file, request)) {
      if (event.page) append(job, pageEntry(job, event.page), tail);
      else if (event.failed) append(job, failedEntry(job, event.failed.error), tail);
      tell();
    }
    if (job.entries.length === 1) throw nothing(job.file.name);
    job.entries.pop();
    view.remove(tail);
  }

  async function countDown(job, tail, seconds) {
    for (let left = seconds; left > 0; left -= 1) {
      change(tail, { note: `The service is busy. Trying again in ${left} s.` });
      await pause(1000, job.abort.signal);
    }
  }

  function retry(job) {
    if (job === current || jobs.includes(job)) return;
    const tail = entryOf(job, "waiting");
    const old = job.entries.splice(0);
    view.insert(tail, old[0]);
    job.entries.push(tail);
    job.pages = 0;
    old.forEach((entry) => drop(entry));
    jobs.push(job);
    total += 1;
    work();
  }

  /** Stop what is read and waits; pages that are there stay. */
  function stop() {
    for (const job of jobs.splice(0)) {
      change(job.entries.at(-1), { state: "stopped" });
      total -= 1;
    }
    current?.abort.abort();
  }

  function append(job, entry, before = null) {
    job.entries.splice(before ? job.entries.indexOf(before) : job.entries.length, 0, entry);
    view.insert(entry, before);
  }

  function drop(entry) {
    if (entry.url && entry.url !== entry.job.url) URL.revokeObjectURL(entry.url);
    view.remove(entry);
  }

  function change(entry, values) {
    Object.assign(entry, values);
    view.changed(entry);
  }

  const tell = () => view.progress({ finished, total, job: current });
  return { add, retry, stop };
}

function entryOf(job, state) {
  const name = job.file.name;
  return { job, name, state, page: null, error: null, note: "", url: null, drawnIn: false };
}

function pageEntry(job, { picture = null, ...page }) {
  job.pages += 1;
  const url = picture ? URL.createObjectURL(pictureBlob(picture)) : job.shown ? job.url : null;
  return { ...entryOf(job, "done"), page, url, drawnIn: Boolean(picture) };
}

function failedEntry(job, error) {
  return { ...entryOf(job, "failed"), error: new ReadError(error), url: job.shown ? job.url : null };
}

function pictureBlob(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new Blob([bytes], { type: "image/jpeg" });
}

/** Whether the browser can show a file as a picture; a PDF, most TIFFs and broken files it can't. */
async function browserShows(url) {
  const image = new Image();
  image.src = url;
  return image.decode().then(() => true, () => false);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

const nothing = (subject) => new ReadError({
  kind: "empty", subject,
  problem: "the service found no page in it",
  remedy: "Check the file, or export it again from where it came from.",
});

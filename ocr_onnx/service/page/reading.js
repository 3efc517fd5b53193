// The service's answers: a file goes in, events come out ({page}, {error}, {done}), as they arrive.

/** What went wrong, in the service's own words or in ours where it did not get to answer. */
export class ReadError extends Error {
  constructor({ kind, subject, problem, remedy, requestId = null }, { status = null, retryAfterS = null } = {}) {
    super(`${subject}: ${problem}; ${remedy}`);
    Object.assign(this, { kind, subject, problem, remedy, requestId, status, retryAfterS });
  }
}

/**
 * Send one file and yield the answer's events, the last of which is {done}.
 * `picture` asks for the service's picture of each page. Throws ReadError, or AbortError after `signal`.
 */
export async function* readFile(file, { picture, key, signal }) {
  const body = new FormData();
  body.append("file", file, file.name);
  body.append("picture", String(picture));
  const headers = { Accept: "application/x-ndjson", ...authorization(key) };
  const answer = await ask("v1/read", file.name, { method: "POST", body, headers, signal });
  for await (const line of lines(answer.body, file.name)) {
    const event = parse(line, file.name);
    yield event;
    if (event.done) return;
  }
  throw brokeOff(file.name);
}

/** What the service runs: {name, models: [{stage, name, sha256}], device, provider, version}. */
export async function models(key) {
  const answer = await ask("v1/models", "the service", { headers: authorization(key) });
  return answer.json();
}

const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function ask(address, subject, request) {
  let answer;
  try {
    answer = await fetch(address, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ReadError({
      kind: "unreachable", subject,
      problem: "the service could not be reached",
      remedy: "Check that it is running and that you are connected, then try again.",
    });
  }
  if (!answer.ok) throw await refusal(answer, subject);
  return answer;
}

async function refusal(answer, subject) {
  const told = (await answer.json().catch(() => null))?.error ?? {};
  return new ReadError({
    kind: told.kind ?? "refused",
    subject: told.subject ?? subject,
    problem: told.problem ?? `the service answered with status ${answer.status}`,
    remedy: told.remedy ?? "Try again; if it happens again, look at the service's log.",
    requestId: told.requestId ?? null,
  }, { status: answer.status, retryAfterS: retryAfterS(answer) });
}

function retryAfterS(answer) {
  const header = answer.headers.get("Retry-After");
  if (header === null) return null;
  const seconds = Number(header);
  return Math.max(1, Number.isFinite(seconds) ? seconds : (Date.parse(header) - Date.now()) / 1000 || 1);
}

/** The lines of a stream of bytes, without the empty ones. */
async function* lines(stream, subject) {
  const reader = stream.getReader(); // not through a TextDecoderStream, which drops what it holds at a break
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await next(reader, subject);
    const parts = (rest + decoder.decode(value, { stream: !done })).split("\n");
    rest = done ? "" : parts.pop();
    yield* parts.filter((part) => part.trim());
    if (done) return;
  }
}

async function next(reader, subject) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw brokeOff(subject);
  }
}

function parse(line, subject) {
  let event = null;
  try {
    event = JSON.parse(line);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  const error = event?.failed?.error;
  if (typeof error?.problem === "string" && typeof error.remedy === "string") return event;
  if (Array.isArray(event?.page?.lines) || event?.done) return event;
  throw new ReadError({
    kind: "answer", subject,
    problem: "a part of the answer could not be understood",
    remedy: "Try again; if it happens again, something between this page and the service changes its answers.",
  });
}

const brokeOff = (subject) => new ReadError({
  kind: "connection", subject,
  problem: "the connection broke off before the answer was complete",
  remedy: "What had arrived is shown. Try again to read the file once more.",
});

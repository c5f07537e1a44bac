// The chat page: asks the server that it came from, over the same API as any client, and shows what comes back.
// Everything that a server or a model sent is put in with textContent; URLs are relative, so a root path is no matter.
"use strict";

const KEY_ITEM = "octavo.key";
const POLL_MS = 1000;
const OPENING = "A blank page. Write below to begin.";
const byId = (id) => document.getElementById(id);

const state = {
  mode: "chat",
  messages: [], // the chat so far, as the API wants it, without the system prompt
  running: null, // the AbortController of the answer under way
  keyAsked: null, // the promise of a key dialog that is open: two refused requests share one
};

// ---------------------------------------------------------------------------------------------- talking to the server

class ServerError extends Error {}

/** fetch() with the key. Asks for one as often as the server answers 401; other bad answers throw a ServerError. */
async function ask(path, init = {}) {
  for (;;) {
    const response = await fetch(path, { ...init, headers: { ...init.headers, ...keyHeader() } });
    if (response.ok) return response;
    const message = await errorText(response);
    if (response.status !== 401) throw new ServerError(message);
    state.keyAsked ??= askKey(message).finally(() => { state.keyAsked = null; });
    if (!(await state.keyAsked)) throw new ServerError(message);
  }
}

function keyHeader() {
  const key = sessionStorage.getItem(KEY_ITEM);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function errorText(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered ${response.status} ${response.statusText}`.trim() + (text ? `: ${text}` : "");
  }
}

/** The data of each server-sent event of a body, wherever the network cut it: in a line, a line end, a character. */
async function* sseData(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let pending = "";
  let data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += decoder.decode(value, { stream: true });
    const lines = pending.split(/\r\n|\n|\r(?!$)/); // a last \r may be half of \r\n: wait for what follows
    pending = lines.pop();
    for (const line of lines) {
      if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      } else if (line.startsWith("data:")) {
        data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  }
}

/** The chunks of a streamed answer. Throws a ServerError where the stream carries one or ends before its end. */
async function* chunks(path, body, signal) {
  const response = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  for await (const data of sseData(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message);
    yield chunk;
  }
  throw new ServerError("The connection ended before the answer did.");
}

// ------------------------------------------------------------------------------------------------------------ the key

/** Opens the dialog; true when a key was given (it is kept for this tab), false when the reader declined. */
function askKey(reason) {
  const dialog = byId("key-dialog");
  byId("key-reason").textContent = reason;
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
  });
}

function keepKey(event) {
  event.preventDefault();
  sessionStorage.setItem(KEY_ITEM, byId("key").value.trim());
  byId("forget").hidden = false;
  byId("key").value = "";
  byId("key-dialog").close("given");
}

function forgetKey() {
  sessionStorage.removeItem(KEY_ITEM);
  byId("forget").hidden = true;
  byId("prompt").focus();
}

// ---------------------------------------------------------------------------------------------------------- a request

async function loadModels() {
  const select = byId("model");
  try {
    const { data } = await (await ask("v1/models")).json();
    select.replaceChildren(...data.map((model) => new Option(model.id, model.id)));
    select.disabled = false;
    byId("opening").textContent = OPENING;
    document.title = `${select.value} · octavo`;
    return true;
  } catch (error) {
    byId("opening").textContent = `No model answers. ${explain(error)}`;
    select.replaceChildren(new Option("no model", ""));
    return false;
  }
}

/** The parameters that were filled in; one left empty is left to the server. */
function parameters() {
  const filled = ["temperature", "top_p", "max_tokens", "seed"].filter((name) => byId(name).value !== "");
  return Object.fromEntries(filled.map((name) => [name, byId(name).valueAsNumber]));
}

function requestBody(prompt) {
  const body = {
    model: byId("model").value,
    ...parameters(),
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true }, // a stopped answer has its count too
  };
  if (state.mode === "completion") return ["v1/completions", { ...body, prompt }];
  const system = byId("system").value.trim();
  const opening = system ? [{ role: "system", content: system }] : [];
  return ["v1/chat/completions", { ...body, messages: [...opening, ...state.messages] }];
}

async function send() {
  const input = byId("prompt");
  const prompt = input.value;
  if (state.running || !prompt.trim()) return;
  if (!byId("parameters").checkValidity()) {
    byId("margin").open = true;
    byId("parameters").reportValidity();
    return;
  }
  const answering = new AbortController();
  setRunning(answering);
  input.value = "";
  fitInput();
  const turn = openTurn(prompt);
  const chat = state.mode === "chat";
  if (chat) state.messages.push({ role: "user", content: prompt });
  const text = await answer(turn, prompt, answering);
  if (chat && text) state.messages.push({ role: "assistant", content: text });
  if (chat && !text) state.messages.pop();
  if (!text && !input.value) input.value = prompt; // nothing came of it: it can be sent again
  setRunning(null);
  fitInput();
}

/** Streams an answer into its turn. Returns its text, as far as it came. */
async function answer(turn, prompt, answering) {
  const start = performance.now();
  const seen = { first: null, last: null, tokens: 0, finish: null };
  let text = "";
  try {
    if (byId("model").disabled && !(await loadModels())) throw new ServerError("There is no model to ask.");
    for await (const chunk of chunks(...requestBody(prompt), answering.signal)) {
      const choice = chunk.choices[0];
      const piece = (choice?.delta ? choice.delta.content : choice?.text) ?? "";
      if (choice?.finish_reason) seen.finish = choice.finish_reason;
      if (chunk.usage) seen.tokens = chunk.usage.completion_tokens;
      if (!piece) continue;
      seen.last = performance.now();
      seen.first ??= seen.last;
      text += piece;
      appendText(turn, piece);
    }
  } catch (error) {
    if (error.name === "AbortError") seen.finish = "stopped";
    else showError(turn, explain(error));
  }
  closeTurn(turn, figures(seen, start));
  return text;
}

function explain(error) {
  if (error instanceof ServerError) return error.message;
  return `The server could not be reached, or its answer not read (${error.message}).`;
}

/** Tokens, their rate after the first one, and the time that the first took, in words. */
function figures({ first, last, tokens, finish }, start) {
  const parts = [];
  if (tokens) parts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
  if (tokens > 1 && last > first) parts.push(`${((1000 * (tokens - 1)) / (last - first)).toFixed(1)} tokens/s`);
  if (first !== null) parts.push(`first token after ${seconds(first - start)}`);
  if (finish === "length") parts.push("cut at the token limit");
  if (finish === "stopped") parts.push("stopped by you");
  return parts.join(" · ");
}

function seconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

// ----------------------------------------------------------------------------------------------------------- the page

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A question and the empty place for its answer; in completion mode the answer goes on where the prompt ends. */
function openTurn(prompt) {
  const turn = element("article", "turn");
  const question = element("div", "text prompt", prompt);
  const reply = element("div", "text answer waiting");
  if (state.mode === "chat") {
    turn.append(element("h2", "who", "You"), question, element("h2", "who", byId("model").value || "Model"), reply);
  } else {
    const page = element("div", "text");
    question.className = reply.className = "";
    const given = element("span", "given", prompt);
    reply.className = "answer waiting";
    page.append(given, reply);
    turn.append(page);
  }
  turn.setAttribute("aria-busy", "true"); // screen readers read the answer when it is whole, not each token
  byId("opening").hidden = true;
  byId(state.mode).append(turn);
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
  return turn;
}

function appendText(turn, piece) {
  const reply = turn.querySelector(".answer");
  reply.classList.remove("waiting");
  keepAtEnd(() => {
    const part = reply.lastElementChild ?? reply.appendChild(element("span", ""));
    part.append(piece);
    setCode(part, /^```.*\n/m);
  });
}

/** Where a part of an answer holds a fence, what follows goes into a part of its own: code, or text after code. */
function setCode(part, fence) {
  const found = fence.exec(part.textContent);
  if (!found) return;
  const [before, after] = [found.input.slice(0, found.index), found.input.slice(found.index + found[0].length)];
  const next = part.className === "code" ? element("span", "", after) : element("code", "code", after);
  part.textContent = before.replace(/\n$/, "");
  part.after(next);
  setCode(next, fence);
}

function showError(turn, message) {
  const shown = element("p", "error", message);
  shown.setAttribute("role", "alert");
  keepAtEnd(() => turn.append(shown));
}

function closeTurn(turn, line) {
  const reply = turn.querySelector(".answer");
  reply.classList.remove("waiting");
  reply.normalize();
  if (reply.lastElementChild?.className === "code") setCode(reply.lastElementChild, /^```\s*$/m);
  if (reply.lastElementChild?.textContent === "") reply.lastElementChild.remove();
  turn.removeAttribute("aria-busy");
  if (line) keepAtEnd(() => turn.append(element("p", "figures", line)));
  announce(line);
}

/** Changes the page; a reader who was at its end stays there, one who scrolled up is left alone. */
function keepAtEnd(change) {
  const scroll = byId("scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
  change();
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
}

function announce(message) {
  byId("status").textContent = message;
}

function setRunning(answering) {
  state.running = answering;
  byId("send").hidden = answering !== null;
  byId("stop").hidden = answering === null;
  byId("modes").disabled = byId("clear").disabled = answering !== null;
  byId("prompt").focus();
}

function setMode(mode) {
  state.mode = mode;
  byId("chat").hidden = mode !== "chat";
  byId("completion").hidden = mode !== "completion";
  byId("system-label").hidden = mode !== "chat";
  byId("prompt-label").textContent = mode === "chat" ? "Message" : "Text to continue";
  byId("prompt").placeholder = mode === "chat" ? "Write a message" : "Write a text for the model to continue";
  byId("opening").hidden = byId(mode).childElementCount > 0;
}

function clear() {
  byId(state.mode).replaceChildren();
  if (state.mode === "chat") state.messages = [];
  byId("opening").hidden = false;
  byId("prompt").focus();
}

function fitInput() {
  const input = byId("prompt");
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
}

// ----------------------------------------------------------------------------------------------------- the live panel

/** The values of a metric in Prometheus's text form, one for each set of labels. */
function metricValues(text, name) {
  const line = new RegExp(`^${name}(?:\\{.*\\})? (\\S+)`, "gm");
  return [...text.matchAll(line)].map((match) => Number(match[1]));
}

async function showLoad() {
  const note = byId("load-note");
  try {
    const response = await fetch("metrics", { headers: keyHeader(), cache: "no-store" });
    if (!response.ok) throw new ServerError(`/metrics answers ${response.status}`);
    const text = await response.text();
    const sum = (name) => metricValues(text, name).reduce((total, value) => total + value, 0);
    const usage = Math.max(0, ...metricValues(text, "vllm:kv_cache_usage_perc"));
    byId("running").textContent = sum("vllm:num_requests_running");
    byId("waiting").textContent = sum("vllm:num_requests_waiting");
    byId("kv").textContent = `${(100 * usage).toFixed(1)} %`;
    setMeter(100 * usage);
    note.hidden = true;
  } catch (error) {
    for (const id of ["running", "waiting", "kv"]) byId(id).textContent = "–";
    setMeter(0);
    note.textContent = error instanceof ServerError ? error.message : "The server can't be reached";
    note.hidden = false;
  }
}

function setMeter(percent) {
  byId("kv-meter").setAttribute("aria-valuenow", percent.toFixed(1));
  byId("kv-meter").firstElementChild.style.width = `${percent}%`;
}

let nextPoll = null;

/** Shows the load now and again after each pause, while the page is visible; never two polls at a time. */
async function poll() {
  clearTimeout(nextPoll);
  nextPoll = null;
  if (document.visibilityState !== "visible") return;
  await showLoad();
  clearTimeout(nextPoll);
  nextPoll = setTimeout(poll, POLL_MS);
}

// -------------------------------------------------------------------------------------------------------------- start

function onKey(event) {
  if (event.key === "Escape" && state.running && !byId("key-dialog").open) state.running.abort();
}

function onPromptKey(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
}

byId("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
byId("parameters").addEventListener("submit", (event) => event.preventDefault());
byId("prompt").addEventListener("keydown", onPromptKey);
byId("prompt").addEventListener("input", fitInput);
byId("stop").addEventListener("click", () => state.running?.abort());
byId("clear").addEventListener("click", clear);
byId("forget").addEventListener("click", forgetKey);
byId("key-form").addEventListener("submit", keepKey);
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("modes").addEventListener("change", (event) => setMode(event.target.value));
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", poll);

byId("margin").open = matchMedia("(min-width: 56rem)").matches;
byId("forget").hidden = !sessionStorage.getItem(KEY_ITEM);
setMode(document.querySelector("input[name=mode]:checked").value); // a reload keeps the chosen one
byId("prompt").focus();
loadModels();
poll();

/** One conversation with the assistant, from the question to the answer and what is thought of it. */

import { addTurn, renderAnswer, renderError, renderUnfinished } from "./answer.js";
import { add, say, showLanguage } from "./elements.js";
import { addFeedback } from "./feedback.js";
import { Busy, complete, fetchReadiness, keepKey } from "./service.js";
import { switchLanguage } from "./texts.js";

const HISTORY_MESSAGES = 20;
const POLL_MS = 3000;
const NEAR_BOTTOM_PX = 40;
const LONGEST_WAIT_S = 120;

const $ = (id) => document.getElementById(id);
const main = document.querySelector("main");
const isEmbedded = new URLSearchParams(location.search).has("embed");
let conversation = { id: newId(), turns: [] }; // finished turns only: a failed question is not sent twice
let running = null; // the AbortController of the answer being streamed

async function ask(question, waitsIfBusy = true) {
  const { id, turns } = conversation; // "New conversation" replaces it: a late answer lands in the old one
  const controller = new AbortController();
  setRunning(controller);
  const { turn, answer, text } = addTurn($("log"), question);
  $("welcome").hidden = true;
  main.scrollTop = main.scrollHeight;

  const asked = { role: "user", content: question };
  let content = "";
  let reply = null;
  let evidence = {};
  const draw = oncePerFrame(() => keepBottom(() => renderUnfinished(text, content)));
  try {
    for await (const chunk of complete([...turns, asked].slice(-HISTORY_MESSAGES), id, controller.signal)) {
      content += chunk.choices?.[0]?.delta?.content ?? "";
      reply = chunk.id ?? reply;
      evidence = chunk.assistant ?? evidence;
      draw();
    }
    draw.cancel();
    turns.push(asked, { role: "assistant", content });
    keepBottom(() => {
      renderAnswer(answer, text, content, evidence);
      if (reply) addFeedback(answer, reply);
    });
    $("announcement").textContent = `${text.textContent.replace(/\s*\[\d+\]/g, "")} ${evidence.notice ?? ""}`.trim();
  } catch (error) {
    draw.cancel();
    if (error instanceof Busy && waitsIfBusy && (await waited(answer, error, controller.signal))) {
      turn.remove();
      return void ask(question, false);
    }
    const stopped = controller.signal.aborted;
    if (stopped && content) turns.push(asked, { role: "assistant", content });
    keepBottom(() => {
      renderAnswer(answer, text, content, {});
      if (stopped) say(add(answer, "p", "badge"), "stopped");
      else renderError(answer, error, () => retry(turn, question));
    });
  } finally {
    answer.ariaBusy = "false";
    if (running === controller) setRunning(null);
  }
}

function retry(turn, question) {
  if (running) return;
  turn.remove();
  $("question").focus();
  ask(question);
}

/** Count down until the service takes requests again; false if that is too long, or the reader stops it. */
async function waited(answer, { retryAfterS }, signal) {
  if (retryAfterS > LONGEST_WAIT_S) return false;
  const box = add(answer, "div", "waiting");
  say(add(box, "span"), "busy").role = "alert";
  const count = add(box, "p", "fine");
  say(add(count, "span"), "inSeconds");
  const left = add(count, "b");
  left.role = "timer";
  for (let seconds = Math.ceil(retryAfterS); seconds > 0 && !signal.aborted; seconds -= 1) {
    left.textContent = ` ${seconds}`;
    await new Promise((resolve) => {
      setTimeout(resolve, 1000);
      signal.addEventListener("abort", resolve, { once: true });
    });
  }
  box.remove();
  return !signal.aborted;
}

/** `draw`, at most once for each frame of the screen. */
function oncePerFrame(draw) {
  let frame = 0;
  const later = () => { frame ||= requestAnimationFrame(() => { frame = 0; draw(); }); };
  later.cancel = () => cancelAnimationFrame(frame);
  return later;
}

/** Follow the text only if the reader was at its end. */
function keepBottom(change) {
  const atBottom = main.scrollHeight - main.scrollTop - main.clientHeight < NEAR_BOTTOM_PX;
  change();
  if (atBottom) main.scrollTop = main.scrollHeight;
}

/** A random UUID; crypto.randomUUID is there only on HTTPS and on this computer. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40; // version 4
  bytes[8] = (bytes[8] & 0x3f) | 0x80; // RFC 9562's variant
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

// --- Readiness and controls ---

async function watchReadiness() {
  const state = await fetchReadiness();
  const ready = state?.ready === true;
  say($("status"), ready ? "ready" : state ? "starting" : "offline").classList.toggle("ready", ready);
  $("reason").textContent = state?.reason ?? "";
  if (!ready) setTimeout(watchReadiness, POLL_MS);
}

function setRunning(controller) {
  running = controller;
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
}

function submit() {
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  ask(question);
}

function startAnew() {
  running?.abort();
  setRunning(null);
  conversation = { id: newId(), turns: [] };
  $("log").replaceChildren();
  $("announcement").textContent = "";
  $("welcome").hidden = false;
  $("question").focus();
}

/** The widget of another page shows this one in a frame: it says when to take the focus, and is told of Escape. */
function listenToWidget() {
  document.body.classList.add("embedded");
  addEventListener("message", ({ source, data }) => {
    if (source === parent && data?.assistant === "focus") $("question").focus();
  });
  addEventListener("keydown", ({ key, isComposing }) => {
    if (key === "Escape" && !isComposing && !$("dialog").open) parent.postMessage({ assistant: "close" }, "*");
  });
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("question").addEventListener("keydown", (event) => {
  // 229: Safari ends the composition before the Enter that confirmed it
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  submit();
});
$("stop").addEventListener("click", () => { running?.abort(); $("question").focus(); });
$("new").addEventListener("click", startAnew);
$("language").addEventListener("click", () => { switchLanguage(); showLanguage(); });
for (const example of document.querySelectorAll("#welcome button")) {
  example.addEventListener("click", () => { $("question").focus(); ask(example.textContent); });
}
addEventListener("hashchange", keepKey);
keepKey();
if (isEmbedded) listenToWidget();
else $("question").focus();
showLanguage();
watchReadiness();

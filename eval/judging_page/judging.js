/** Two answers side by side, and which of them a person prefers. */

import { add } from "../../page/elements.js";
import { language, languageOf, switchLanguage } from "../../page/texts.js";

const TEXTS = {
  en: {
    title: "Which answer is better?", otherLanguage: "中文", judging: "Question and answers", undo: "Undo",
    key: "API key of an administrator", unlock: "Continue",
    task: "You will see a customer's question and two answers. Which would you rather have sent?",
    name: "Your name, or a nickname", run: "Evaluation", begin: "Begin",
    none: "No evaluation is finished yet. It is made by: assistant evaluate ab", customer: "Customer", assistant: "Assistant",
    a: "Answer A", b: "Answer B", empty: "(empty answer)", reference: "Reference answer",
    passages: "Passages of the help centre", why: "Why? (optional, before you choose)", relevance: "Relevance",
    correctness: "Correctness", readability: "Readability", left: "A better", right: "B better", tie: "Tie",
    end: "That was the last one. Thank you!", of: " of ", unreachable: "The service cannot be reached; try again.",
    refused: "This key is not an administrator's.",
  },
  zh: {
    title: "哪个回答更好？", otherLanguage: "English", judging: "问题与回答", undo: "撤销", key: "管理员的 API 密钥", unlock: "继续",
    task: "您将看到客户的问题和两个回答。您更愿意发送哪一个？", name: "您的姓名或昵称", run: "评测", begin: "开始",
    none: "还没有完成的评测。请先运行：assistant evaluate ab", customer: "客户", assistant: "客服", a: "回答 A", b: "回答 B",
    empty: "（空回答）", reference: "参考答案", passages: "帮助中心段落", why: "理由（可选，请先勾选再投票）", relevance: "切题",
    correctness: "正确", readability: "易读", left: "A 更好", right: "B 更好", tie: "不相上下",
    end: "已全部评完，谢谢！", of: " / ", unreachable: "无法连接服务，请重试。", refused: "此密钥不是管理员的密钥。",
  },
};
const KEYS = { 1: "left", 2: "right", 3: "tie" };

const $ = (id) => document.getElementById(id);
const footer = document.querySelector("footer");
let kept = {}; // .judge, .run
let secret = {}; // .adminKey
try { kept = localStorage; secret = sessionStorage; } catch { /* blocked: they last until the page is closed */ }
let shown = null; // what the service sent last: done, total, pair
let isBusy = false;

// --- The evaluation and its pairs ---

async function open() {
  try {
    const runs = await request("");
    $("unlock").hidden = true;
    $("none").hidden = runs.length > 0;
    $("begin").hidden = runs.length === 0;
    $("run").replaceChildren(...runs.map(({ id, at }) => new Option(`${at.slice(0, 16).replace("T", " ")} · ${id}`, id)));
    if (runs.some(({ id }) => id === kept.run)) $("run").value = kept.run;
    $("judge").value = kept.judge ?? "";
    (kept.judge ? $("begin").querySelector("button") : $("judge")).focus();
  } catch (error) {
    if (![401, 403].includes(error.status)) throw error;
    $("unlock").hidden = false;
    $("key").focus();
    if (secret.adminKey) throw Object.assign(error, { key: "refused" });
  }
}

async function begin() {
  kept.judge = $("judge").value.trim();
  kept.run = $("run").value;
  await showNext();
  $("begin").hidden = true;
  document.querySelector("main").focus();
}

async function showNext() {
  show(await request(`/${encodeURIComponent(kept.run)}/next?judge=${encodeURIComponent(kept.judge)}`));
}

async function vote(preferred) {
  const reasons = new FormData($("reasons")).getAll("reason");
  const given = { judge: kept.judge, case: shown.pair.case, preferred, reasons };
  await request(`/${encodeURIComponent(kept.run)}/votes`, "POST", given);
  await showNext();
}

async function undo() {
  if (!shown?.done) return;
  show(await request(`/${encodeURIComponent(kept.run)}/votes?judge=${encodeURIComponent(kept.judge)}`, "DELETE"));
}

async function request(path, method = "GET", given = null) {
  const headers = secret.adminKey ? { Authorization: `Bearer ${secret.adminKey}` } : {};
  if (given) headers["Content-Type"] = "application/json";
  const response = await fetch(`judging/runs${path}`, { method, headers, body: given && JSON.stringify(given) });
  const answer = await response.json().catch(() => null); // a proxy's error page is not JSON
  if (response.ok) return answer;
  throw Object.assign(new Error(answer?.error?.message ?? `HTTP ${response.status}`), { status: response.status });
}

/** Do `work` unless something is on its way already, and say what went wrong. */
async function alone(work) {
  if (isBusy) return;
  isBusy = true;
  try {
    await work();
    $("error").hidden = true;
  } catch (error) {
    $("error").hidden = false;
    if (error.status && !error.key) write($("error"), error.message);
    else say($("error"), error.key ?? "unreachable");
  } finally {
    isBusy = false;
  }
}

// --- What one sees ---

function show(next) {
  shown = next;
  const { pair } = next;
  $("pair").hidden = footer.hidden = !pair;
  $("end").hidden = pair !== null;
  $("undo").hidden = next.done === 0;
  $("reasons").reset();
  showProgress();
  if (!pair) return;
  $("asked").replaceChildren();
  for (const { role, content } of pair.asked) {
    const said = add($("asked"), "p", role === "user" ? "question" : "said");
    say(add(said, "span", "unseen"), role === "user" ? "customer" : "assistant");
    write(add(said, "span"), content);
  }
  for (const [at, id] of ["left", "right"].entries()) {
    if (pair.answers[at]) write($(id), pair.answers[at]);
    else say($(id), "empty");
  }
  $("reference").hidden = !pair.reference;
  write($("reference").querySelector("p"), pair.reference ?? "");
  $("passages").hidden = pair.passages.length === 0;
  const passages = $("passages").querySelector("div");
  passages.replaceChildren();
  for (const { path, heading, text } of pair.passages) {
    write(add(passages, "h3"), `${path} · ${heading.replaceAll(" > ", " › ")}`);
    write(add(passages, "p"), text);
  }
  document.querySelector("main").scrollTop = 0;
}

function showProgress() {
  if (!shown) return;
  const number = Math.min(shown.done + 1, shown.total);
  $("progress").textContent = `${number}${TEXTS[language].of}${shown.total} · ${kept.judge}`;
}

/** Make `node` say `content`, which is nobody's markup. */
function write(node, content) {
  delete node.dataset.text;
  node.textContent = content;
  node.lang = languageOf(content);
}

/** Make `node` say the text named `key`, now and after a change of language. */
function say(node, key) {
  node.dataset.text = key;
  node.textContent = TEXTS[language][key];
  node.lang = language;
}

function showLanguage() {
  document.documentElement.lang = language;
  document.title = TEXTS[language].title;
  for (const node of document.querySelectorAll("[data-text]")) say(node, node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.ariaLabel = TEXTS[language][node.dataset.label];
  $("language").lang = language === "zh" ? "en" : "zh";
  showProgress();
}

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  secret.adminKey = $("key").value.trim();
  alone(open);
});
$("begin").addEventListener("submit", (event) => { event.preventDefault(); alone(begin); });
$("reasons").addEventListener("submit", (event) => event.preventDefault());
$("undo").addEventListener("click", () => alone(undo));
$("language").addEventListener("click", () => { switchLanguage(); showLanguage(); });
for (const button of document.querySelectorAll("#choice button")) {
  button.addEventListener("click", () => alone(() => vote(button.value)));
}
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !$("begin").hidden) return;
  if (event.key in KEYS && !footer.hidden) alone(() => vote(KEYS[event.key]));
  else if (event.key.toLowerCase() === "u") alone(undo);
});
showLanguage();
alone(open);

/** What the nights came to, which release serves, and going back to the one before. */

import { add } from "../../page/elements.js";
import { language, languageOf, switchLanguage } from "../../page/texts.js";

const TEXTS = {
  en: {
    title: "Operations", otherLanguage: "中文", judging: "Judge answers", key: "API key of an administrator",
    unlock: "Continue", last: "Last night", empty: "There has been no night yet",
    start: "A night learns from the day's conversations, and replaces what serves only if that is better. " +
      "Say in nightly.yaml, in ASSISTANT_HOME, where logs and cases lie (the README shows how); then begin with:",
    startThen: "Then have cron or a systemd timer do the same every night. This page shows what came of it.",
    missed: "Questions without an article", missedWhat: "What customers asked and no passage answered, by how many asked.",
    noMisses: "None in the last night.", customers: "customers", customer: "customer", nights: "Nights", began: "Began",
    ended: "Result", fresh: "New records", facts: "Facts", took: "Took", curves: "Quality over nights",
    served: "The release that serves:", rows: "Records: kept, duplicates, quarantined", releases: "Releases",
    noRelease: "No release serves yet.", live: "live", rollback: "Go back to the release before",
    rollbackWhat: "Requests that are being answered are finished by the release that they began with.",
    cancel: "Cancel", reports: "Evaluation reports", noReports: "No evaluation is finished yet.",
    promoted: "Promoted", kept: "Kept", failed: "Failed", waiting: "Waiting for approval", rules: "Rules of the gate",
    steps: "Steps", counts: "Records", topics: "Topics", articles: "Articles", added: "added", changed: "changed",
    removed: "removed", evaluation: "Report of the evaluation", challenger: "Challenger",
    champion: "Champion", bound: "bound", why: "Reasons", from: "Serves now", to: "Served before", goBack: "Go back to",
    serves: "Now live:", gone: "its file is gone", adapter: "adapter", index: "index", none: "none",
    unreachable: "The service cannot be reached; try again.", refused: "This key is not an administrator's.",
    plotOf: "by night, the oldest first:", yourName: "Your name", approve: "Approve", approvedBy: "Approved by",
    promoteBy: "It goes live by:", onTrial: "On trial", ofCustomers: "of the customers", until: "until",
    stop: "Stop the trial of",
  },
  zh: {
    title: "运维", otherLanguage: "English", judging: "评审回答", key: "管理员的 API 密钥", unlock: "继续", last: "最近一晚",
    empty: "还没有运行过夜间任务", start: "夜间任务从当天的对话中学习，只有更好时才替换线上版本。" +
      "请先在 ASSISTANT_HOME 的 nightly.yaml 中写明日志和用例的位置（格式见 README），然后运行：",
    startThen: "之后用 cron 或 systemd 定时器每晚运行。结果会显示在本页。", missed: "缺少文章的问题",
    missedWhat: "客户问过、但没有任何段落能回答的问题，按提问人数排序。", noMisses: "最近一晚没有。", customers: "位客户",
    customer: "位客户", nights: "历次夜间任务", began: "开始时间", ended: "结果", fresh: "新记录", facts: "事实齐全", took: "用时",
    curves: "质量变化", served: "线上版本：", rows: "记录：保留、重复、隔离", releases: "版本", noRelease: "还没有线上版本。",
    live: "线上", rollback: "回退到上一版本", rollbackWhat: "正在回答的请求仍由其开始时的版本完成。", cancel: "取消",
    reports: "评测报告", noReports: "还没有完成的评测。", promoted: "已上线", kept: "维持原版本", failed: "失败", waiting: "等待批准",
    rules: "上线规则", steps: "步骤", counts: "记录", topics: "主题", articles: "文章", added: "新增", changed: "修改", removed: "删除",
    evaluation: "评测报告", challenger: "候选版本", champion: "原版本", bound: "界限", why: "原因",
    from: "当前线上", to: "之前线上", goBack: "回退到", serves: "当前线上：", gone: "文件已不存在", adapter: "适配器", index: "索引",
    none: "无", unreachable: "无法连接服务，请重试。", refused: "此密钥不是管理员的密钥。", plotOf: "按时间先后：",
    yourName: "您的姓名", approve: "批准", approvedBy: "已批准：", promoteBy: "上线请运行：",
    onTrial: "试用中", ofCustomers: "的客户", until: "截至", stop: "停止试用",
  },
};

const MOST_HISTORY = 10; // releases; the command line lists all

const $ = (id) => document.getElementById(id);
const t = (key) => TEXTS[language][key];
let secret = {}; // .adminKey
try { secret = sessionStorage; } catch { /* blocked: it lasts until the page is closed */ }
let nights = [];
let releases = { live: null, before: null, proposed: [], history: [] };
let reports = [];
let canary = null; // the release on trial
const opened = new Set(); // ids of nights
let isBusy = false;

// --- Requests ---

async function open() {
  try {
    const all = ["nights", "releases", "evaluations", "canary"].map((name) => request(name));
    [nights, releases, reports, canary] = await Promise.all(all);
    $("unlock").hidden = true;
    $("content").hidden = false;
    show();
    attempt(showPlots); // nobody waits for it
  } catch (error) {
    if (![401, 403].includes(error.status)) throw error;
    $("unlock").hidden = false;
    $("key").focus();
    if (secret.adminKey) throw Object.assign(error, { key: "refused" });
  }
}

async function rollBack() {
  $("confirm").close();
  try {
    releases = await request("rollback", "POST", { live: releases.live, to: releases.before });
    $("done").textContent = `${t("serves")} ${releases.live}`;
  } catch (error) {
    if (error.status === 409) releases = await request("releases");
    throw error;
  } finally {
    showReleases();
  }
}

async function approve(name, by) {
  releases = await request("approve", "POST", { name, by });
  showReleases();
}

async function stop(release) {
  canary = await request("stop", "POST", { release });
  showReleases();
}

async function read(id) {
  const { ticket } = await request(`evaluations/${encodeURIComponent(id)}/ticket`, "POST");
  location.assign(`operations/evaluations/${encodeURIComponent(id)}?ticket=${ticket}`);
}

async function request(path, method = "GET", given = null) {
  const headers = secret.adminKey ? { Authorization: `Bearer ${secret.adminKey}` } : {};
  if (given) headers["Content-Type"] = "application/json";
  const response = await fetch(`operations/${path}`, { method, headers, body: given && JSON.stringify(given) });
  if (response.ok && response.headers.get("Content-Type").startsWith("image/")) return response.text();
  const answer = await response.json().catch(() => null); // a proxy's error page is not JSON
  if (response.ok) return answer;
  throw Object.assign(new Error(answer?.error?.message ?? `HTTP ${response.status}`), { status: response.status });
}

/** Do `work`, unless something is on its way already. */
async function alone(work) {
  if (isBusy) return;
  isBusy = true;
  $("error").hidden = true;
  await attempt(work);
  isBusy = false;
}

/** Do `work`, and say what went wrong. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    $("error").hidden = false;
    write($("error"), error.status && !error.key ? error.message : t(error.key ?? "unreachable"));
  }
}

// --- What one sees ---

function show() {
  const [last] = nights;
  for (const id of ["last", "missed", "nights", "curves"]) $(id).hidden = !last;
  $("empty").hidden = Boolean(last);
  if (last) {
    showWord($("word"), last.word);
    $("when").textContent = time(last.at);
    list($("reasons"), last.reasons);
    showMisses(last.misses);
    showNights();
    showMetrics();
  }
  showReleases();
  $("no-reports").hidden = reports.length > 0;
  const links = $("reports").querySelector("ul");
  links.replaceChildren();
  for (const id of reports) link(add(links, "li"), id, id);
}

function showMisses(misses) {
  $("no-misses").hidden = misses.length > 0;
  $("misses").replaceChildren();
  for (const { label, count, examples } of misses) {
    const topic = add($("misses"), "details");
    const summary = add(topic, "summary");
    write(add(summary, "b"), label);
    add(summary, "span").textContent = `${count} ${t(count === 1 ? "customer" : "customers")}`;
    list(add(topic, "ul"), examples);
  }
}

function showNights() {
  const body = $("nights").querySelector("tbody");
  body.replaceChildren();
  for (const [at, night] of nights.entries()) {
    const row = add(body, "tr");
    const button = add(add(row, "td"), "button");
    button.textContent = time(night.at);
    showWord(add(add(row, "td"), "b", "word"), night.word);
    add(row, "td", "number wide").textContent = number(night.counts.new);
    add(row, "td", "number").textContent = change(earlier(at), night.metrics.facts);
    add(row, "td", "number wide").textContent = duration(seconds(night));
    const detail = add(body, "tr", "detail");
    const cell = add(detail, "td");
    cell.colSpan = 5;
    const unfold = (isOpen) => {
      detail.hidden = !isOpen;
      button.ariaExpanded = String(isOpen);
      if (isOpen && !cell.firstChild) showDetail(cell, night);
    };
    button.addEventListener("click", () => {
      opened[opened.has(night.id) ? "delete" : "add"](night.id);
      unfold(opened.has(night.id));
    });
    unfold(opened.has(night.id));
  }
}

function showDetail(cell, night) {
  part(cell, "why", night.reasons, (node, reason) => write(node, reason));
  part(cell, "rules", night.rulings, (node, ruling) => {
    node.className = ruling.passed ? "passed" : "broken";
    write(add(node, "b"), `${ruling.rule} `);
    write(add(node, "span"), ruling.reason);
    const interval = ruling.low === null ? "" : ` (${figure(ruling.low)} … ${figure(ruling.high)})`;
    const decided = ruling.number === null ? t("none") : figure(ruling.number);
    add(node, "div", "figures").textContent = `${ruling.metric}: ${decided}${interval}, ${t("bound")} ${figure(ruling.bound)}`;
  });
  part(cell, "steps", night.steps, (node, step) => {
    const memory = `${(step.memory_bytes / 2 ** 30).toFixed(1)} GB`;
    const took = `${duration(step.seconds)} · CPU ${duration(step.cpu_s)} · ${memory}`;
    write(node, `${step.name}: ${took}`);
  });
  const counts = Object.entries(night.counts);
  if (counts.length > 0) {
    add(cell, "h3").textContent = t("counts");
    const all = add(cell, "dl", "counts");
    for (const [name, count] of counts) {
      const pair = add(all, "div");
      write(add(pair, "dt"), name);
      add(pair, "dd").textContent = number(count);
    }
  }
  part(cell, "topics", night.topics, (node, topic) => write(node, `${topic.label}: ${number(topic.count)}`));
  const articles = Object.entries(night.articles).filter(([, paths]) => paths.length > 0);
  part(cell, "articles", articles, (node, [what, paths]) => write(node, `${t(what)}: ${paths.join(", ")}`));
  part(cell, "releases", ["champion", "challenger"].filter((role) => night[role]), (node, role) =>
    write(node, `${t(role)}: ${night[role]}`));
  if (reports.includes(night.evaluation)) link(add(cell, "p"), night.evaluation, t("evaluation"));
}

/** A heading and a list, where there is anything to list. */
function part(parent, key, items, showItem) {
  if (items.length === 0) return;
  add(parent, "h3").textContent = t(key);
  const all = add(parent, "ul");
  for (const item of items) showItem(add(all, "li"), item);
}

function showMetrics() {
  const names = [...new Set(nights.flatMap((night) => Object.keys(night.metrics)))];
  const chosen = $("metric").value || "facts";
  $("metric").replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) $("metric").value = chosen;
}

async function showPlots() {
  if (nights.length === 0) return;
  const name = $("metric").value;
  const [metric, rows] = await Promise.all([
    request(`plots/metric.svg?name=${encodeURIComponent(name)}&lang=${language}`),
    request(`plots/rows.svg?lang=${language}`),
  ]);
  const measured = nights.filter((night) => name in night.metrics).reverse();
  const values = measured.map((night) => `${day(night.at)} ${figure(night.metrics[name])}`);
  picture($("metric-plot"), metric, `${name}, ${t("plotOf")} ${values.join("; ")}`);
  const fresh = nights.toReversed().map((night) => `${day(night.at)} ${number(night.counts.new)}`);
  picture($("rows-plot"), rows, `${t("fresh")}, ${t("plotOf")} ${fresh.join("; ")}`);
}

function picture(image, svg, alt) {
  image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
  image.alt = alt;
}

function showReleases() {
  $("no-release").hidden = releases.live !== null;
  $("rollback").hidden = releases.before === null;
  $("proposed").replaceChildren(...(canary ? [trial(canary)] : []), ...releases.proposed.map(proposal));
  $("history").replaceChildren();
  for (const [at, entry] of releases.history.slice(0, MOST_HISTORY).entries()) {
    const item = add($("history"), "li");
    add(item, "code").textContent = entry.release;
    if (at === 0 && entry.release === releases.live) {
      item.append(" ");
      const badge = add(item, "b", "word");
      badge.dataset.word = "promoted";
      badge.textContent = t("live");
    }
    add(item, "div", "fine").textContent = `${time(entry.at)} · ${parts(entry.parts)}`;
  }
}

/** The release on trial, and a button that ends that. */
function trial({ release, share: part, until }) {
  const item = document.createElement("li");
  add(item, "code").textContent = release;
  item.append(" ");
  showWord(add(item, "b", "word"), "onTrial");
  add(item, "div", "fine").textContent = `${share(part)} ${t("ofCustomers")} · ${t("until")} ${time(until)}`;
  const button = add(item, "button");
  button.type = "button";
  button.textContent = `${t("stop")} ${release}`;
  button.addEventListener("click", () => alone(() => stop(release)));
  return item;
}

/** A release that waits for a signature, or has one and is not live yet. */
function proposal({ at, release, parts: made, approval }) {
  const item = document.createElement("li");
  add(item, "code").textContent = release;
  item.append(" ");
  if (!approval) showWord(add(item, "b", "word"), "waiting");
  add(item, "div", "fine").textContent = `${time(at)} · ${parts(made)}`;
  if (approval) {
    write(add(item, "div"), `${t("approvedBy")} ${approval.by}, ${time(approval.at)}`);
    add(item, "div").append(`${t("promoteBy")} `);
    add(item.lastChild, "code").textContent = `assistant release promote ${release}`;
    return item;
  }
  const form = add(item, "form");
  const label = add(form, "label");
  label.textContent = `${t("yourName")} `;
  const name = add(label, "input");
  Object.assign(name, { required: true, maxLength: 60, autocomplete: "name" });
  const button = add(form, "button");
  button.type = "submit";
  button.textContent = `${t("approve")} ${release}`;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    alone(() => approve(release, name.value));
  });
  return item;
}

function askForRollback() {
  $("confirm-title").textContent = t("rollback");
  $("change").replaceChildren();
  for (const [key, name] of [["from", releases.live], ["to", releases.before]]) {
    add($("change"), "dt").textContent = t(key);
    const value = add($("change"), "dd");
    add(value, "code").textContent = name;
    const entry = releases.history.find((each) => each.release === name);
    add(value, "div", "fine").textContent = `${time(entry.at)} · ${parts(entry.parts)}`;
  }
  $("agree").textContent = `${t("goBack")} ${releases.before}`;
  $("confirm").showModal();
}

function link(parent, id, said) {
  const node = add(parent, "a");
  node.href = `operations/evaluations/${encodeURIComponent(id)}`;
  write(node, said);
  node.addEventListener("click", (event) => {
    if (!secret.adminKey) return; // nobody needs a key here
    event.preventDefault();
    alone(() => read(id));
  });
}

function showWord(node, word) {
  node.dataset.word = word;
  node.textContent = t(word);
}

function list(parent, texts) {
  parent.replaceChildren();
  for (const text of texts) write(add(parent, "li"), text);
}

/** Make `node` say `content`, which is nobody's markup. */
function write(node, content) {
  node.textContent = content;
  node.lang = languageOf(content);
}

function parts(release) {
  if (!release) return t("gone");
  return `${t("adapter")} ${release.adapter ?? t("none")} · ${t("index")} ${release.index ?? t("none")}`;
}

const locale = () => (language === "zh" ? "zh-CN" : "en-GB");
const time = (at) => new Date(at).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "short" });
const day = (at) => new Date(at).toLocaleDateString(locale(), { dateStyle: "medium" });
const number = (count) => (count === undefined ? "–" : count.toLocaleString(language));
const figure = (value) => value.toLocaleString(language, { maximumFractionDigits: 3 });
const share = (value) => (value === undefined ? "–" : `${(100 * value).toFixed(1)}%`);
const change = (before, after) => (before === undefined ? share(after) : `${share(before)} → ${share(after)}`);
const seconds = (night) => night.steps.reduce((sum, step) => sum + step.seconds, 0);

/** The facts of the night before the one at this place that has any. */
const earlier = (at) => nights.slice(at + 1).find((night) => "facts" in night.metrics)?.metrics.facts;

function duration(taken) {
  if (taken < 60) return `${taken.toFixed(taken < 10 ? 1 : 0)} s`;
  const minutes = Math.round(taken / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function showLanguage() {
  document.documentElement.lang = language;
  document.title = t("title");
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.ariaLabel = t(node.dataset.label);
  $("language").lang = language === "zh" ? "en" : "zh";
}

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  secret.adminKey = $("key").value.trim();
  alone(open);
});
$("language").addEventListener("click", () => {
  switchLanguage();
  showLanguage();
  if ($("content").hidden) return;
  show();
  attempt(showPlots);
});
$("metric").addEventListener("change", () => attempt(showPlots));
$("rollback").addEventListener("click", askForRollback);
$("cancel").addEventListener("click", () => $("confirm").close());
$("agree").addEventListener("click", () => alone(rollBack));
showLanguage();
alone(open);

/** What an answer looks like. */

import { openArticle } from "./article.js";
import { add, say } from "./elements.js";
import { fromMarkdown, settled } from "./markdown.js";
import { Busy, KeyError, ServiceError } from "./service.js";
import { languageOf } from "./texts.js";

const ROUTES = ["grounded", "quoted", "adapter", "clarify", "refuse", "handoff"];

/** Add a question to `log`, and the empty answer to it. */
export function addTurn(log, question) {
  const turn = add(log, "article");
  const asked = add(turn, "p", "question");
  asked.textContent = question;
  asked.lang = languageOf(question);
  const answer = add(turn, "div", "answer");
  answer.ariaBusy = "true";
  return { turn, answer, text: add(answer, "div", "text") };
}

/** Show what has come of an answer. */
export function renderUnfinished(text, content) {
  renderText(text, settled(content), null);
}

/** Show a whole answer with what supports it. */
export function renderAnswer(answer, text, content, { route, notice, citations = [], unsupported = [], ...made }) {
  renderText(text, content, citations);
  if (ROUTES.includes(route)) {
    answer.dataset.route = route;
    const badge = add(answer, "p", "badge");
    if (notice) badge.textContent = notice;
    else say(badge, route);
    badge.title = [made.release, made.adapter, made.index].filter(Boolean).join(" · "); // for a colleague in support
  }
  if (unsupported.length) {
    const line = add(answer, "p", "unsupported");
    say(add(line, "span"), "unsupported");
    line.append(` ${unsupported.join(" · ")}`);
  }
  for (const citation of citations) {
    const source = addOpener(answer, "source", citation);
    source.lang = languageOf(citation.quote);
    add(source, "b").textContent = `[${citation.n}] ${citation.heading.replaceAll(" > ", " › ")}`;
    add(source, "q").textContent = citation.quote;
  }
}

/** Say why there is no answer, or only a part of one. */
export function renderError(answer, error, retry) {
  const box = add(answer, "div", "error");
  const message = add(box, "p");
  message.role = "alert";
  say(add(message, "strong"), "failed");
  message.append(" ");
  if (error instanceof KeyError) say(add(message, "span"), error.hadKey ? "keyRefused" : "keyNeeded");
  else if (error instanceof Busy) say(add(message, "span"), "tooMany");
  else if (error instanceof ServiceError && error.message) message.append(error.message);
  else say(add(message, "span"), error instanceof ServiceError ? "cut" : "unreachable");
  console.warn(error);
  say(add(box, "button"), "retry").addEventListener("click", retry);
}

/** Show `content` with its markers as buttons; `citations` is null while they are still to come. */
function renderText(node, content, citations) {
  const fragment = fromMarkdown(content);
  const walker = document.createTreeWalker(fragment, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const text of texts) text.replaceWith(...text.data.split(/(\[\d+\])/).map((part) => markerOf(part, citations)));
  node.lang = languageOf(content);
  replaceChanged(node, fragment);
}

function markerOf(part, citations) {
  if (!/^\[\d+\]$/.test(part)) return part;
  const holder = document.createDocumentFragment();
  const citation = citations?.find(({ n }) => `[${n}]` === part);
  if (citation) addOpener(holder, "marker", citation).textContent = part;
  else if (citations) return part;
  else add(holder, "span", "marker").textContent = part;
  return holder;
}

/** Make the blocks of `fragment` those of `node`; blocks that are the same stay, and what is selected in them. */
function replaceChanged(node, fragment) {
  const blocks = [...fragment.childNodes];
  const old = [...node.childNodes];
  let same = 0;
  while (same < blocks.length && same < old.length && blocks[same].isEqualNode(old[same])) same += 1;
  for (const block of old.slice(same)) block.remove();
  node.append(...blocks.slice(same));
}

function addOpener(parent, className, citation) {
  const button = add(parent, "button", className);
  if (className === "marker") button.ariaLabel = `[${citation.n}] ${citation.heading}`;
  button.addEventListener("click", () => openArticle(citation));
  return button;
}

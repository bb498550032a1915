/** Elements, and what they say in the language of the page. */

import { language, text } from "./texts.js";

export function add(parent, tag, className = "") {
  const node = document.createElement(tag);
  if (tag === "button") node.type = "button";
  node.className = className;
  parent.append(node);
  return node;
}

/** Make `node` say the text named `key`, now and after a change of language. */
export function say(node, key) {
  node.dataset.text = key;
  if (node.textContent !== text(key)) node.textContent = text(key); // a status that did not change is not read again
  return node;
}

/** Make the text named `key` the accessible name of `node`, and a button's tooltip. */
export function label(node, key) {
  node.dataset.label = key;
  node.ariaLabel = text(key);
  if (node.tagName === "BUTTON") node.title = text(key);
  return node;
}

export function showLanguage() {
  document.documentElement.lang = language;
  document.title = text("title");
  for (const node of document.querySelectorAll("[data-text]")) say(node, node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) label(node, node.dataset.label);
}

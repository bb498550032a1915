/** The cited article, opened at the place. */

import { add, say } from "./elements.js";
import { fetchArticle } from "./service.js";

const dialog = document.getElementById("dialog");
const article = document.getElementById("article");
let opened = null; // the citation in the dialog

export async function openArticle(citation) {
  opened = citation;
  article.replaceChildren();
  const note = say(add(article, "p"), "loading");
  dialog.showModal();
  const source = await fetchArticle(citation.path);
  if (opened !== citation) return;
  if (source === null) return void say(note, "noArticle");
  note.remove();
  render(article, source, citation);
  article.querySelector("mark")?.scrollIntoView({ block: "center" });
}

function render(node, { title, text: source, language }, { quote, start: place }) {
  const signs = /\*\*|^\|[ |:-]+\|\n|^\| | \|$/gm; // of bold text and of tables
  const clean = (part) => part.replaceAll("\r", "").replace(signs, "").replace(/^[-*] /gm, "• ");
  const characters = [...source]; // `place` counts them as Python does, where an emoji is one
  const before = clean(characters.slice(0, place).join(""));
  const text = before + clean(characters.slice(place).join(""));
  const [start, end] = findQuote(text, quote, before.length);
  node.lang = language;
  if (!/^#+ /.test(source.trimStart())) add(node, "h3").textContent = title;
  let at = 0;
  for (const line of text.split("\n")) {
    const sign = /^#+ +/.exec(line)?.[0] ?? "";
    const row = add(node, sign ? "h3" : "p", /^(•|\d+\.) /.test(line) ? "item" : "");
    const within = (place) => Math.min(Math.max(place - at, sign.length), line.length);
    row.append(line.slice(sign.length, within(start)));
    if (within(start) < within(end)) add(row, "mark").textContent = line.slice(within(start), within(end));
    row.append(line.slice(within(end)));
    at += line.length + 1;
  }
}

/** Start and end of `quote` in `text` from `place` on, whatever the spaces and signs; [0, 0] if it is not there. */
function findQuote(text, quote, place) {
  const letters = [...text.matchAll(/[^\s*_`#>|•-]/g)].filter(({ index }) => index >= place);
  const wanted = quote.replace(/[\s*_`#>|•-]/g, "");
  const first = letters.join("").indexOf(wanted);
  return wanted && first >= 0 ? [letters[first].index, letters[first + wanted.length - 1].index + 1] : [0, 0];
}

document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // on the backdrop
dialog.addEventListener("close", () => { opened = null; });

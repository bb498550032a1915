/** Markdown of an answer as elements; nothing in it can run, or load anything. */

import { Marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js"; // a classic script: it leaves DOMPurify on the window

const TAGS = "p br strong em code pre ul ol li blockquote a table thead tbody tr th td h3 h4 h5 h6 hr".split(" ");

const UNFINISHED = [
  /!?\[(?!\d+\]$)[^[\]\n]{0,200}(?:\](?:\([^()\n]*)?)?$/, // a link, or a citation marker
  /(?:^|\n)\|[^\n]*(?:\n[|: -]*)?$/, // a row of a table
  /(?:^|\n)[ \t]*(?:[-*+#>]+|\d+\.?)[ \t]*$/, // the sign of an item or a heading
  /\*+$/,
];

const never = () => undefined;
const marked = new Marked({
  breaks: true,
  tokenizer: {
    html: never, tag: never, // shown as text: answers hold <CARD_1>, and no markup of their own
    def: never, // "[1]: …" would turn every citation marker into a link
    lheading: never, // a list that has just begun is no underline
    del: never, // "3~5 days, or 7~10" is a range
    emStrong(source) {
      // CommonMark leaves **重要：**之后 as it is: no bold ends between punctuation and a letter without a space
      const [raw, inner] = /^\*\*(?=\S)([^*\n]*[^*\s])\*\*(?!\*)/.exec(source) ?? [];
      return raw ? { type: "strong", raw, text: inner, tokens: this.lexer.inlineTokens(inner) } : false;
    },
  },
  renderer: {
    image({ tokens }) { return this.parser.parseInline(tokens, this.parser.textRenderer); },
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // the page has the first two
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

/** The elements of `content`, in a fragment. */
export function fromMarkdown(content) {
  const fragment = globalThis.DOMPurify.sanitize(marked.parse(content), {
    ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "start", "align"], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i, RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    link.title = link.href; // where it leads, whatever it says
  }
  return fragment;
}

/** What can be shown of an answer that is still being written: no half link, row or sign; bold text closed. */
export function settled(content) {
  const whole = UNFINISHED.reduce((text, end) => text.replace(end, ""), content).trimEnd();
  const block = whole.slice(whole.lastIndexOf("\n\n") + 1);
  return block.split("**").length % 2 ? whole : `${whole}**`;
}

/**
 * A chat button for any page; the chat itself opens in a frame.
 *
 * <script src="https://bot.example/page/widget.js"
 *         data-lang="zh" data-colour="#0b6675" data-title="Support" defer></script>
 */
(() => {
  "use strict";

  const TEXTS = {
    en: { title: "Support", open: "Open chat", close: "Close chat" },
    zh: { title: "在线客服", open: "打开对话", close: "关闭对话" },
  };
  const CHAT = "M4 4h16a2 2 0 0 1 2 2v9a2 2 0 0 1-2 2H10l-5 4v-4H4a2 2 0 0 1-2-2V6a2 2 0 0 1 2-2z";
  const CROSS = "M6 4.6 12 10.6 18 4.6 19.4 6 13.4 12 19.4 18 18 19.4 12 13.4 6 19.4 4.6 18 10.6 12 4.6 6z";
  const STYLE = `
    :host { all: initial !important; }
    * { box-sizing: border-box; }
    [hidden] { display: none !important; }
    button { border: 0; color: var(--ink); background: var(--colour); cursor: pointer; }
    :focus-visible { outline: 3px solid var(--ink); outline-offset: -6px; }
    svg { display: block; fill: currentcolor; }
    .launcher, .panel { position: fixed; z-index: 2147483647; right: 20px; box-shadow: 0 4px 20px rgb(0 0 0 / .3); }
    .launcher { bottom: 20px; padding: 15px; border-radius: 50%; }
    .panel {
      bottom: 92px; width: min(400px, 100vw - 40px); height: min(640px, 100dvh - 112px);
      display: flex; flex-direction: column; overflow: hidden; border-radius: 14px; background: var(--colour);
    }
    .bar { display: flex; align-items: center; color: var(--ink); font: 600 16px/1.4 system-ui, sans-serif; }
    .title { flex: 1; min-width: 0; padding: 8px 16px; overflow-wrap: anywhere; }
    .bar button { padding: 12px; }
    iframe { flex: 1; width: 100%; border: 0; background: Canvas; }
    @media (max-width: 480px), (max-height: 480px) {
      .panel { inset: 0; width: auto; height: auto; border-radius: 0; }
      .launcher[aria-expanded=true] { display: none; }
    }
    @media (prefers-reduced-motion: no-preference) {
      .panel { animation: rise .15s ease-out; }
      @keyframes rise { from { opacity: 0; transform: translateY(8px); } }
    }
  `;

  const script = document.currentScript;
  const language = (script.dataset.lang || document.documentElement.lang || navigator.language).slice(0, 2);
  const texts = TEXTS[language] ?? TEXTS.en;
  const title = script.dataset.title || texts.title;
  const colour = /^#[0-9a-f]{6}$/i.test(script.dataset.colour) ? script.dataset.colour : "#0b6675";
  const page = new URL(`../?embed&lang=${language === "zh" ? "zh" : "en"}`, script.src);

  function start() {
    if (document.querySelector("assistant-widget")) return;
    const host = document.createElement("assistant-widget");
    const root = host.attachShadow({ mode: "open" }); // the styles of the page do not reach it
    const sheet = new CSSStyleSheet(); // a <style> would need 'unsafe-inline' in the page's policy
    sheet.replaceSync(`:host { --colour: ${colour}; --ink: ${inkOn(colour)}; } ${STYLE}`);
    root.adoptedStyleSheets = [sheet];

    const launcher = addButton(root, "launcher", CHAT, 26);
    launcher.ariaExpanded = "false";
    const panel = add(root, "div", "panel");
    panel.role = "dialog";
    panel.ariaLabel = title;
    panel.hidden = true;
    const bar = add(panel, "div", "bar");
    add(bar, "div", "title").textContent = title;
    const cross = addButton(bar, "cross", CROSS, 20);
    cross.ariaLabel = cross.title = texts.close;
    let frame = null; // made when the chat is first opened: until then the page loads nothing more

    function focusChat() {
      frame.focus();
      frame.contentWindow.postMessage({ assistant: "focus" }, page.origin);
    }

    function show(isOpen) {
      panel.hidden = !isOpen;
      launcher.ariaExpanded = String(isOpen);
      launcher.ariaLabel = launcher.title = isOpen ? texts.close : texts.open;
      if (!isOpen) return;
      if (frame) return void focusChat();
      frame = add(panel, "iframe");
      frame.title = title;
      frame.addEventListener("load", focusChat);
      frame.src = page.href;
    }

    function close() {
      show(false);
      launcher.focus();
    }

    launcher.addEventListener("click", () => (panel.hidden ? show(true) : close()));
    cross.addEventListener("click", close);
    root.addEventListener("keydown", ({ key }) => { if (key === "Escape" && !panel.hidden) close(); });
    addEventListener("message", ({ source, origin, data }) => {
      if (frame && source === frame.contentWindow && origin === page.origin && data?.assistant === "close") close();
    });
    show(false);
    document.body.append(host);
  }

  function add(parent, tag, className = "") {
    const node = document.createElement(tag);
    node.className = className;
    parent.append(node);
    return node;
  }

  function addButton(parent, className, path, size) {
    const button = add(parent, "button", className);
    button.type = "button";
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const attributes = { viewBox: "0 0 24 24", width: size, height: size, "aria-hidden": "true" };
    for (const [name, value] of Object.entries(attributes)) icon.setAttribute(name, value);
    shape.setAttribute("d", path);
    icon.append(shape);
    button.append(icon);
    return button;
  }

  /** Black or white, whichever has the higher contrast on `colour` (WCAG 2.2, relative luminance). */
  function inkOn(colour) {
    const [red, green, blue] = [1, 3, 5]
      .map((at) => parseInt(colour.slice(at, at + 2), 16) / 255)
      .map((share) => (share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000" : "#fff";
  }

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start, { once: true });
  else start();
})();

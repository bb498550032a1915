/** What the customer thinks of an answer. */

import { add, label, say } from "./elements.js";
import { sendFeedback, ServiceError } from "./service.js";

const REASONS = ["wrong", "incomplete", "unclear", "other"];

/** Add thumbs to `answer`, and the form that opens after thumbs down; `id` is that of the chat completion. */
export function addFeedback(answer, id) {
  const bar = add(answer, "div", "feedback");
  const up = label(add(bar, "button", "thumb up"), "helpful");
  const down = label(add(bar, "button", "thumb down"), "unhelpful");
  const note = add(bar, "span", "fine");
  note.role = "status";
  const change = say(add(bar, "button", "plain"), "change");
  const form = addForm(answer);
  let thumb = null; // what the service knows

  async function send(wanted, reason, correction) {
    try {
      await sendFeedback(id, wanted, reason, correction);
    } catch (error) {
      console.warn(error);
      say(note, "notSent").classList.add("bad");
      if (error instanceof ServiceError) note.append(` ${error.message}`);
      return false;
    }
    thumb = wanted;
    note.classList.remove("bad");
    say(note, thumb ? "thanks" : "withdrawn");
    return true;
  }

  function show(formOpen) {
    up.ariaPressed = String(thumb === "up");
    down.ariaPressed = String(thumb === "down");
    form.hidden = !formOpen;
    change.hidden = formOpen || thumb !== "down";
  }

  up.addEventListener("click", async () => { await send(thumb === "up" ? null : "up"); show(false); });
  down.addEventListener("click", async () => {
    const isSent = await send(thumb === "down" ? null : "down");
    show(isSent && thumb === "down");
    form.scrollIntoView({ block: "nearest" });
  });
  change.addEventListener("click", () => { show(true); form.querySelector("input").focus(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { reason, correction } = Object.fromEntries(new FormData(form));
    const isSent = await send("down", reason ?? null, correction.trim());
    show(!isSent);
    if (isSent) change.focus();
  });
  show(false);
}

function addForm(answer) {
  const form = add(answer, "form", "reasons");
  const choice = add(form, "fieldset");
  say(add(choice, "legend"), "whatWasIt");
  for (const reason of REASONS) {
    const chip = add(choice, "label", "chip");
    const radio = add(chip, "input");
    Object.assign(radio, { type: "radio", name: "reason", value: reason });
    say(add(chip, "span"), reason);
  }
  const field = add(form, "label");
  say(add(field, "span"), "correction");
  Object.assign(add(field, "textarea"), { name: "correction", rows: 2, maxLength: 4000 });
  const submit = say(add(form, "button", "primary"), "sendFeedback");
  submit.type = "submit";
  return form;
}

/** The requests that the page makes, and how they fail. */

const DEFAULT_WAIT_S = 5;

let memory = {}; // .apiKey: sessionStorage has a method .key
try { memory = sessionStorage; } catch { /* blocked: the key lasts until the page is closed */ }

/** What the service says went wrong; its message is for the customer. */
export class ServiceError extends Error {}

/** The service takes no more requests for `retryAfterS` seconds. */
export class Busy extends ServiceError {
  constructor(message, retryAfterS) {
    super(message);
    this.retryAfterS = retryAfterS;
  }
}

/** No key was sent, or one that the service does not know. */
export class KeyError extends ServiceError {
  constructor(message) {
    super(message);
    this.hadKey = Boolean(memory.apiKey);
  }
}

/** Keep the key of an address that ends in #key=…, and take it out of the address bar. */
export function keepKey() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  memory.apiKey = key;
  history.replaceState(null, "", location.pathname + location.search);
}

/** Yield the chunks of one chat completion; throw ServiceError if it is refused, fails or ends before [DONE]. */
export async function* complete(messages, conversation, signal) {
  const body = { model: "assistant", stream: true, messages, metadata: { conversation } };
  const response = await request("v1/chat/completions", body, signal);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const lines = rest.split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServiceError(chunk.error.message);
      yield chunk;
    }
    if (done) throw new ServiceError("");
  }
}

/** Keep what the customer thinks of a reply; a second time replaces the first. */
export async function sendFeedback(id, thumb, reason = null, correction = null) {
  await request("v1/feedback", { id, thumb, reason, correction });
}

/** An indexed article, or null if it cannot be had. */
export async function fetchArticle(path) {
  const response = await request(`v1/articles/${path.split("/").map(encodeURIComponent).join("/")}`).catch(() => null);
  return response && response.json();
}

/** Whether the service is ready, and why not; null if it does not answer. */
export async function fetchReadiness() {
  return fetch("readyz").then((got) => got.json()).catch(() => null);
}

async function request(path, body, signal) {
  const headers = memory.apiKey ? { Authorization: `Bearer ${memory.apiKey}` } : {};
  const sent = body && { method: "POST", body: JSON.stringify(body) };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { ...sent, headers, signal });
  if (response.ok) return response;
  const problem = await response.json().catch(() => null); // a proxy's error page is not JSON
  const message = problem?.error?.message ?? `HTTP ${response.status}`;
  if ([401, 403].includes(response.status)) throw new KeyError(message);
  if (![429, 503].includes(response.status)) throw new ServiceError(message);
  throw new Busy(message, Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S);
}

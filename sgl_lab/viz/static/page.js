/* Shared by all parts of the page: elements, number formats, the meaning of states. */

import { legible } from "./legible.js";

export const TOKEN_STATES = { cached: "○", reused: "↻", computed: "●", generated: "▸", forced: "»", choice: "◆" };
export const TOKEN_WORDS = { cached: "from earlier runs", reused: "reused", computed: "computed", generated: "generated", forced: "forced", choice: "chosen" };
export const TOKEN_MEANING = {
  text: "not computed yet",
  cached: "found in the cache, computed by an earlier run",
  reused: "found in the cache, computed earlier in this run",
  computed: "computed for this run",
  generated: "sampled by the model",
  forced: "forced by the constraint",
  choice: "picked by a select",
};
/** A mark in addition to the state: the token is at a seam of texts. */
export const HEALED = { mark: "⌇", word: "healed", meaning: "healed: the end of a text, encoded again together with the text after it" };
export const NODE_GLYPH = { root: "", cached: "○", computed: "●", running: "▸", locked: "■", gone: "×" };
export const NODE_WORDS = { cached: "from earlier runs", computed: "from this run", locked: "in use", running: "growing", gone: "evicted" };
export const NODE_MEANING = {
  root: "root of the tree",
  cached: "not in use: may be evicted",
  running: "in use: a request grows from here",
  locked: "in use: cannot be evicted",
  gone: "evicted",
};
export const BAR_WORDS = {
  wait: "waiting",
  sent: "sent, no answer yet",
  host: "program's own code",
  forks: "waits for forks",
  found: "from earlier runs",
  reused: "reused",
  prefill: "computed · prefill",
  decode: "generated · decode",
  forced: "forced",
  drafted: "drafted",
  rejected: "rejected drafts",
  score: "scored choices",
  preempted: "preempted",
};
export const BAR_MEANING = {
  wait: "waiting: other requests come first, or the cache has too few free pages",
  sent: "sent: the server queues the request and computes its prompt, and does not report how long each takes",
  host: "no request: the program runs its own code, or a grammar is compiled",
  forks: "no request: the program waits for its forks",
  found: "found in the cache, computed by an earlier run",
  reused: "found in the cache, computed earlier in this run",
  prefill: "prefill: the prompt is computed",
  decode: "decode: tokens are generated",
  forced: "forced by the constraint",
  drafted: "draft tokens, verified in one step",
  rejected: "draft tokens that the model did not choose; their computation is lost",
  score: "choices are scored",
  preempted: "preempted: the cache had too few pages, so it is computed again",
  text: "text",
};

/** Words for states whose origin depends on where the engine is, here and behind an API (draw/palette.py). */
const HERE = {
  cached: TOKEN_WORDS.cached,
  strip: "from earlier runs",
  strip_meaning: "Prompt tokens found in the cache: earlier cells had computed them",
  before: NODE_WORDS.cached,
  new: NODE_WORDS.computed,
  meanings: TOKEN_MEANING,
};
const ELSEWHERE = {
  cached: "cached by the server",
  cached_meaning: "found in the server's cache; for whom it was computed is not reported",
  reused_meaning: "found in the server's cache, where this run had sent it before",
  computed_meaning: "computed for this run, as the server's count tells",
  strip: "cached by the server",
  strip_meaning: "Prompt tokens that the server found in its cache, from this run, from earlier ones or from other clients",
  before: "known before",
  new: "new in this run",
};
ELSEWHERE.meanings = {
  ...TOKEN_MEANING,
  text: "sent; whether it was cached is not reported",
  cached: ELSEWHERE.cached_meaning,
  reused: ELSEWHERE.reused_meaning,
  computed: ELSEWHERE.computed_meaning,
};
export const wordsOf = ({ metrics }) => (metrics?.elsewhere ? ELSEWHERE : HERE);

export const still = matchMedia("(prefers-reduced-motion: reduce)");

export const el = (tag, attrs, ...children) => furnish(document.createElement(tag), attrs, children);
export const svg = (tag, attrs, ...children) => furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, children);

export function furnish(node, attrs = {}, children = []) {
  for (const [name, value] of Object.entries(attrs)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true && !name.startsWith("aria-")) node.setAttribute(name, "");
    else if (value !== null && (value !== false || name.startsWith("aria-"))) node.setAttribute(name, legible(String(value)));
  }
  node.append(...children.map((child) => (child instanceof Node ? child : legible(String(child)))));
  return node;
}

export const tool = (label, text, act) =>
  el("button", { type: "button", class: "sgl-tool", "aria-label": label, title: label, click: act }, text);

export function choice(label, options, value, act) {
  const box = el(
    "select",
    { class: "sgl-pick", "aria-label": label, title: label, change: () => act(box.value) },
    ...options.map((name) => el("option", { value: name, selected: name === value }, name)),
  );
  return box;
}

export function panel(name, title, tools, ...body) {
  return el(
    "section",
    { class: `sgl-panel sgl-${name}`, "aria-label": title },
    el("div", { class: "sgl-bar" }, el("h4", {}, title), ...tools),
    ...body,
  );
}

export function setText(node, text) {
  const shown = legible(String(text));
  if (node.textContent !== shown) node.textContent = shown;
}

/** The data URL of a small picture, as a kernel or a recording gives it; null for anything else. */
export const pictured = (url) => (/^data:image\/(png|jpeg);base64,[A-Za-z0-9+/]+=*$/.test(url ?? "") ? url : null);

/** A picture before its caption. */
export const thumbnail = (url) => el("img", { class: "sgl-thumb", src: url, alt: "" });

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
export const figure = (n) => whole.format(n);
export const brief = (n) => (n < 10_000 ? whole : compact).format(n);
export const count = (n, noun) => `${figure(n)} ${noun}${n === 1 ? "" : "s"}`;
export const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "\u00a0");
export const percent = (share) => (share < 0.0005 ? "<0.1" : (share * 100).toFixed(share > 0.9995 ? 0 : 1)) + "\u2009%";
export const seconds = (ms) =>
  ms < 10 ? `${+ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
export const ordinal = (n) => `${n}${(((n % 100) - (n % 10)) !== 10 && ["", "st", "nd", "rd"][n % 10]) || "th"}`;

/** Arrow keys move a slider, also where JupyterLab has another use for them. */
export function keyed(slider) {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity };
  slider.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [low, high, step] = [slider.min, slider.max, slider.step].map(Number);
    slider.value = clamp(Number(slider.value) + (steps[event.key] * step || 0), low, high);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  });
  return slider;
}

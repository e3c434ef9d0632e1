/* One view of a run: header, numbers, the three panels, the card beside what is pointed at, one cursor for all. */

import { extras } from "./desk.js";
import { TimelinePanel } from "./lanes.js";
import { brief, clamp, count, el, furnish, percent, setText } from "./page.js";
import { TokensPanel } from "./tokens.js";
import { TreePanel } from "./tree.js";

const STOP_ACK_MS = 400;
const SAY_EVERY_MS = 10_000;

let serial = 0;

export class View {
  /* `head` makes what stands on top: the header of a live run, or the player of a recorded one. */
  constructor(store, root, head = (view) => new Header(view)) {
    this.store = store;
    this.root = root;
    this.id = `sgl${++serial}`;
    this.frame = 0;
    this.timers = new Set();
    this.hovered = null;
    this.chosen = null;
    this.saidAt = performance.now();
    this.card = new Card(this);
    this.voice = el("div", { class: "sgl-voice", "aria-live": "polite" });
    this.header = head(this);
    this.metrics = new Metrics(this);
    this.panels = { tokens: new TokensPanel(this), tree: new TreePanel(this), timeline: new TimelinePanel(this) };
    this.extras = extras(this);
    const { options } = store;
    const views = options.views ?? Object.keys(this.panels);
    root.classList.add("sgl-live");
    root.classList.toggle("sgl-dashboard", Boolean(options.dashboard));
    furnish(root, { role: "region", "aria-label": options.title || "Live run" });
    const panels = Object.values(this.panels).map((panel) => panel.root);
    const extra = this.extras.map((each) => each.root);
    root.append(this.header.root, this.metrics.root, ...extra, ...panels, this.card.root, this.voice);
    for (const [name, panel] of Object.entries(this.panels))
      if (options.dashboard && name === "tokens") panel.root.hidden = true;
      else this.header.toggle(name, panel.title, views.includes(name), (on) => this.show(panel, on));
    this.resized = new ResizeObserver(() => this.invalidate());
    this.resized.observe(root);
    store.views.add(this);
    this.changed({ reset: true, status: true });
  }

  show(panel, on) {
    panel.root.hidden = !on;
    this.invalidate();
  }

  changed(change) {
    for (const panel of Object.values(this.panels)) panel.changed(change);
    this.stale ||= Boolean(this.hovered ?? this.chosen);
    this.invalidate();
  }

  // ------------------------------------------------ one cursor

  /** Mark what belongs to a token, node, tail or bar everywhere, as long as it is pointed at. */
  point(cursor) {
    if (!cursor && !this.hovered) return;
    this.hovered = cursor;
    this.stale = true;
    this.invalidate();
  }

  /** Keep it marked, and bring it into sight in the other panels. */
  choose(cursor, from) {
    if (!cursor && !this.chosen) return;
    this.chosen = cursor;
    this.hovered = null;
    this.mark();
    const { tokens, tree, timeline } = this.panels;
    if (cursor && from !== tokens) tokens.reveal();
    if (cursor && from !== tree) tree.show();
    if (cursor && from !== timeline) timeline.reveal();
    this.invalidate();
  }

  mark() {
    this.stale = false;
    const marks = this.store.links(this.hovered ?? this.chosen);
    for (const panel of Object.values(this.panels)) panel.mark(marks);
  }

  // ------------------------------------------------ painting

  invalidate() {
    this.frame ||= requestAnimationFrame((t) => this.paint(t));
  }

  /** Paint again after `ms`, for what ends by itself: carets, ghosts; or do something else then. */
  later(ms, act = () => this.invalidate()) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      act();
    }, ms);
    this.timers.add(timer);
  }

  paint(t) {
    this.frame = 0;
    this.header.paint();
    this.metrics.paint();
    for (const extra of this.extras) extra.paint();
    let again = false;
    const panels = Object.values(this.panels).filter((panel) => !panel.root.hidden);
    for (const panel of panels) if (panel.paint(t)) again = true;
    if (this.stale) {
      this.mark();
      again = true;
    }
    if (again) this.invalidate();
    this.report();
  }

  // ------------------------------------------------ for screen readers

  say(text) {
    setText(this.voice, text);
    this.saidAt = performance.now();
  }

  /** Now and then while a run lasts, and at its end. */
  report() {
    const { status, active, metrics: m } = this.store;
    const ended = this.phase && this.phase !== status.phase && !active;
    this.phase = status.phase;
    if (!m || !(ended || (active && performance.now() - this.saidAt > SAY_EVERY_MS))) return;
    const rate = m.hit_rate === null ? "" : `, hit rate ${percent(m.hit_rate)}`;
    this.say(`${status.text || status.phase}: ${count(m.generated, "token")} generated${rate}, ${count(this.store.nodes.size, "node")} in the tree`);
  }

  close() {
    this.store.views.delete(this);
    this.resized.disconnect();
    cancelAnimationFrame(this.frame);
    for (const timer of this.timers) clearTimeout(timer);
    for (const panel of Object.values(this.panels)) panel.close();
    this.header.close();
    this.root.replaceChildren();
  }
}

// ---------------------------------------------------------------- header: phase, progress, toggles, Stop

/** A button that shows and hides one panel. */
export function toggle(home, name, title, on, show) {
  const flip = (value) => {
    button.setAttribute("aria-pressed", value);
    show(value);
  };
  const press = () => flip(button.getAttribute("aria-pressed") !== "true");
  const button = el("button", { type: "button", class: "sgl-toggle", "data-view": name, "aria-pressed": on, click: press }, title);
  home.append(button);
  show(on);
}

class Header {
  constructor(view) {
    this.view = view;
    this.title = el("span", { class: "sgl-title" });
    this.phase = el("span", { class: "sgl-phase", role: "status" });
    this.toggles = el("div", { class: "sgl-toggles", role: "group", "aria-label": "Views" });
    this.verb = el("span");
    this.stop = el(
      "button",
      { type: "button", class: "sgl-stop", click: () => this.press() },
      el("span", { class: "sgl-square", "aria-hidden": "true" }),
      this.verb,
    );
    this.fill = el("div", { class: "sgl-fill" });
    this.progress = el(
      "div",
      { class: "sgl-progress", role: "progressbar", "aria-label": "Loading", "aria-valuemin": 0, "aria-valuemax": 100 },
      this.fill,
    );
    this.root = el(
      "div",
      { class: "sgl-header" },
      el("span", { class: "sgl-dot", "aria-hidden": "true" }),
      this.title,
      this.phase,
      this.toggles,
      this.stop,
      this.progress,
    );
    this.pressed = false;
    this.failed = false;
  }

  toggle(name, title, on, show) {
    toggle(this.toggles, name, title, on, show);
  }

  paint() {
    const { status, stopping, active } = this.view.store;
    if (!active) this.pressed = false;
    const waiting = this.pressed || stopping;
    this.view.root.dataset.phase = status.phase;
    setText(this.title, this.view.store.options.title || "sgl");
    setText(this.phase, status.text || status.phase);
    this.stop.classList.toggle("sgl-off", !active);
    this.stop.disabled = !active || waiting;
    setText(this.verb, this.failed ? "Not stopped: use the toolbar" : waiting ? "Stopping…" : "Stop");
    const loading = status.phase === "loading";
    const known = typeof status.progress === "number";
    this.progress.classList.toggle("sgl-on", loading);
    this.progress.classList.toggle("sgl-unknown", loading && !known);
    if (known) {
      this.fill.style.transform = `scaleX(${clamp(status.progress, 0, 1)})`;
      this.progress.setAttribute("aria-valuenow", Math.round(100 * status.progress));
    } else {
      this.fill.style.transform = "";
      this.progress.removeAttribute("aria-valuenow");
    }
  }

  /** Ask the kernel; a kernel that cannot listen while a cell runs is interrupted through the server. */
  press() {
    const { store } = this.view;
    this.pressed = true;
    this.failed = false;
    store.model.send({ kind: "stop" });
    this.deadline = setTimeout(async () => {
      if (store.stopping || !store.active || !store.options.kernel_id) return;
      this.failed = !(await interrupt(store.model.get("options")?.kernel_id));
      this.view.invalidate();
    }, STOP_ACK_MS);
    this.view.invalidate();
  }

  close() {
    clearTimeout(this.deadline);
  }
}

async function interrupt(kernel) {
  const config = document.getElementById("jupyter-config-data");
  if (!kernel || !config) return false;
  const { baseUrl = "/", token } = JSON.parse(config.textContent);
  const headers = {};
  const xsrf = /(?:^|;\s*)_xsrf=([^;]+)/.exec(document.cookie);
  if (xsrf) headers["X-XSRFToken"] = decodeURIComponent(xsrf[1]);
  if (token) headers.Authorization = `token ${token}`;
  try {
    const url = new URL(`${baseUrl.replace(/\/*$/, "/")}api/kernels/${encodeURIComponent(kernel)}/interrupt`, location.href);
    if (url.origin !== location.origin) return false; // the token is for nobody else, whatever the page says
    return (await fetch(url, { method: "POST", headers, credentials: "same-origin" })).ok;
  } catch {
    return false;
  }
}

// ---------------------------------------------------------------- metrics strip

class Metrics {
  constructor(view) {
    this.view = view;
    this.fields = {};
    const field = (name, label, hint) => {
      this.fields[name] = el("span", { class: "sgl-value" }, "–");
      return el("div", { class: `sgl-metric sgl-m-${name}`, title: hint }, this.fields[name], el("span", { class: "sgl-label" }, label));
    };
    this.used = el("div", { class: "sgl-used" });
    const pages = field("pages", "pages used", "Pages of the KV pool that hold tokens");
    pages.append(el("div", { class: "sgl-meter", "aria-hidden": "true" }, this.used));
    this.hit = el("div", { class: "sgl-used" });
    const hit = field("hit", "hit rate", "Prompt tokens that were found in the cache");
    hit.append(el("div", { class: "sgl-meter", "aria-hidden": "true" }, this.hit));
    this.root = el(
      "div",
      { class: "sgl-metrics" },
      field("speed", "tokens/s", "Generated tokens a second"),
      hit,
      field("cached", "○ cached", "Prompt tokens taken from the cache"),
      field("computed", "● computed", "Prompt tokens computed"),
      field("generated", "▸ generated", "Tokens sampled by the model"),
      field("forced", "» forced", "Generated tokens that a constraint left no choice about: no step of their own"),
      pages,
      field("forks", "forks", "Streams of the program"),
      field("requests", "run · wait", "Requests that run, and that wait"),
    );
  }

  paint() {
    const m = this.view.store.metrics;
    if (m === this.painted || !m) return;
    this.painted = m;
    const put = (name, text) => setText(this.fields[name], text);
    put("speed", m.tok_s >= 100 ? brief(Math.round(m.tok_s)) : m.tok_s.toFixed(1));
    put("hit", m.hit_rate ? percent(m.hit_rate) : m.hit_rate === 0 ? "0\u2009%" : "–");
    for (const name of ["cached", "computed", "generated", "forced", "forks"]) put(name, brief(m[name]));
    this.fields.forced.parentNode.hidden = !m.forced;
    this.fields.forks.parentNode.hidden = Boolean(this.view.store.options.dashboard);
    put("pages", `${brief(m.n_pages - m.free_pages)}\u2009/\u2009${brief(m.n_pages)}`);
    put("requests", `${m.running} · ${m.waiting}`);
    this.used.style.transform = `scaleX(${m.n_pages ? 1 - m.free_pages / m.n_pages : 0})`;
    this.hit.style.transform = `scaleX(${m.hit_rate ?? 0})`;
  }
}

// ---------------------------------------------------------------- the card beside what is hovered or focused

class Card {
  constructor(view) {
    this.view = view;
    this.root = el("div", { class: "sgl-card", role: "tooltip", id: `${view.id}-card`, hidden: true });
  }

  /** `rows` is a list of nodes; the card stands beside `box` (client coordinates), inside the view. */
  show(box, rows) {
    this.root.replaceChildren(...rows);
    this.root.hidden = false;
    const home = this.view.root.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.root;
    const below = box.bottom - home.top + 6;
    const above = box.top - home.top - height - 6;
    const fits = below + height <= home.height && box.bottom + 6 + height <= innerHeight;
    this.root.style.left = `${clamp(box.left - home.left, 4, Math.max(4, home.width - width - 4))}px`;
    this.root.style.top = `${fits || above < 0 ? below : above}px`;
  }

  hide() {
    this.root.hidden = true;
  }
}

/* One view of a run: header, counts, the panels, the card next to the pointer, and one cursor
 * for all of them. Live and replayed views are the same.
 */

import { extras } from "./session.js";
import { Explore } from "./explore.js";
import { GraphPanel } from "./graph.js";
import { TimelinePanel } from "./lanes.js";
import { TOKEN_STATES, brief, clamp, count, el, figure, furnish, seconds, setText, wordsOf } from "./page.js";
import { TokensPanel } from "./tokens.js";
import { TreePanel } from "./tree.js";

const STOP_ACK_MS = 400;
const SAY_EVERY_MS = 10_000;

let serial = 0;

export class View {
  /* `player` plays a recorded run; a live run has none. */
  constructor(store, root, player = null) {
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
    this.header = new Header(this, player);
    this.counts = new Counts(this);
    this.alarm = el("div", { class: "sgl-alarm", role: "alert", hidden: true });
    this.panels = { tokens: new TokensPanel(this), graph: new GraphPanel(this), tree: new TreePanel(this), timeline: new TimelinePanel(this) };
    this.extras = [...extras(this), new Explore(this)];
    const { options } = store;
    const views = options.views ?? Object.keys(this.panels);
    root.classList.add("sgl-live");
    root.classList.toggle("sgl-dashboard", Boolean(options.dashboard));
    furnish(root, { role: "region", "aria-label": options.title || "Live run" });
    const panels = Object.values(this.panels).map((panel) => panel.root);
    const extra = this.extras.map((each) => each.root);
    root.append(this.header.root, this.header.moment, this.alarm, this.counts.root, ...extra, ...panels, this.card.root, this.voice);
    for (const [name, panel] of Object.entries(this.panels))
      if (options.dashboard && (name === "tokens" || name === "graph")) panel.root.hidden = true;
      else this.header.toggle(name, panel.title, views.includes(name), (on) => this.show(panel, on));
    this.resized = new ResizeObserver(() => this.invalidate());
    this.resized.observe(root);
    store.views.add(this);
    this.changed({ reset: true, status: true });
  }

  show(panel, on) {
    panel.wanted = on;
    panel.root.hidden = !on || Boolean(panel.isEmpty);
    this.invalidate();
  }

  changed(change) {
    for (const panel of [...Object.values(this.panels), ...this.extras]) panel.changed?.(change);
    const { graph } = this.panels;
    if (this.header.buttons.graph) {
      this.header.buttons.graph.hidden = graph.isEmpty;
      graph.root.hidden = !graph.wanted || graph.isEmpty;
    }
    this.stale ||= Boolean(this.hovered ?? this.chosen);
    this.invalidate();
  }

  // ------------------------------------------------ one cursor

  /**
   * Highlight everything related to a token, node, tail, bar or count while it is under the
   * pointer.
   */
  point(cursor) {
    if (!cursor && !this.hovered) return;
    this.hovered = cursor;
    this.stale = true;
    this.invalidate();
  }

  /**
   * Keep it highlighted, and scroll to it in the other panels; for a count only to its first
   * token.
   */
  choose(cursor, from) {
    if (!cursor && !this.chosen) return;
    this.chosen = cursor;
    this.hovered = null;
    this.mark();
    const { tokens, graph, tree, timeline } = this.panels;
    const brings = cursor && cursor.kind !== "count";
    if (cursor && from !== tokens) tokens.reveal();
    if (brings && from !== graph) graph.reveal();
    if (brings && from !== tree) tree.show();
    if (brings && from !== timeline) timeline.reveal();
    this.invalidate();
  }

  mark() {
    this.stale = false;
    const cursor = this.hovered ?? this.chosen;
    const marks = this.store.links(cursor);
    this.root.classList.toggle("sgl-filtered", cursor?.kind === "count");
    this.counts.mark(this.chosen);
    for (const panel of [...Object.values(this.panels), ...this.extras]) panel.mark?.(marks);
  }

  // ------------------------------------------------ painting

  invalidate() {
    this.frame ||= requestAnimationFrame((t) => this.paint(t));
  }

  /** Paint again after `ms`, for carets and ghosts that expire; or call `act` instead. */
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
    this.counts.paint();
    const { status } = this.store;
    const failed = status.phase === "error" ? status.text : "";
    this.alarm.hidden = !failed;
    setText(this.alarm, failed && `✕ ${failed}`);
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

  // ------------------------------------------------ screen readers

  announce(text) {
    setText(this.voice, text);
    this.saidAt = performance.now();
  }

  /** Announce progress from time to time during a run, and its end. */
  report() {
    const { status, active, metrics: m } = this.store;
    const ended = this.phase && this.phase !== status.phase && !active;
    this.phase = status.phase;
    if (!m || !(ended || (active && performance.now() - this.saidAt > SAY_EVERY_MS))) return;
    const reused = `${figure(m.found)} ${wordsOf(this.store).strip}, ${figure(m.reused)} reused, ${figure(m.computed)} computed`;
    this.announce(`${status.phase}: ${count(m.generated, "token")} generated, ${reused}; ${count(this.store.nodes.size, "node")} in the tree`);
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

// ---------------------------------------------------------------- header: state, toggles, Stop or
// Replay, the moment

const ENDED = { done: "done in", stopped: "stopped after", error: "failed after" };

class Header {
  constructor(view, player) {
    this.view = view;
    this.player = player;
    this.buttons = {};
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
      ...(player ? [player.refusal, player.explore, player.button] : [this.stop]),
      this.progress,
    );
    this.done = el("div", { class: "sgl-done" });
    this.clock = el("span", { class: "sgl-clock" });
    const track = [el("div", { class: "sgl-track", "aria-hidden": "true" }, this.done), this.clock];
    this.moment = player?.bar ?? el("div", { class: "sgl-moment" }, ...track);
    this.moment.hidden = Boolean(view.store.options.dashboard);
    this.pressed = false;
    this.failed = false;
  }

  /** A button that shows and hides one panel. */
  toggle(name, title, on, show) {
    const flip = (value) => {
      button.setAttribute("aria-pressed", value);
      show(value);
    };
    const press = () => flip(button.getAttribute("aria-pressed") !== "true");
    const button = el("button", { type: "button", class: "sgl-toggle", "data-view": name, "aria-pressed": on, click: press }, title);
    this.buttons[name] = button;
    this.toggles.append(button);
    show(on);
  }

  /** The state of the run in words. */
  words() {
    const { status, metrics: m, length } = this.view.store;
    if (status.phase in ENDED) return `${ENDED[status.phase]} ${seconds(length ?? this.view.store.now())}`;
    if (status.phase !== "running" || (status.text && status.text !== "running")) return status.text || status.phase;
    if (!m || !(m.running + m.waiting)) return "running";
    return `running · ${m.running ? count(m.running, "request") : "no request"}${m.waiting ? `, ${figure(m.waiting)} waiting` : ""}`;
  }

  paint() {
    const { store } = this.view;
    const { status, stopping, active } = store;
    this.view.root.dataset.phase = status.phase;
    setText(this.title, store.options.title || "sgl");
    setText(this.phase, this.words());
    if (this.player) {
      this.player.paint();
      return;
    }
    if (!active) this.pressed = false;
    const waiting = this.pressed || stopping;
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
    const now = loading ? 0 : store.now();
    setText(this.clock, now ? seconds(now) : "");
    this.done.style.transform = `scaleX(${active ? clamp(now / this.view.panels.timeline.span, 0, 1) : 1})`;
  }

  /**
   * Ask the kernel to stop. A kernel that cannot receive messages while a cell runs is
   * interrupted through the server.
   */
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
    // the token must not reach another origin, whatever the page configures
    if (url.origin !== location.origin) return false;
    return (await fetch(url, { method: "POST", headers, credentials: "same-origin" })).ok;
  } catch {
    return false;
  }
}

// ---------------------------------------------------------------- counts

const COUNTS = {
  found: ["cached", "from earlier runs", "Prompt tokens found in the cache: earlier cells had computed them"],
  reused: ["reused", "reused in this run", "Prompt tokens that this run had computed or generated itself, for its forks and next turns"],
  computed: ["computed", "computed", "Prompt tokens that the model computed"],
  generated: ["generated", "generated", "Tokens that the model generated"],
};

const UNCOUNTED = "cached: not reported";

/** A cost without its currency, with the digits of draw/numbers.py. */
const money = (m) => `${(m.cost ?? 0).toFixed(m.cost >= 10 || !m.cost ? 2 : m.cost >= 0.01 ? 4 : 6)}${m.unpriced ? " +" : ""}`;

class Counts {
  /* Token counts by origin, then speed, pages and forks. Each token count is a filter for all
   * panels.
   */
  constructor(view) {
    this.view = view;
    this.fields = {};
    this.shares = {};
    const isDashboard = Boolean(view.store.options.dashboard);
    const field = (name, label) => [(this.fields[name] = el("span", { class: "sgl-value" }, "–")), el("span", { class: "sgl-label" }, label)];
    this.filters = Object.fromEntries(
      Object.entries(COUNTS).map(([name, [state, label, hint]]) => {
        const [value, words] = field(name, label);
        const face = [el("span", { class: "sgl-figure" }, el("i", { "aria-hidden": "true" }, TOKEN_STATES[state]), value), words];
        const attrs = { class: `sgl-metric sgl-m-${name}`, title: hint };
        if (isDashboard) return [name, el("div", attrs, ...face)];
        const choose = () => this.choose(name);
        const filter = el("button", { ...attrs, type: "button", title: `${hint}. Click to see which.`, "aria-pressed": false, click: choose }, ...face);
        return [name, filter];
      }),
    );
    this.generated = this.fields.generated.parentNode.nextSibling;
    const fact = (name, label, hint) => el("div", { class: `sgl-metric sgl-fact sgl-m-${name}`, title: hint }, ...field(name, label));
    this.facts = [
      fact("speed", "tokens/s", isDashboard ? "Tokens generated per second, over the last two seconds" : "Generated tokens over the time from the first request to the last token"),
      fact("pages", "cache pages", "Pages of the cache in use, of all pages"),
      fact("cost", "cost", "Of requests whose price is known; with a plus if there are others"),
      isDashboard ? fact("requests", "running · waiting", "Requests") : fact("forks", "forks", "Branches of the program"),
    ];
    this.bar = el("div", { class: "sgl-shares", "aria-hidden": "true" });
    for (const name of Object.keys(COUNTS)) this.bar.append((this.shares[name] = el("div", { class: `sgl-share sgl-m-${name}` })));
    if (isDashboard) {
      this.filters.found.hidden = true;
      setText(this.filters.reused.lastChild, "reused from the cache");
    }
    const leave = (event) => event.key === "Escape" && this.view.choose(null, this);
    this.root = el("div", { class: "sgl-counts", keydown: leave }, el("div", { class: "sgl-metrics", role: "group", "aria-label": "Counts" }, ...Object.values(this.filters), ...this.facts), this.bar);
  }

  choose(name) {
    const { chosen } = this.view;
    this.view.choose(chosen?.kind === "count" && chosen.id === name ? null : { kind: "count", id: name }, this);
  }

  mark(chosen) {
    for (const [name, filter] of Object.entries(this.filters))
      if (filter.localName === "button") filter.setAttribute("aria-pressed", chosen?.kind === "count" && chosen.id === name);
  }

  /** The words for cached tokens. An engine elsewhere reports how many there were, or nothing. */
  origins(m) {
    const { strip, strip_meaning: hint } = wordsOf(this.view.store);
    const isUntold = m.answered > 0 && m.uncounted === m.answered;
    const { found, reused, computed } = this.filters;
    if (this.view.store.options.dashboard) {
      if (m.elsewhere) setText(reused.lastChild, isUntold ? UNCOUNTED : strip);
    } else {
      reused.hidden = Boolean(m.elsewhere) && !m.reused;
      found.title = `${hint}. Click to see which.`;
      setText(found.lastChild, isUntold ? UNCOUNTED : strip);
    }
    if (isUntold) setText(this.fields[this.view.store.options.dashboard ? "reused" : "found"], "–");
    setText(computed.lastChild, isUntold ? "prompt tokens" : "computed");
  }

  paint() {
    const m = this.view.store.metrics;
    if (m === this.painted || !m) return;
    this.painted = m;
    const put = (name, text) => this.fields[name] && setText(this.fields[name], text);
    for (const name of Object.keys(COUNTS)) {
      put(name, brief(m[name] ?? 0));
      this.shares[name].style.flexGrow = m[name] ?? 0;
    }
    setText(this.generated, m.forced ? `generated, ${brief(m.forced)} forced` : "generated");
    put("speed", !m.generated ? "–" : m.tok_s >= 100 ? brief(Math.round(m.tok_s)) : m.tok_s.toFixed(1));
    put("forks", brief(m.forks));
    put("pages", `${brief(m.n_pages - m.free_pages)}\u2009/\u2009${brief(m.n_pages)}`);
    put("cost", money(m));
    const [, pages, cost] = this.facts;
    pages.hidden = !m.n_pages;
    cost.hidden = !m.currency;
    setText(cost.lastChild, `${m.currency}, cost`);
    this.origins(m);
    put("requests", `${m.running} · ${m.waiting}`);
  }
}

// ---------------------------------------------------------------- the card next to the hovered or
// focused item

class Card {
  constructor(view) {
    this.view = view;
    this.root = el("div", { class: "sgl-card", role: "tooltip", id: `${view.id}-card`, hidden: true });
  }

  /** `rows` is a list of nodes. The card is next to `box` (client coordinates), inside the view. */
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

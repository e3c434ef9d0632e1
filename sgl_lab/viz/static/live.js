/* The page's side of a live run: tokens, radix tree and timeline of one cell.
 *
 * Applies the messages of viz/live.py to one Store a widget; every view of that widget reads the store and
 * paints in requestAnimationFrame. Work is proportional to what changed and to what is in sight, not to the
 * size of the run. Model text reaches the page through text nodes and attributes only. Knows nothing of the
 * kernel but where to send an interrupt.
 */

const TOKEN_STATES = { cached: "○", computed: "●", generated: "▸", forced: "»", choice: "◆" };
const TOKEN_MEANING = {
  text: "not computed yet",
  cached: "found in the cache",
  computed: "computed for this run",
  generated: "sampled by the model",
  forced: "forced by the constraint",
  choice: "picked by a select",
};
const NODE_GLYPH = { root: "", cached: "○", running: "▸", locked: "■", gone: "×" };
const NODE_MEANING = {
  root: "root of the tree",
  cached: "in the cache, may be evicted",
  running: "a request grows from here",
  locked: "in use, cannot be evicted",
  gone: "evicted",
};
const BAR_LABEL = {
  wait: "waiting",
  cached: "taken from the cache",
  prefill: "prefill",
  decode: "decode",
  score: "scoring choices",
  preempted: "preempted",
  text: "text",
};
const ACTIVE = new Set(["loading", "running"]);
const STOP_ACK_MS = 400;
const HELLO_EVERY_MS = 1000;
const GHOST_MS = 700;
const CARET_MS = 700;
const RECENT_MS = 1500;

// ---------------------------------------------------------------- small things

const still = matchMedia("(prefers-reduced-motion: reduce)");
let serial = 0;

const el = (tag, attrs, ...children) => furnish(document.createElement(tag), attrs, children);
const svg = (tag, attrs, ...children) => furnish(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, children);

function furnish(node, attrs = {}, children = []) {
  for (const [name, value] of Object.entries(attrs)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true && !name.startsWith("aria-")) node.setAttribute(name, "");
    else if (value !== null && (value !== false || name.startsWith("aria-"))) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const setText = (node, text) => node.textContent !== text && (node.textContent = text);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const brief = (n) => (n < 10_000 ? n.toLocaleString("en") : n.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 }));
const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "\u00a0");
const percent = (share) => (share < 0.0005 ? "<0.1" : (share * 100).toFixed(share > 0.9995 ? 0 : 1)) + "\u2009%";
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`);

// ---------------------------------------------------------------- what is known of the run

class Store {
  /* The state of the run, by id, and who wants to hear of changes. */
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.expected = 0;
    this.behind = true;
    this.asking = 0;
    this.missed = false;
    this.stopping = false;
    this.clear();
    model.on("msg:custom", (message) => this.receive(message));
    model.on("change:snapshot", () => this.recover(model.get("snapshot")));
    this.recover(model.get("snapshot"));
    this.ask();
  }

  clear() {
    this.forks = new Map();
    this.nodes = new Map();
    this.tails = [];
    this.clock = 0;
    this.lanes = new Map();
    this.bars = new Map();
    this.time = { ms: 0, at: performance.now() };
    this.metrics = null;
    this.status = { phase: "loading", text: "", progress: null };
  }

  get active() {
    return ACTIVE.has(this.status.phase);
  }

  /** Milliseconds of the run by now: what the kernel said last, and the time since. */
  now() {
    return this.time.ms + (this.status.phase === "running" ? performance.now() - this.time.at : 0);
  }

  /** At most once a second, and again then if messages were missed since. */
  ask() {
    this.missed = Boolean(this.asking);
    if (this.asking) return;
    this.model.send({ kind: "hello" });
    this.asking = setTimeout(() => {
      this.asking = 0;
      if (this.missed && this.behind) this.ask();
    }, HELLO_EVERY_MS);
  }

  receive(message) {
    if (message.kind === "stopping") {
      this.stopping = true;
      this.tell({ status: true });
    } else if (message.kind === "full") {
      this.behind = false;
      this.clear();
      this.apply(message, true);
      this.expected = message.seq + 1;
    } else if (message.kind === "delta") {
      if (message.seq === 0) this.behind = false;
      else if (message.seq !== this.expected) this.behind = true;
      if (this.behind) this.ask();
      this.apply(message, false);
      this.expected = message.seq + 1;
    }
  }

  /** A page that missed messages takes the snapshot, as far as it goes, until the kernel can answer. */
  recover(snapshot) {
    if (!this.behind || !snapshot || snapshot.seq === undefined) return;
    if (snapshot.tokens) this.forks.clear();
    if (snapshot.tree) this.nodes.clear();
    if (snapshot.lanes) {
      this.lanes.clear();
      this.bars.clear();
    }
    this.apply(snapshot, true);
    this.expected = snapshot.seq;
    this.behind = Boolean(snapshot.partial);
  }

  apply({ tokens, tree, lanes, metrics, status }, reset) {
    const change = { reset, tokens: new Map(), nodes: new Set(), gone: [], tails: false, lanes: false, bars: new Set(), status: false };
    if (tokens) this.applyTokens(tokens, change);
    if (tree) {
      for (const node of tree.nodes ?? []) {
        this.nodes.set(node.id, node);
        change.nodes.add(node.id);
      }
      for (const id of tree.gone ?? []) if (this.nodes.delete(id)) change.gone.push(id);
      change.tails = Boolean(tree.tails);
      this.tails = tree.tails ?? this.tails;
      this.clock = tree.clock ?? this.clock;
    }
    if (lanes) {
      for (const lane of lanes.lanes ?? []) this.lanes.set(lane.lane, lane);
      change.lanes = lanes.lanes?.length > 0;
      for (const bar of lanes.bars ?? []) {
        this.bars.set(bar.id, bar);
        change.bars.add(bar.id);
      }
      if (lanes.now !== undefined) this.time = { ms: lanes.now, at: performance.now() };
    }
    if (metrics) this.metrics = metrics;
    if (status) {
      if (!ACTIVE.has(status.phase)) this.time = { ms: this.now(), at: performance.now() };
      else if (!this.active) this.stopping = false;
      this.status = status;
      change.status = true;
    }
    this.tell(change);
  }

  applyTokens({ forks = [], ops = [] }, change) {
    const since = (fork, index) => change.tokens.set(fork, Math.min(index, change.tokens.get(fork) ?? Infinity));
    for (const fork of forks) {
      this.forks.set(fork.fork, { ...fork, tokens: this.forks.get(fork.fork)?.tokens ?? [] });
      since(fork.fork, this.forks.get(fork.fork).tokens.length);
    }
    for (const { fork, start, toks } of ops) {
      const stream = this.forks.get(fork);
      if (!stream) continue;
      const index = Math.max(0, start - stream.base);
      while (stream.tokens.length < index) stream.tokens.push(["…", "text", null, "", null]);
      stream.tokens.length = index;
      for (const token of toks) stream.tokens.push(token);
      since(fork, index);
    }
  }

  tell(change) {
    for (const view of this.views) view.changed(change);
  }
}

// ---------------------------------------------------------------- one view of the widget

class View {
  constructor(store, root) {
    this.store = store;
    this.root = root;
    this.id = `sgl${++serial}`;
    this.frame = 0;
    this.timers = new Set();
    this.card = new Card(this);
    this.header = new Header(this);
    this.metrics = new Metrics(this);
    this.panels = { tokens: new TokensPanel(this), tree: new TreePanel(this), timeline: new TimelinePanel(this) };
    const options = store.model.get("options") ?? {};
    const views = options.views ?? Object.keys(this.panels);
    root.classList.add("sgl-live");
    root.setAttribute("role", "region");
    root.setAttribute("aria-label", options.title || "Live run");
    root.append(this.header.root, this.metrics.root, ...Object.values(this.panels).map((panel) => panel.root), this.card.root);
    for (const [name, panel] of Object.entries(this.panels))
      this.header.toggle(name, panel.title, views.includes(name), (on) => this.show(panel, on));
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
    this.invalidate();
  }

  invalidate() {
    this.frame ||= requestAnimationFrame((t) => this.paint(t));
  }

  /** Paint again after `ms`, for what ends by itself: carets, ghosts. */
  later(ms) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      this.invalidate();
    }, ms);
    this.timers.add(timer);
  }

  paint(t) {
    this.frame = 0;
    this.header.paint();
    this.metrics.paint();
    let again = false;
    for (const panel of Object.values(this.panels)) if (!panel.root.hidden && panel.paint(t)) again = true;
    if (again) this.invalidate();
  }

  close() {
    this.store.views.delete(this);
    this.resized.disconnect();
    cancelAnimationFrame(this.frame);
    for (const timer of this.timers) clearTimeout(timer);
    this.header.close();
    this.root.replaceChildren();
  }
}

function panel(name, title, tools, ...body) {
  return el(
    "section",
    { class: `sgl-panel sgl-${name}`, "aria-label": title },
    el("div", { class: "sgl-bar" }, el("h4", {}, title), ...tools),
    ...body,
  );
}

// ---------------------------------------------------------------- header: phase, progress, toggles, Stop

class Header {
  constructor(view) {
    this.view = view;
    this.title = el("span", { class: "sgl-title" }, view.store.model.get("options")?.title || "sgl");
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
    const button = el(
      "button",
      {
        type: "button",
        class: "sgl-toggle",
        "data-view": name,
        "aria-pressed": on,
        click: () => flip(button.getAttribute("aria-pressed") !== "true"),
      },
      title,
    );
    const flip = (value) => {
      button.setAttribute("aria-pressed", value);
      show(value);
    };
    this.toggles.append(button);
    show(on);
  }

  paint() {
    const { status, stopping, active } = this.view.store;
    if (!active) this.pressed = false;
    const waiting = this.pressed || stopping;
    this.view.root.dataset.phase = status.phase;
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
      if (store.stopping || !store.active) return;
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
    put("speed", m.tok_s >= 100 ? m.tok_s.toFixed(0) : m.tok_s.toFixed(1));
    put("hit", m.hit_rate === null ? "–" : `${(100 * m.hit_rate).toFixed(0)}\u2009%`);
    for (const name of ["cached", "computed", "generated", "forced", "forks"]) put(name, brief(m[name]));
    this.fields.forced.parentNode.hidden = !m.forced;
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

function chance(text, logprob, own) {
  const share = Math.exp(logprob);
  const bar = el("span", { class: "sgl-chance" });
  bar.style.setProperty("--share", share);
  return el(
    "div",
    { class: own ? "sgl-alt sgl-own" : "sgl-alt" },
    el("code", {}, visible(text)),
    bar,
    el("span", { class: "sgl-num" }, percent(share)),
  );
}

// ---------------------------------------------------------------- tokens

class TokensPanel {
  title = "Tokens";

  constructor(view) {
    this.view = view;
    const legend = Object.entries(TOKEN_STATES).map(([state, glyph]) =>
      el(
        "span",
        { class: "sgl-key", title: TOKEN_MEANING[state] },
        el("i", { "aria-hidden": "true" }, glyph),
        el("span", { class: `t ${state}` }, state),
      ),
    );
    this.streams = new Map();
    this.roots = el("div", { class: "sgl-roots" });
    this.body = el(
      "div",
      { class: "sgl-scroll sgl-text", tabindex: 0, role: "group", "aria-label": "Tokens; arrow keys move from token to token" },
      this.roots,
    );
    this.root = panel("tokens", this.title, [el("div", { class: "sgl-legend" }, ...legend)], this.body);
    this.dirty = new Map();
    this.height = 0;
    sticky(this.body);
    this.body.addEventListener("pointerover", (event) => this.point(event.target));
    this.body.addEventListener("pointerleave", () => this.point(null));
    this.body.addEventListener("focusin", (event) => event.target.token && this.point(event.target));
    this.body.addEventListener("focusout", () => this.point(null));
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  changed(change) {
    if (change.reset) {
      const { forks } = this.view.store;
      // Most of what is told anew stands there already: it keeps its focus and its selection.
      if ([...this.streams.keys()].some((fork) => !forks.has(fork))) {
        this.streams.clear();
        this.roots.replaceChildren();
      }
      this.dirty = new Map([...forks.keys()].map((fork) => [fork, 0]));
    }
    for (const [fork, index] of change.tokens ?? []) this.dirty.set(fork, Math.min(index, this.dirty.get(fork) ?? Infinity));
    this.idle = !this.view.store.active;
  }

  paint(t) {
    const grown = [...this.dirty];
    this.dirty.clear();
    for (const [fork, index] of grown) this.stream(fork)?.draw(index, t);
    for (const stream of this.streams.values()) stream.caret(t, this.idle);
    if (grown.length) {
      for (const [fork] of grown) this.streams.get(fork)?.follow();
      this.grow();
      if (this.body.stick) this.body.scrollTop = this.body.scrollHeight;
      this.view.later(CARET_MS + 20);
    }
    return false;
  }

  /** The box grows in few steps, not line by line, so that what stands below seldom moves; it never shrinks. */
  grow() {
    const step = 96;
    const height = clamp(Math.ceil((this.roots.offsetHeight + 20) / step) * step, 2 * step, 3 * step);
    if (height > this.height) this.body.style.height = `${(this.height = height)}px`;
  }

  stream(id) {
    const fork = this.view.store.forks.get(id);
    const known = this.streams.get(id);
    if (!fork || known?.base === fork.base) return known;
    const parent = fork.parent === null ? null : this.stream(fork.parent);
    const stream = known ?? new Stream(fork, Boolean(parent), this.view.store);
    stream.base = fork.base;
    this.streams.set(id, stream);
    if (parent) parent.adopt(stream, fork.base);
    else this.roots.append(stream.root);
    this.roots.classList.toggle("sgl-forks", this.roots.childElementCount > 1);
    return stream;
  }

  point(target) {
    const span = target?.closest?.(".t");
    this.pointed?.classList.remove("sgl-on");
    this.pointed?.removeAttribute("aria-describedby");
    this.pointed = span?.token ? span : null;
    if (!this.pointed) return this.view.card.hide();
    span.classList.add("sgl-on");
    span.setAttribute("aria-describedby", this.view.card.root.id);
    const [text, state, logprob, role, top] = span.token;
    const rows = [
      el(
        "div",
        { class: "sgl-card-head" },
        el("code", { class: `t ${state}` }, visible(text)),
        el("span", {}, logprob === null ? "" : percent(Math.exp(logprob))),
      ),
    ];
    rows.push(
      el("div", { class: "sgl-card-line" }, `${TOKEN_MEANING[state] ?? state}${role ? ` · ${role}` : ""} · position ${span.position}`),
    );
    if (top?.length) {
      rows.push(...top.map(([other, value]) => chance(other, value, other === text)));
      if (logprob !== null && !top.some(([other]) => other === text)) rows.push(chance(text, logprob, true));
    } else if (logprob !== null) rows.push(chance(text, logprob, true));
    this.view.card.show(span.getClientRects()[0] ?? span.getBoundingClientRect(), rows);
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") return this.point(null);
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return undefined;
    const step = steps[event.key];
    const spans = [...this.roots.querySelectorAll(".t")];
    const here = spans.indexOf(document.activeElement);
    const next = spans[here < 0 ? (step > 0 ? 0 : spans.length - 1) : clamp(here + step, 0, spans.length - 1)];
    event.preventDefault();
    next?.setAttribute("tabindex", -1);
    next?.focus();
    return undefined;
  }
}

/** Keep the end of a scrolling box in sight until the reader scrolls up. */
function sticky(box) {
  box.stick = true;
  box.addEventListener("scroll", () => (box.stick = box.scrollHeight - box.scrollTop - box.clientHeight < 28), { passive: true });
}

/** How special tokens are spelled: <|im_start|>, </s>, <bos>. */
const MARK = /^<[|/]?[\w|｜▁ -]+[|｜]?>$/;

function entitle(turn, role) {
  turn.dataset.role = role;
  setText(turn.querySelector(".sgl-role"), role);
}

class Stream {
  /* One fork's own text: turns of tokens, and the groups of its children where they left it. */
  constructor(fork, card, store) {
    this.fork = fork.fork;
    this.store = store;
    this.spans = [];
    this.groups = [];
    this.tip = null;
    this.grewAt = -Infinity;
    this.flow = el("div", { class: "sgl-flow" });
    this.size = el("span", { class: "sgl-size" });
    this.root = el("div", { class: card ? "sgl-stream sgl-fork" : "sgl-stream" });
    if (card) {
      const name = fork.label || `fork ${fork.index + 1}`;
      sticky(this.flow);
      furnish(this.flow, { tabindex: 0, role: "group", "aria-label": name });
      this.root.append(el("div", { class: "sgl-fork-head" }, el("span", {}, name), this.size));
    }
    this.root.append(this.flow);
  }

  /** Children that leave at the same position stand side by side, in the order of their index. */
  adopt(child, base) {
    let group = this.groups.find((other) => other.base === base);
    if (!group) {
      group = { base, root: el("div", { class: "sgl-forks" }) };
      this.groups.push(group);
      this.groups.sort((a, b) => a.base - b.base);
      const cut = base - this.store.forks.get(this.fork).base;
      if (cut < this.spans.length) this.truncate(Math.max(0, cut));
      this.flow.insertBefore(group.root, this.groups[this.groups.indexOf(group) + 1]?.root ?? null);
      this.draw(this.spans.length, this.grewAt);
    }
    group.root.append(child.root);
    for (const other of this.groups) other.root.hidden = !other.root.childElementCount;
  }

  truncate(length) {
    for (const span of this.spans.splice(Math.max(0, length)).reverse()) {
      const line = span.parentNode;
      span.remove();
      if (line.childElementCount) continue;
      const text = line.parentNode;
      line.remove();
      if (!text.childElementCount) text.parentNode.remove();
    }
    const turn = this.spans.at(-1)?.closest(".sgl-turn");
    if (turn?.dataset.role && ![...turn.querySelectorAll(".t")].some((span) => span.token[3])) entitle(turn, "");
  }

  draw(from, t) {
    const { tokens, base } = this.store.forks.get(this.fork);
    const before = this.spans.length;
    for (let i = Math.min(from, before); i < tokens.length; i++) {
      // A span stays as long as it stands in the right turn and line: only its look can have changed.
      const old = this.spans[i]?.token;
      if (old && (old[3] !== tokens[i][3] || old[0] !== tokens[i][0])) this.truncate(i);
      if (i === this.spans.length) this.spans.push(this.place(i, tokens[i], base));
      this.dress(this.spans[i], tokens[i], base + i);
    }
    this.truncate(tokens.length);
    if (tokens.length > before && /^(generated|forced)$/.test(tokens.at(-1)[1])) this.grewAt = t;
    setText(this.size, count(tokens.length, "token"));
  }

  place(i, token, base) {
    const role = token[3];
    const last = this.spans.at(-1);
    const turn = last?.closest(".sgl-turn");
    const ended = last?.token[0].endsWith("\n");
    const forked = this.groups.some((group) => group.base === base + i);
    // Markup has no role of its own: what closes a turn stays on its line, what opens one becomes its first line.
    const opens = turn?.dataset.role === "" && MARK.test(turn.querySelector(".t").token[0]);
    const span = el("span");
    if (turn && !forked && (role === turn.dataset.role || (role ? opens : !ended))) {
      // Every line is a paragraph of its own, because a browser lays out anew the whole of one that grows.
      if (ended) last.parentNode.after(el("p", {}, span));
      else last.parentNode.append(span);
      if (role && opens) entitle(turn, role);
    } else {
      const fresh = el(
        "div",
        { class: "sgl-turn" },
        el("div", { class: "sgl-role" }),
        el("div", { class: "sgl-turn-text" }, el("p", {}, span)),
      );
      entitle(fresh, role);
      this.flow.insertBefore(fresh, this.groups.find((group) => group.base > base + i)?.root ?? null);
    }
    return span;
  }

  dress(span, token, position) {
    const mark = MARK.test(token[0]) ? " sgl-mark" : "";
    const name = `t ${token[1]}${mark}`;
    if (span.className !== name) span.className = name;
    setText(span, token[0]);
    span.token = token;
    span.position = position;
  }

  caret(t, idle) {
    const tip = !idle && t - this.grewAt < CARET_MS ? this.spans.at(-1) : null;
    if (tip === this.tip) return;
    this.tip?.classList.remove("sgl-tip");
    tip?.classList.add("sgl-tip");
    this.tip = tip;
  }

  follow() {
    if (this.flow.stick) this.flow.scrollTop = this.flow.scrollHeight;
  }
}

// ---------------------------------------------------------------- radix tree

const NODE = { height: 34, pitch: 42, gap: 26, font: 6.65, small: 5, pad: 11, letters: 26 };
const LEGIBLE = 0.8;
const FAR = 0.45;

class TreePanel {
  title = "Radix tree";

  constructor(view) {
    this.view = view;
    this.items = new Map();
    this.order = [];
    this.camera = { x: 16, y: 16, k: 1 };
    this.follow = true;
    this.drawn = new Map();
    this.selected = null;
    this.size = { width: 0, height: 0 };
    const tool = (label, text, act) =>
      el("button", { type: "button", class: "sgl-tool", "aria-label": label, title: label, click: act }, text);
    this.following = tool("Follow the run", "Follow", () => this.track(true));
    this.following.setAttribute("aria-pressed", "true");
    const tools = el(
      "div",
      { class: "sgl-tools" },
      this.following,
      tool("Show the whole tree", "Fit", () => this.fit()),
      tool("Zoom out", "−", () => this.zoom(1 / 1.3)),
      tool("Zoom in", "+", () => this.zoom(1.3)),
    );
    const legend = ["cached", "locked", "running", "gone"].map((state) =>
      el(
        "span",
        { class: `sgl-key sgl-node-key ${state}`, title: NODE_MEANING[state] },
        el("i", { "aria-hidden": "true" }, NODE_GLYPH[state]),
        state === "gone" ? "evicted" : state,
      ),
    );
    this.edges = Object.fromEntries(["plain", "used", "tail"].map((kind) => [kind, svg("path", { class: `sgl-edge ${kind}` })]));
    this.masses = Object.fromEntries(
      ["cached", "locked", "running", "gone"].map((state) => [state, svg("path", { class: `sgl-mass ${state}` })]),
    );
    this.layer = svg("g");
    this.world = svg("g", {}, svg("g", { "aria-hidden": "true" }, ...Object.values(this.edges), ...Object.values(this.masses)), this.layer);
    this.canvas = svg("svg", { class: "sgl-canvas", role: "presentation" }, this.world);
    this.empty = el("div", { class: "sgl-empty" }, "The cache is empty.");
    this.details = el("div", { class: "sgl-details", "aria-live": "polite", hidden: true });
    this.hint = el("div", { class: "sgl-hint", "aria-hidden": "true" }, "click a node for its text · drag to pan · Ctrl + wheel to zoom");
    this.stage = el("div", { class: "sgl-stage", tabindex: 0, "aria-label": "Radix tree; arrow keys move, Enter selects" }, this.canvas);
    const frame = el("div", { class: "sgl-frame" }, this.stage, this.empty, this.hint, this.details);
    this.tally = el("span", { class: "sgl-tally" });
    this.root = panel("tree", this.title, [this.tally, el("div", { class: "sgl-legend" }, ...legend), tools], frame);
    this.sized = new ResizeObserver(([entry]) => {
      this.size = entry.contentRect;
      this.touch();
    });
    this.sized.observe(this.stage);
    this.listen();
    this.describe();
  }

  // ------------------------------------------------ state

  changed(change) {
    const { store } = this.view;
    this.redraw ||= change.reset || change.tails || change.nodes?.size > 0 || change.gone?.length > 0;
    if (change.reset) {
      const old = this.items;
      this.items = new Map();
      for (const node of store.nodes.values()) this.put(`n${node.id}`, node, old.get(`n${node.id}`));
      this.setTails();
    }
    for (const id of change.nodes ?? []) if (store.nodes.has(id)) this.put(`n${id}`, store.nodes.get(id), this.items.get(`n${id}`));
    for (const id of change.gone ?? []) {
      const item = this.items.get(`n${id}`);
      if (item) Object.assign(item, { goneAt: performance.now(), stale: true });
      this.shape = true;
    }
    if (change.tails) this.setTails();
  }

  put(key, node, known) {
    const item = known ?? { key, id: node.id, kind: "node", bornAt: performance.now(), x: null, y: null, tx: 0, ty: 0, depth: 0 };
    if (!known || known.parent !== node.parent || known.node.label !== node.label || known.goneAt !== null) this.shape = true;
    if (known && node.hits > known.node.hits) item.hitAt = performance.now();
    item.node = node;
    item.parent = node.parent;
    item.home = node.parent === null ? null : `n${node.parent}`;
    item.goneAt = null;
    item.stale = true;
    item.text = shorten(node.label || "root");
    item.meta = node.state === "root" ? "" : [`${node.n} tok`, node.hits ? count(node.hits, "hit") : ""].filter(Boolean).join(" · ");
    const width = Math.max(widthOf(item.text), NODE.small * item.meta.length + 2 * NODE.pad + 14);
    if (known && Math.abs(width - item.width) > 2) this.shape = true;
    item.width = width;
    this.items.set(key, item);
    if (this.selected === key) this.described = false;
  }

  setTails() {
    const seen = new Set();
    for (const tail of this.view.store.tails) {
      const key = `t${tail.request}`;
      seen.add(key);
      const item = this.items.get(key) ?? {
        key,
        id: tail.request,
        kind: "tail",
        bornAt: performance.now(),
        x: null,
        y: null,
        tx: 0,
        ty: 0,
        depth: 0,
        goneAt: null,
      };
      const text = shorten(tail.label || "…");
      if (item.home !== `n${tail.node}`) this.shape = true;
      Object.assign(item, {
        node: { state: "tail", label: tail.label, n: tail.n },
        home: `n${tail.node}`,
        text,
        meta: `${tail.n} tok`,
        width: Math.max(90, widthOf(text)),
        stale: true,
      });
      this.items.set(key, item);
    }
    for (const [key, item] of this.items) {
      if (item.kind !== "tail" || seen.has(key)) continue;
      this.items.delete(key);
      this.shape = true;
    }
  }

  /** Rows in leaf order: every leaf has its own, a parent stands in the middle of its children. O(n). */
  layout() {
    const { items } = this;
    const roots = [];
    for (const item of items.values()) item.children = [];
    for (const item of items.values()) {
      if (item.home === null) roots.push(item);
      else items.get(item.home)?.children.push(item);
    }
    const order = [];
    const stack = [...roots];
    while (stack.length) {
      const item = stack.pop();
      order.push(item);
      for (const child of item.children) {
        child.depth = item.depth + 1;
        stack.push(child);
      }
    }
    // A split puts a younger node above an older one: siblings sort by the oldest id below them, so that nothing swaps places.
    const age = (item) => (item.kind === "tail" ? 1e15 + item.id : item.id);
    for (let i = order.length - 1; i >= 0; i--)
      order[i].age = order[i].children.reduce((oldest, child) => Math.min(oldest, child.age), age(order[i]));
    const byAge = (a, b) => a.age - b.age;
    this.order = [];
    let row = 0;
    let right = 0;
    stack.push(...roots.sort(byAge).reverse());
    while (stack.length) {
      const item = stack.pop();
      this.order.push(item);
      const parent = items.get(item.home);
      item.tx = parent ? parent.tx + parent.width + NODE.gap : 0;
      right = Math.max(right, item.tx + item.width);
      if (item.children.length) for (const child of item.children.sort(byAge).toReversed()) stack.push(child);
      else item.ty = NODE.pitch * row++;
    }
    for (let i = this.order.length - 1; i >= 0; i--) {
      const { children } = this.order[i];
      if (children.length) this.order[i].ty = (children[0].ty + children.at(-1).ty) / 2;
    }
    this.extent = { width: right, height: Math.max(0, NODE.pitch * row - (NODE.pitch - NODE.height)) };
    this.shape = false;
    this.moved = true;
  }

  // ------------------------------------------------ painting

  paint() {
    const now = performance.now();
    let ghosts = false;
    for (const [key, item] of this.items) {
      if (item.goneAt === null) continue;
      if (now - item.goneAt < GHOST_MS && !still.matches) {
        ghosts = true;
      } else {
        this.items.delete(key);
        this.shape = this.redraw = true;
      }
    }
    if (ghosts) this.view.later(120);
    if (this.shape) this.layout();
    this.empty.hidden = this.items.size > 0;
    if (this.items.size) this.stage.setAttribute("role", "tree");
    else this.stage.removeAttribute("role");
    const { nodes, tails } = this.view.store;
    setText(this.tally, nodes.size ? `${count(nodes.size, "node")}${tails.length ? ` · ${tails.length} running` : ""}` : "");
    const settling = this.settle();
    const gliding = this.follow && this.glide();
    if (settling || gliding || this.redraw) this.draw(now);
    this.redraw = settling || gliding;
    if (!this.described) this.describe();
    return settling || gliding;
  }

  /** Move every node a part of the way to its place; true while any is on its way. */
  settle() {
    if (!this.moved) return false;
    const share = still.matches || this.camera.k < FAR ? 1 : 0.3;
    let moving = false;
    for (const item of this.order) {
      if (item.x === null) {
        const parent = this.items.get(item.home);
        item.x = parent && share < 1 ? parent.x + parent.width : item.tx;
        item.y = item.ty;
      }
      const dx = item.tx - item.x;
      const dy = item.ty - item.y;
      const near = share === 1 || Math.abs(dx) + Math.abs(dy) < 0.6;
      item.x = near ? item.tx : item.x + dx * share;
      item.y = near ? item.ty : item.y + dy * share;
      moving ||= !near;
    }
    this.moved = moving;
    return moving;
  }

  /** Where the camera should be while it follows: all of the tree if that is legible, else where something grows. */
  glide() {
    const { width, height } = this.size;
    if (!width || !this.order.length) return false;
    const pad = 16;
    const k = clamp(Math.min((width - 2 * pad) / this.extent.width, (height - 2 * pad) / this.extent.height), LEGIBLE, 1);
    // Along one axis: stay, unless what grows has left the inner part of the stage.
    const axis = (extent, room, low, high, now) => {
      const margin = room * 0.1;
      let place = now;
      if (high * k + place > room - margin) place = room - margin - high * k;
      else if (low * k + place < margin) place = margin - low * k;
      return clamp(place, room - extent * k - pad, pad);
    };
    const recent = performance.now() - RECENT_MS;
    const growing = this.order.filter((item) => item.kind === "tail" || (item.node.state === "running" && item.goneAt === null));
    if (growing.length) this.focus = growing;
    else if (this.order.some((item) => item.bornAt > recent))
      this.focus = this.order.filter((item) => item.bornAt > recent && item.goneAt === null);
    else this.focus = [];
    const low = { x: Infinity, y: Infinity };
    const high = { x: -Infinity, y: -Infinity };
    for (const { tx, ty, width: w } of this.focus) {
      low.x = Math.min(low.x, tx);
      low.y = Math.min(low.y, ty);
      high.x = Math.max(high.x, tx + w);
      high.y = Math.max(high.y, ty + NODE.height);
    }
    const camera = this.camera;
    const { extent } = this;
    const x = extent.width * k + 2 * pad <= width ? pad : axis(extent.width, width, low.x, high.x, camera.x);
    const y =
      extent.height * k + 2 * pad <= height ? (height - extent.height * k) / 2 : axis(extent.height, height, low.y, high.y, camera.y);
    const share = still.matches || !this.placed ? 1 : 0.18;
    this.placed = true;
    const far = Math.abs(x - camera.x) + Math.abs(y - camera.y) + 400 * Math.abs(k - camera.k);
    if (far < 0.7) return false;
    camera.x += (x - camera.x) * share;
    camera.y += (y - camera.y) * share;
    camera.k += (k - camera.k) * share;
    return share < 1;
  }

  draw(now) {
    const { x, y, k } = this.camera;
    this.world.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${k.toFixed(4)})`);
    const view = { left: -x / k, top: -y / k, right: (this.size.width - x) / k, bottom: (this.size.height - y) / k };
    const far = k < FAR;
    const tall = view.bottom - view.top;
    const paths = { plain: [], used: [], tail: [] };
    const masses = { cached: [], locked: [], running: [], gone: [] };
    const seen = new Set();
    for (const item of this.order) {
      const bottom = item.y + NODE.height;
      if (bottom < view.top - tall || item.y > view.bottom + tall) continue;
      const parent = this.items.get(item.home);
      if (parent && parent.x + parent.width < view.right && item.x > view.left) {
        const kind = item.kind === "tail" ? "tail" : item.node.refs > 0 && item.goneAt === null ? "used" : "plain";
        paths[kind].push(far ? line(parent, item) : curve(parent, item));
      }
      if (bottom < view.top || item.y > view.bottom || item.x > view.right || item.x + item.width < view.left) continue;
      if (far) {
        masses[massOf(item)].push(`M${Math.round(item.x)} ${Math.round(item.y)}h${item.width}v${NODE.height}h${-item.width}z`);
      } else {
        seen.add(item.key);
        this.drawItem(item, now);
      }
    }
    for (const [key, box] of this.drawn) {
      if (seen.has(key)) continue;
      box.root.remove();
      this.drawn.delete(key);
    }
    for (const [kind, path] of Object.entries(this.edges)) setPath(path, paths[kind].join(""));
    for (const [state, path] of Object.entries(this.masses)) setPath(path, masses[state].join(""));
  }

  drawItem(item, now) {
    let box = this.drawn.get(item.key);
    if (!box) {
      box = new Box(item, `${this.view.id}-${item.key}`, now - item.bornAt < 400);
      this.layer.append(box.root);
      this.drawn.set(item.key, box);
      item.stale = true;
    }
    box.move(item);
    if (item.stale) box.dress(item, now);
    item.stale = false;
    box.root.classList.toggle("sgl-selected", item.key === this.selected);
    box.root.classList.toggle("sgl-cursor", item.key === this.cursor);
    box.root.setAttribute("aria-selected", item.key === this.selected);
  }

  // ------------------------------------------------ hands

  listen() {
    const { stage } = this;
    let drag = null;
    stage.addEventListener("pointerdown", (event) => {
      if (event.button === 0) drag = { x: event.clientX, y: event.clientY, from: { ...this.camera }, moved: false };
    });
    stage.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const dx = event.clientX - drag.x;
      const dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      if (!drag.moved) {
        stage.setPointerCapture(event.pointerId);
        stage.classList.add("sgl-dragging");
      }
      drag.moved = true;
      this.track(false);
      Object.assign(this.camera, { x: drag.from.x + dx, y: drag.from.y + dy });
      this.touch();
    });
    const release = (event) => {
      stage.classList.remove("sgl-dragging");
      if (drag && !drag.moved && event.type === "pointerup") this.select(this.at(event));
      drag = null;
    };
    stage.addEventListener("pointerup", release);
    stage.addEventListener("pointercancel", release);
    stage.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        const home = stage.getBoundingClientRect();
        this.zoom(Math.exp(-event.deltaY / 300), event.clientX - home.left, event.clientY - home.top);
      },
      { passive: false },
    );
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("blur", () => {
      this.cursor = null;
      this.touch();
    });
  }

  touch() {
    this.redraw = true;
    this.view.invalidate();
  }

  track(on) {
    this.touched ||= !on;
    this.described = false;
    this.follow = on;
    this.following.setAttribute("aria-pressed", on);
    this.touch();
  }

  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    const { camera } = this;
    const k = clamp(camera.k * factor, 0.0005, 2.5);
    Object.assign(camera, { x: x - ((x - camera.x) * k) / camera.k, y: y - ((y - camera.y) * k) / camera.k, k });
    this.track(false);
  }

  fit() {
    const { width, height } = this.size;
    if (!this.extent || !this.extent.width) return;
    const k = clamp(Math.min((width - 24) / this.extent.width, (height - 24) / this.extent.height), 0.0005, 1);
    Object.assign(this.camera, { k, x: 12, y: (height - this.extent.height * k) / 2 });
    this.track(false);
  }

  at(event) {
    const home = this.stage.getBoundingClientRect();
    const x = (event.clientX - home.left - this.camera.x) / this.camera.k;
    const y = (event.clientY - home.top - this.camera.y) / this.camera.k;
    const slack = 3 / this.camera.k;
    return (
      this.order.find(
        (item) => x >= item.x - slack && x <= item.x + item.width + slack && y >= item.y - slack && y <= item.y + NODE.height + slack,
      )?.key ?? null
    );
  }

  select(key) {
    this.touched = true;
    this.selected = key;
    this.cursor = key;
    this.described = false;
    this.touch();
  }

  key(event) {
    const { order, items } = this;
    if (!order.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = items.get(this.cursor) ?? items.get(this.selected);
    const row = order.indexOf(here);
    const moves = {
      ArrowDown: () => order[Math.min(row + 1, order.length - 1)],
      ArrowUp: () => order[Math.max(row - 1, 0)],
      ArrowLeft: () => items.get(here?.home) ?? here ?? order[0],
      ArrowRight: () => here?.children[0] ?? here ?? order[0],
      Home: () => order[0],
      End: () => order.at(-1),
    };
    if (event.key in moves) {
      this.cursor = moves[event.key]().key;
      this.reveal(items.get(this.cursor));
    } else if (event.key === "Enter" || event.key === " ") this.select(here?.key ?? null);
    else if (event.key === "Escape") this.select(null);
    else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 1.3 : 1 / 1.3);
    else return;
    event.preventDefault();
    if (this.cursor) this.stage.setAttribute("aria-activedescendant", `${this.view.id}-${this.cursor}`);
    else this.stage.removeAttribute("aria-activedescendant");
    this.touch();
  }

  /** Bring a node into sight, at a scale at which it can be read. */
  reveal(item) {
    this.track(false);
    const { camera, size } = this;
    if (camera.k < LEGIBLE) this.zoom(1 / camera.k);
    const left = item.tx * camera.k + camera.x;
    const top = item.ty * camera.k + camera.y;
    const right = left + Math.min(item.width * camera.k, size.width - 32);
    if (left < 16) camera.x += 16 - left;
    else if (right > size.width - 16) camera.x -= right - size.width + 16;
    if (top < 16) camera.y += 16 - top;
    else if (top + NODE.height > size.height - 16) camera.y -= top + NODE.height - size.height + 16;
  }

  describe() {
    this.described = true;
    const item = this.items.get(this.selected);
    this.hint.hidden ||= this.touched ?? false;
    this.details.hidden = !item;
    if (!item) return;
    const { node } = item;
    const path = [];
    for (let at = item; at; at = this.items.get(at.home)) if (at.node.state !== "root") path.unshift(at.node.label);
    const fact = (value, label) => el("span", { class: "sgl-fact" }, el("b", {}, value), ` ${label}`);
    const facts = [
      el("span", { class: `sgl-state ${node.state}` }, item.kind === "tail" ? "being generated" : NODE_MEANING[node.state]),
      fact(node.n, "tokens"),
    ];
    if (item.kind === "node")
      facts.push(
        fact(node.hits, "hits"),
        fact(node.refs, "in use by"),
        fact(`${Math.max(0, this.view.store.clock - node.used)}`, "ticks since last use"),
        fact(`#${node.id}`, ""),
      );
    const last = path.pop() ?? "root";
    this.details.replaceChildren(
      el(
        "div",
        { class: "sgl-path" },
        el("span", { class: "sgl-above" }, visible(path.join("").slice(-160))),
        el("span", {}, visible(last)),
      ),
      el("div", { class: "sgl-facts" }, ...facts),
    );
  }

  close() {
    this.sized.disconnect();
  }
}

class Box {
  /* One node on the canvas. */
  constructor(item, id, fresh) {
    this.shape = svg("rect", { height: NODE.height, rx: 7 });
    this.accent = svg("rect", { class: "sgl-accent", x: 0, y: 7, width: 3, height: NODE.height - 14, rx: 1.5 });
    this.label = svg("text", { class: "sgl-node-label", x: NODE.pad, y: 14 });
    this.meta = svg("text", { class: "sgl-node-meta", x: NODE.pad, y: 27 });
    this.glyph = svg("text", { class: "sgl-node-glyph", y: 26.5, "text-anchor": "end" });
    this.root = svg(
      "g",
      { id, role: "treeitem", "aria-level": item.depth + 1 },
      this.shape,
      this.accent,
      this.label,
      this.meta,
      this.glyph,
    );
    this.inner = fresh ? "sgl-fresh" : "";
  }

  move({ x, y }) {
    const place = `translate(${x.toFixed(1)} ${y.toFixed(1)})`;
    if (place !== this.place) this.root.setAttribute("transform", (this.place = place));
  }

  dress(item, now) {
    const { node } = item;
    const state = item.goneAt !== null ? "gone" : node.state;
    const hit = item.hitAt && now - item.hitAt < 300;
    this.root.setAttribute("class", `sgl-node ${state} ${this.inner}${hit ? " sgl-hit" : ""}`);
    this.shape.setAttribute("width", item.width);
    this.glyph.setAttribute("x", item.width - 9);
    setText(this.label, item.text);
    setText(this.meta, item.meta);
    this.label.setAttribute("y", item.meta ? 14 : 21);
    setText(this.glyph, NODE_GLYPH[state] ?? "");
    this.root.setAttribute(
      "aria-label",
      `${node.label || "root"}, ${count(node.n, "token")}${item.kind === "node" ? `, ${count(node.hits, "hit")}, ${NODE_MEANING[state]}` : ", being generated"}`,
    );
  }
}

function shorten(label) {
  const text = visible(label);
  const letters = Array.from(text);
  if (letters.length <= NODE.letters) return text;
  if (letters.at(-1) === "…") return letters.slice(0, NODE.letters - 1).join("") + "…";
  return letters.slice(0, 15).join("") + "…" + letters.slice(16 - NODE.letters).join("");
}

function widthOf(text) {
  let cells = 0;
  for (const letter of text) cells += letter.codePointAt(0) > 0x1100 && !/[…↵⇥●○▸◆■]/.test(letter) ? 1.8 : 1;
  return Math.ceil(cells * NODE.font) + 2 * NODE.pad;
}

function massOf({ goneAt, kind, node }) {
  if (goneAt !== null) return "gone";
  return kind === "tail" || node.state === "running" ? "running" : node.state === "locked" || node.state === "root" ? "locked" : "cached";
}

const tenth = (value) => Math.round(10 * value) / 10;

function curve(parent, item) {
  const x0 = tenth(parent.x + parent.width);
  const y0 = tenth(parent.y + NODE.height / 2);
  const y1 = tenth(item.y + NODE.height / 2);
  const mid = tenth((x0 + item.x) / 2);
  return `M${x0} ${y0}C${mid} ${y0} ${mid} ${y1} ${tenth(item.x)} ${y1}`;
}

function line(parent, item) {
  return `M${Math.round(parent.x + parent.width)} ${Math.round(parent.y + NODE.height / 2)}L${Math.round(item.x)} ${Math.round(item.y + NODE.height / 2)}`;
}

function setPath(path, d) {
  if (path.d !== d) path.setAttribute("d", (path.d = d));
}

// ---------------------------------------------------------------- timeline

const LANE = { height: 24, axis: 24, indent: 12 };

class TimelinePanel {
  title = "Timeline";

  constructor(view) {
    this.view = view;
    this.rows = [];
    this.drawn = new Map();
    this.dirty = new Set();
    this.span = 1000;
    this.zoomed = null;
    const tool = (label, text, act) =>
      el("button", { type: "button", class: "sgl-tool", "aria-label": label, title: label, click: act }, text);
    const tools = el(
      "div",
      { class: "sgl-tools" },
      tool("Show the whole run", "Fit", () => this.window(null)),
      tool("Zoom out", "−", () => this.zoom(1.4)),
      tool("Zoom in", "+", () => this.zoom(1 / 1.4)),
    );
    const keys = ["wait", "cached", "prefill", "decode", "score"].map((kind) =>
      el(
        "span",
        { class: "sgl-key" },
        svg(
          "svg",
          { class: "sgl-swatch", width: 14, height: 10, "aria-hidden": "true" },
          svg("rect", { class: `sgl-span ${kind}`, width: 13, height: 9, x: 0.5, y: 0.5, rx: 2, fill: this.pattern(kind) }),
        ),
        kind,
      ),
    );
    const hatch = (kind, ...marks) =>
      svg(
        "pattern",
        { id: `${view.id}-${kind}`, class: `sgl-pattern ${kind}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
        svg("rect", { class: "sgl-ground", width: 6, height: 6 }),
        ...marks,
      );
    const line = (d) => svg("path", { d });
    const dot = svg("circle", { cx: 3, cy: 3, r: 1.2 });
    this.defs = svg(
      "defs",
      {},
      hatch("prefill", line("M-1 1l2-2M0 6l6-6M5 7l2-2")),
      hatch("score", dot),
      hatch("preempted", line("M0 0l6 6M6 0l-6 6")),
      hatch("cached", line("M0 3h6")),
    );
    this.grid = svg("g", { class: "sgl-grid", "aria-hidden": "true" });
    this.bars = svg("g", { class: "sgl-bars" });
    this.cursor = el("div", { class: "sgl-now", "aria-hidden": "true" });
    this.canvas = svg("svg", { class: "sgl-lanes-canvas", role: "presentation" }, this.defs, this.grid, this.bars);
    this.names = el("div", { class: "sgl-names" });
    this.plot = el(
      "div",
      { class: "sgl-plot", tabindex: 0, role: "group", "aria-label": "Timeline; arrow keys move from bar to bar" },
      this.canvas,
      this.cursor,
    );
    this.scroll = el("div", { class: "sgl-scroll sgl-lanes" }, this.names, this.plot);
    this.root = panel("timeline", this.title, [el("div", { class: "sgl-legend" }, ...keys), tools], this.scroll);
    this.width = 0;
    this.sized = new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.scaled = true;
      view.invalidate();
    });
    this.sized.observe(this.plot);
    this.listen();
  }

  pattern(kind) {
    return ["prefill", "score", "preempted", "cached"].includes(kind) ? `url(#${this.view.id}-${kind})` : null;
  }

  changed(change) {
    if (change.reset) {
      this.bars.replaceChildren();
      this.drawn.clear();
      this.dirty = new Set(this.view.store.bars.keys());
      this.shape = true;
    }
    if (change.lanes) this.shape = true;
    for (const id of change.bars ?? []) this.dirty.add(id);
  }

  /** Lanes in the order in which they were opened, children under their parents. */
  arrange() {
    const { lanes } = this.view.store;
    const below = new Map();
    for (const lane of lanes.values()) {
      const parent = lanes.has(lane.parent) ? lane.parent : null;
      below.set(parent, [...(below.get(parent) ?? []), lane]);
    }
    this.rows = [];
    const visit = (parent, depth) => {
      for (const lane of below.get(parent) ?? []) {
        this.rows.push({ ...lane, depth });
        visit(lane.lane, depth + 1);
      }
    };
    visit(null, 0);
    this.rowOf = new Map(this.rows.map((row, index) => [row.lane, index]));
    this.names.replaceChildren(
      el("div", { class: "sgl-name sgl-name-axis" }),
      ...this.rows.map((row) => {
        const name = el("div", { class: `sgl-name ${row.kind}`, title: row.label }, el("span", {}, row.label));
        name.style.paddingInlineStart = `${10 + LANE.indent * row.depth}px`;
        return name;
      }),
    );
    const height = LANE.axis + LANE.height * this.rows.length + 6;
    this.canvas.setAttribute("height", height);
    this.scroll.style.minHeight = `${clamp(Math.ceil(this.rows.length / 4) * 4, 4, 8) * LANE.height + LANE.axis + 6}px`;
    this.shape = false;
    this.scaled = true;
  }

  paint() {
    if (this.shape) this.arrange();
    const { store } = this.view;
    const now = this.rows.length ? store.now() : 0;
    const span = this.span;
    while (now > this.span) this.span *= 1.4;
    if (!store.active && this.span > 1.1 * now && now > 0) this.span = 1.04 * now;
    this.scaled ||= this.span !== span;
    const [from, to] = this.zoomed ?? [0, this.span];
    const scale = this.width / (to - from);
    this.x = (ms) => (ms - from) * scale;
    if (this.scaled) this.axis(from, to);
    for (const [id, bar] of store.bars) if (this.scaled || this.dirty.has(id) || bar.t1 === null) this.drawBar(bar, now);
    this.dirty.clear();
    this.scaled = false;
    this.cursor.style.transform = `translateX(${this.x(now).toFixed(1)}px)`;
    this.cursor.classList.toggle("sgl-on", store.status.phase === "running" && this.rows.length > 0);
    if (store.status.phase === "running" && this.rows.length) this.view.later(50);
    return false;
  }

  axis(from, to) {
    const raw = (to - from) / Math.max(2, this.width / 90);
    const ten = 10 ** Math.floor(Math.log10(raw));
    const step = ten * [1, 2, 5, 10].find((factor) => factor * ten >= raw);
    const marks = [];
    for (let ms = Math.ceil(from / step) * step; ms <= to; ms += step) {
      const x = this.x(ms).toFixed(1);
      marks.push(
        svg("line", { x1: x, x2: x, y1: LANE.axis - 6, y2: "100%" }),
        svg(
          "text",
          { x: this.x(ms) + 4, y: 12 },
          ms === 0
            ? "0"
            : step >= 1000
              ? `${Math.round(ms / 1000)} s`
              : to >= 1000
                ? `${+(ms / 1000).toFixed(3)} s`
                : `${Math.round(ms)} ms`,
        ),
      );
    }
    this.grid.replaceChildren(...marks);
  }

  drawBar(bar, now) {
    const row = this.rowOf?.get(bar.lane);
    const x0 = this.x(bar.t0);
    const x1 = this.x(bar.t1 ?? Math.max(now, bar.t0));
    let box = this.drawn.get(bar.id);
    if (row === undefined || x1 < -2 || x0 > this.width + 2) {
      box?.root.remove();
      this.drawn.delete(bar.id);
      return;
    }
    if (!box) {
      const shape = svg("rect", { rx: 3 });
      const text = svg("text", { class: "sgl-span-label" });
      box = { shape, text, root: svg("g", {}, shape, text) };
      this.bars.append(box.root);
      this.drawn.set(bar.id, box);
    }
    const thin = bar.kind === "wait" || bar.kind === "text";
    const height = thin ? 6 : 16;
    const left = Math.max(x0, -4);
    const width = Math.max(Math.min(x1, this.width + 4) - left - 0.5, 2);
    const top = LANE.axis + LANE.height * row + (LANE.height - height) / 2;
    box.root.bar = bar.id;
    if (box.kind !== bar.kind) {
      box.kind = bar.kind;
      const fill = this.pattern(bar.kind);
      if (fill) box.shape.setAttribute("fill", fill);
      else box.shape.removeAttribute("fill");
    }
    const open = bar.t1 === null && this.view.store.active;
    box.root.setAttribute("class", `sgl-span ${bar.kind}${open ? " sgl-open" : ""}${bar.id === this.chosen ? " sgl-chosen" : ""}`);
    for (const [name, value] of [
      ["x", left.toFixed(1)],
      ["y", top],
      ["width", width.toFixed(1)],
      ["height", height],
    ])
      box.shape.setAttribute(name, value);
    box.text.setAttribute("x", (left + 6).toFixed(1));
    box.text.setAttribute("y", top + 11.5);
    const label = bar.name ? `${bar.name} ${bar.n}` : `${bar.n}`;
    setText(box.text, !thin && width > label.length * 6.4 + 12 ? label : "");
  }

  listen() {
    const { plot } = this;
    let drag = null;
    plot.addEventListener(
      "pointerdown",
      (event) => (drag = event.button === 0 && this.zoomed ? { x: event.clientX, from: [...this.zoomed] } : null),
    );
    plot.addEventListener("pointermove", (event) => {
      if (drag) {
        const shift = ((event.clientX - drag.x) / this.width) * (drag.from[1] - drag.from[0]);
        this.window(drag.from.map((ms) => ms - shift));
      }
      this.choose(event.target.closest?.(".sgl-span")?.bar);
    });
    addEventListener("pointerup", (this.drop = () => (drag = null)));
    plot.addEventListener("pointerleave", () => this.choose(undefined));
    plot.addEventListener("blur", () => this.choose(undefined));
    plot.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        this.zoom(Math.exp(event.deltaY / 300), (event.clientX - plot.getBoundingClientRect().left) / this.width);
      },
      { passive: false },
    );
    plot.addEventListener("keydown", (event) => this.key(event));
  }

  zoom(factor, at = 0.5) {
    const [from, to] = this.zoomed ?? [0, this.span];
    const centre = from + (to - from) * at;
    this.window([centre - (centre - from) * factor, centre + (to - centre) * factor]);
  }

  window(range) {
    if (range) {
      const length = clamp(range[1] - range[0], 5, this.span);
      const from = clamp(range[0], 0, this.span - length);
      range = length === this.span ? null : [from, from + length];
    }
    this.zoomed = range;
    this.scaled = true;
    this.view.invalidate();
  }

  choose(id) {
    if (id === this.chosen) return;
    for (const bar of [this.chosen, id]) if (bar !== undefined) this.dirty.add(bar);
    this.chosen = id;
    this.view.invalidate();
    const bar = this.view.store.bars.get(id);
    const box = this.drawn.get(id);
    if (!bar || !box) return this.view.card.hide();
    const lasted = (bar.t1 ?? this.view.store.now()) - bar.t0;
    const rows = [
      el("div", { class: "sgl-card-head" }, el("b", {}, BAR_LABEL[bar.kind] ?? bar.kind), el("span", {}, seconds(lasted))),
      el(
        "div",
        { class: "sgl-card-line" },
        [bar.name, bar.n ? count(bar.n, "token") : "", `from ${seconds(bar.t0)}`].filter(Boolean).join(" · "),
      ),
    ];
    if (bar.kind === "decode" && lasted > 0 && bar.n > 1)
      rows.push(el("div", { class: "sgl-card-line" }, `${((1000 * bar.n) / lasted).toFixed(1)} tokens/s`));
    return this.view.card.show(box.shape.getBoundingClientRect(), rows);
  }

  key(event) {
    const bars = [...this.view.store.bars.values()].filter((bar) => this.rowOf?.has(bar.lane));
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key === "Escape") this.choose(undefined);
    if (!(event.key in moves) || !bars.length || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [down, along] = moves[event.key];
    const here = this.view.store.bars.get(this.chosen) ?? null;
    const row = here ? clamp(this.rowOf.get(here.lane) + down, 0, this.rows.length - 1) : 0;
    const lane = bars.filter((bar) => this.rowOf.get(bar.lane) === row).sort((a, b) => a.t0 - b.t0);
    const next =
      along && here
        ? lane[clamp(lane.indexOf(here) + along, 0, lane.length - 1)]
        : (lane.find((bar) => (bar.t1 ?? Infinity) > (here?.t0 ?? 0)) ?? lane[0]);
    if (next) this.choose(next.id);
  }

  close() {
    this.sized.disconnect();
    removeEventListener("pointerup", this.drop);
  }
}

// ---------------------------------------------------------------- anywidget's door

export default () => {
  let store;
  return {
    initialize({ model }) {
      store = new Store(model);
    },
    render({ el: root }) {
      const view = new View(store, root);
      return () => {
        for (const each of [view.panels.tree, view.panels.timeline]) each.close();
        view.close();
      };
    },
  };
};

/* The timeline: one lane per fork and request, nested as the program forks. Time can be zoomed
 * and panned, and lanes can be folded.
 */

import { BAR_MEANING, BAR_WORDS, clamp, count, el, panel, seconds, setText, svg, tool, wordsOf } from "./page.js";

const LANE = { height: 18, bar: 12, axis: 20, indent: 12, pad: 9, word: 48, most: 10 };
const HATCHED = ["prefill", "score", "preempted", "forced"];
const EVERY_MS = 50;
const OVER = new Set(["forced", "drafted", "rejected"]);
const HITS = new Set(["found", "reused"]);
const THIN = { wait: 4, sent: 4, text: 4, host: 2, forks: 2 };

export class TimelinePanel {
  title = "Timeline";

  constructor(view) {
    this.view = view;
    this.rows = [];
    this.folded = new Set();
    this.drawn = new Map();
    this.dirty = new Set();
    this.growing = new Set();
    this.due = 0;
    this.linked = new Set();
    this.span = 1000;
    this.zoomed = null;
    const tools = el(
      "div",
      { class: "sgl-tools" },
      tool("Fit: show the whole run", "Fit", () => this.window(null)),
      tool("Zoom out", "−", () => this.zoom(1.4)),
      tool("Zoom in", "+", () => this.zoom(1 / 1.4)),
    );
    const hatch = (kind, ...marks) =>
      svg(
        "pattern",
        { id: `${view.id}-${kind}`, class: `sgl-pattern ${kind}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
        svg("rect", { class: "sgl-ground", width: 6, height: 6 }),
        ...marks,
      );
    const line = (d) => svg("path", { d });
    this.defs = svg(
      "defs",
      {},
      hatch("prefill", line("M-1 1l2-2M0 6l6-6M5 7l2-2")),
      hatch("score", svg("circle", { cx: 3, cy: 3, r: 1.2 })),
      hatch("preempted", line("M0 0l6 6M6 0l-6 6")),
      hatch("forced", line("M2 0v6M5 0v6")),
    );
    this.keys = new Map(
      Object.keys(BAR_WORDS).map((kind) => [kind, this.keyOf(kind)]),
    );
    this.grid = svg("g", { class: "sgl-grid", "aria-hidden": "true" });
    this.bars = svg("g", { class: "sgl-bars" });
    this.hits = svg("g", { class: "sgl-bars" });
    this.cursor = el("div", { class: "sgl-now", "aria-hidden": "true" });
    this.canvas = svg("svg", { class: "sgl-lanes-canvas", role: "presentation" }, this.defs, this.grid, this.bars, this.hits);
    this.names = el("div", { class: "sgl-names" });
    this.plot = el(
      "div",
      { class: "sgl-plot", tabindex: 0, role: "group", "aria-label": "Timeline; arrow keys move from bar to bar, Enter chooses" },
      this.canvas,
      this.cursor,
    );
    this.scroll = el("div", { class: "sgl-scroll sgl-lanes" }, this.names, this.plot);
    this.root = panel("timeline", this.title, [el("div", { class: "sgl-legend" }, ...this.keys.values()), tools], this.scroll);
    this.width = 0;
    this.sized = new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.scaled = true;
      view.invalidate();
    });
    this.sized.observe(this.plot);
    this.sight = { top: 0, height: 0 };
    this.seen = new ResizeObserver(([entry]) => this.look(this.sight.top, entry.contentRect.height));
    this.seen.observe(this.scroll);
    this.scroll.addEventListener("scroll", () => this.look(this.scroll.scrollTop, this.sight.height), { passive: true });
    this.listen();
  }

  keyOf(kind) {
    const mark = HITS.has(kind)
      ? svg("path", { class: `sgl-span ${kind}`, d: diamond(7, 5, 4.5) })
      : svg("rect", { class: `sgl-span ${kind}`, width: 13, height: OVER.has(kind) ? 4 : kind in THIN ? THIN[kind] : 9, x: 0.5, y: OVER.has(kind) || kind in THIN ? 3 : 0.5, rx: 2, fill: this.pattern(kind) });
    const swatch = svg("svg", { class: "sgl-swatch", width: 14, height: 10, "aria-hidden": "true" }, mark);
    return el("span", { class: "sgl-key", title: BAR_MEANING[kind], hidden: true }, swatch, BAR_WORDS[kind]);
  }

  pattern(kind) {
    return HATCHED.includes(kind) ? `url(#${this.view.id}-${kind})` : null;
  }

  /** What a kind of bar means where the engine is. */
  meaning(kind) {
    return { found: wordsOf(this.view.store).meanings.cached, reused: wordsOf(this.view.store).meanings.reused }[kind] ?? BAR_MEANING[kind] ?? kind;
  }

  /** The words of the legend that depend on where the engine is. */
  explain() {
    const words = wordsOf(this.view.store);
    if (words === this.words) return;
    this.words = words;
    this.keys.get("found").lastChild.data = words.cached;
    for (const kind of HITS) this.keys.get(kind).title = this.meaning(kind);
  }

  changed(change) {
    this.explain();
    const { bars } = this.view.store;
    if (change.reset) {
      this.bars.replaceChildren();
      this.hits.replaceChildren();
      this.drawn.clear();
      this.growing.clear();
      this.shape = true;
    }
    if (change.lanes) this.shape = true;
    for (const id of change.dropped ?? []) {
      this.drawn.get(id)?.root.remove();
      this.drawn.delete(id);
      this.growing.delete(id);
    }
    for (const id of change.reset ? bars.keys() : (change.bars ?? [])) {
      const bar = bars.get(id);
      if (!bar) continue;
      this.dirty.add(id);
      if (bar.t1 === null) this.growing.add(id);
      else this.growing.delete(id);
      if (this.keys.has(bar.kind)) this.keys.get(bar.kind).hidden = false;
      if (bar.wrong) this.keys.get("rejected").hidden = false;
    }
  }

  /**
   * Lanes in the order in which they were opened, children below their parents. Folded lanes
   * are counted.
   */
  arrange() {
    const { lanes, options } = this.view.store;
    const below = new Map();
    for (const lane of lanes.values()) {
      const parent = lanes.has(lane.parent) ? lane.parent : null;
      below.set(parent, [...(below.get(parent) ?? []), lane]);
    }
    // the newest lanes first: they are what a reader looks for
    if (options.dashboard) below.get(null)?.reverse();
    this.rows = [];
    const size = (lane) => (below.get(lane) ?? []).reduce((sum, child) => sum + 1 + size(child.lane), 0);
    const visit = (parent, depth) => {
      for (const lane of below.get(parent) ?? []) {
        const folds = this.folded.has(lane.lane);
        this.rows.push({ ...lane, depth, n_below: size(lane.lane), folds });
        if (!folds) visit(lane.lane, depth + 1);
      }
    };
    visit(null, 0);
    this.rowOf = new Map(this.rows.map((row, index) => [row.lane, index]));
    this.names.replaceChildren(el("div", { class: "sgl-name sgl-name-axis" }), ...this.rows.map((row) => this.nameOf(row)));
    const height = LANE.axis + LANE.height * this.rows.length + 6;
    this.canvas.setAttribute("height", height);
    this.scroll.style.minHeight = `${clamp(this.rows.length, 2, LANE.most) * LANE.height + LANE.axis + 6}px`;
    this.shape = false;
    this.scaled = true;
  }

  nameOf({ lane, kind, label, state, depth, n_below: n, folds }) {
    const flip = () => {
      if (!this.folded.delete(lane)) this.folded.add(lane);
      this.shape = true;
      this.view.invalidate();
      this.view.later(0, () => this.names.querySelector(`[data-lane="${CSS.escape(lane)}"]`)?.focus());
    };
    const fold = n
      ? el(
          "button",
          { type: "button", class: "sgl-fold", "data-lane": lane, "aria-expanded": !folds, "aria-label": `${label}, ${count(n, "lane")} below`, click: flip },
          folds ? "▸" : "▾",
        )
      : el("i", { class: "sgl-fold", "aria-hidden": "true" });
    const name = el("div", { class: `sgl-name ${kind}`, title: label }, fold, el("span", {}, label));
    if (state) name.append(el("b", { class: "sgl-broken", title: state === "error" ? "failed" : state }, state === "error" ? "✕" : "■"));
    if (folds) name.append(el("em", {}, `+${n}`));
    name.style.paddingInlineStart = `${2 + LANE.indent * depth}px`;
    return name;
  }

  // ------------------------------------------------ painting

  /** Growing bars are painted twenty times a second. */
  paint(t) {
    if (t < this.due && !this.shape && !this.scaled && !this.dirty.size) return false;
    if (this.shape) this.arrange();
    const { store } = this.view;
    const now = this.rows.length ? store.now() : 0;
    const span = this.span;
    if (store.length) this.span = 1.02 * store.length;
    const { since } = store;
    while (now > this.span) this.span = since + 1.4 * Math.max(this.span - since, 500);
    if (!store.length && !store.active && this.span - since > 1.1 * (now - since) && now > since) this.span = since + 1.04 * (now - since);
    this.scaled ||= this.span !== span || since !== this.since;
    this.since = since;
    const [from, to] = this.zoomed ?? this.whole();
    const scale = (this.width - 2 * LANE.pad) / (to - from);
    this.x = (ms) => LANE.pad + (ms - from) * scale;
    if (this.scaled) this.axis(from, to);
    for (const id of this.scaled ? store.bars.keys() : new Set([...this.dirty, ...this.growing])) {
      const bar = store.bars.get(id);
      if (bar) this.drawBar(bar, now);
    }
    this.dirty.clear();
    this.scaled = false;
    const running = store.status.phase === "running" && this.rows.length > 0;
    this.cursor.style.transform = `translateX(${this.x(now).toFixed(1)}px)`;
    this.cursor.classList.toggle("sgl-on", running || Boolean(store.length));
    this.due = running ? t + EVERY_MS : 0;
    if (running) this.view.later(EVERY_MS);
    return false;
  }

  axis(from, to) {
    const raw = (to - from) / Math.max(2, this.width / 90);
    const ten = 10 ** Math.floor(Math.log10(raw));
    const pace = ten * [1, 2, 5, 10].find((factor) => factor * ten >= raw);
    const marks = [];
    const word = (ms) =>
      ms === 0 ? "0" : pace >= 1000 ? `${Math.round(ms / 1000)} s` : to >= 1000 ? `${+(ms / 1000).toFixed(3)} s` : `${+ms.toFixed(2)} ms`;
    for (let ms = Math.ceil(from / pace) * pace; ms <= to; ms += pace) {
      const x = this.x(ms);
      const isLast = x > this.width - LANE.word; // its label is on the left, where it is not cut off
      const name = svg("text", { x: x + (isLast ? -4 : 4), y: 11, "text-anchor": isLast ? "end" : "start" }, word(ms));
      marks.push(svg("line", { x1: x.toFixed(1), x2: x.toFixed(1), y1: LANE.axis - 4, y2: "100%" }), name);
    }
    this.grid.replaceChildren(...marks);
  }

  /** Draws visible lanes only. */
  look(top, height) {
    this.sight = { top, height };
    this.scaled = true;
    this.view.invalidate();
  }

  isSeen(row) {
    const y = LANE.axis + LANE.height * row - this.sight.top;
    return y > -2 * LANE.height && y < this.sight.height + LANE.height;
  }

  drawBar(bar, now) {
    const row = this.rowOf?.get(bar.lane);
    const x0 = this.x(bar.t0);
    const x1 = this.x(bar.t1 ?? Math.max(now, bar.t0));
    let box = this.drawn.get(bar.id);
    if (row === undefined || !this.isSeen(row) || x1 < -8 || x0 > this.width + 8) {
      box?.root.remove();
      this.drawn.delete(bar.id);
      return;
    }
    if (!box) {
      const shape = HITS.has(bar.kind) ? svg("path") : svg("rect", { rx: 2.5 });
      const text = svg("text", { class: "sgl-span-label" });
      box = { shape, text, root: svg("g", {}, shape, text) };
      if (bar.kind === "drafted") box.root.append((box.wrong = svg("rect", { class: "sgl-wrong" })));
      (HITS.has(bar.kind) ? this.hits : this.bars).append(box.root);
      this.drawn.set(bar.id, box);
    }
    box.root.bar = bar.id;
    if (box.kind !== bar.kind) {
      box.kind = bar.kind;
      const fill = this.pattern(bar.kind);
      if (fill) box.shape.setAttribute("fill", fill);
      else box.shape.removeAttribute("fill");
    }
    const open = bar.t1 === null && this.view.store.active;
    const state = `${open ? " sgl-open" : ""}${bar.id === this.chosen ? " sgl-chosen" : ""}${this.linked.has(bar.id) ? " sgl-linked" : ""}`;
    box.root.setAttribute("class", `sgl-span ${bar.kind}${state}`);
    this.place(box, bar, x0, x1, LANE.axis + LANE.height * row);
  }

  /**
   * A phase is a box. Cached tokens are a diamond, which is filled if they are from earlier
   * runs. Forced tokens are a strip above the box, drafted tokens a strip below it.
   */
  place({ shape, text, wrong }, bar, x0, x1, top) {
    const put = (rect, x, y, width, height) => {
      for (const [name, value] of Object.entries({ x: x.toFixed(1), y, width: width.toFixed(1), height })) rect.setAttribute(name, value);
    };
    const middle = top + LANE.height / 2;
    if (HITS.has(bar.kind)) {
      shape.setAttribute("d", diamond(x0, middle, 5));
      setText(text, "");
      return;
    }
    const height = THIN[bar.kind] ?? (OVER.has(bar.kind) ? 3 : LANE.bar);
    const left = Math.max(x0, -4);
    const width = Math.max(Math.min(x1, this.width + 4) - left - 0.5, 2);
    const y = { forced: top, drafted: top + LANE.height - 3 }[bar.kind] ?? middle - height / 2;
    put(shape, left, y, width, height);
    if (wrong) {
      const share = bar.wrong / Math.max(1, bar.n + bar.wrong);
      put(wrong, left + width * (1 - share), y, width * share, height);
    }
    text.setAttribute("x", (left + 5).toFixed(1));
    text.setAttribute("y", middle + 3.5);
    const label = bar.kind in THIN ? (BAR_WORDS[bar.kind] ?? "") : bar.name ? `${bar.name} ${bar.n}` : `${bar.n}`;
    setText(text, !OVER.has(bar.kind) && width > label.length * 6.2 + 10 ? label : "");
  }

  // ------------------------------------------------ pointer and keyboard

  listen() {
    const { plot } = this;
    let drag = null;
    plot.addEventListener("pointerdown", (event) => {
      if (event.button === 0) drag = { x: event.clientX, from: this.zoomed && [...this.zoomed], moved: false };
    });
    plot.addEventListener("pointermove", (event) => {
      if (drag && Math.abs(event.clientX - drag.x) > 4) drag.moved = true;
      if (drag?.moved && drag.from) {
        const shift = ((event.clientX - drag.x) / this.width) * (drag.from[1] - drag.from[0]);
        this.window(drag.from.map((ms) => ms - shift));
      }
      this.choose(event.target.closest?.(".sgl-span")?.bar);
    });
    plot.addEventListener("pointerup", (event) => {
      const id = event.target.closest?.(".sgl-span")?.bar;
      if (drag && !drag.moved && id !== undefined) this.view.choose({ kind: "bar", id }, this);
      else if (drag && !drag.moved) this.view.seek?.(this.when(event));
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

  when(event) {
    const [from, to] = this.zoomed ?? this.whole();
    const share = (event.clientX - this.plot.getBoundingClientRect().left - LANE.pad) / (this.width - 2 * LANE.pad);
    return from + share * (to - from);
  }

  /** From the first moment that is kept to shortly after the last. */
  whole() {
    return [this.view.store.since, this.span];
  }

  zoom(factor, at = 0.5) {
    const [from, to] = this.zoomed ?? this.whole();
    const centre = from + (to - from) * at;
    this.window([centre - (centre - from) * factor, centre + (to - centre) * factor]);
  }

  window(range) {
    if (range) {
      const [first, last] = this.whole();
      const length = clamp(range[1] - range[0], 1, last - first);
      const from = clamp(range[0], first, last - length);
      range = length === last - first ? null : [from, from + length];
    }
    this.zoomed = range;
    this.scaled = true;
    this.view.invalidate();
  }

  choose(id) {
    if (id === this.chosen) return;
    for (const bar of [this.chosen, id]) if (bar !== undefined) this.dirty.add(bar);
    this.chosen = id;
    this.view.point(id === undefined ? null : { kind: "bar", id });
    this.view.invalidate();
    const bar = this.view.store.bars.get(id);
    const box = this.drawn.get(id);
    if (!bar || !box) {
      this.view.card.hide();
      return;
    }
    this.view.card.show(box.shape.getBoundingClientRect(), this.describe(bar));
  }

  /** The details of a bar. */
  describe(bar) {
    const lasted = (bar.t1 ?? this.view.store.now()) - bar.t0;
    const line = (...words) => el("div", { class: "sgl-card-line" }, words.filter(Boolean).join(" · "));
    const head = el("div", { class: "sgl-card-head" }, el("b", {}, this.meaning(bar.kind)), el("span", {}, lasted ? seconds(lasted) : ""));
    const rows = [head, line(bar.name, bar.n ? count(bar.n, "token") : "", `from ${seconds(bar.t0)}`)];
    if (bar.request !== null && bar.request !== undefined) rows.push(line(`request ${bar.request}`, bar.at !== null && bar.kind !== "wait" && bar.kind !== "sent" ? `position ${bar.at} on` : ""));
    if (bar.kind === "decode" && lasted > 0 && bar.n > 1) rows.push(line(`${((1000 * bar.n) / lasted).toFixed(1)} tokens/s`));
    if (bar.kind === "drafted") rows.push(line(`${bar.n} of ${count(bar.n + bar.wrong, "draft token")} accepted`));
    return rows;
  }

  /** Highlight the bars that belong to the item under the pointer. */
  mark({ bars }) {
    for (const id of [...this.linked, ...bars]) this.dirty.add(id);
    this.linked = bars;
  }

  /** Scroll to the first bar of an item that was chosen in another panel. */
  reveal() {
    const bar = this.view.store.bars.get([...this.linked][0]);
    if (!bar || this.root.hidden) return;
    const top = LANE.height * (this.rowOf?.get(bar.lane) ?? 0);
    if (top < this.scroll.scrollTop || top + 2 * LANE.height > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = top - LANE.height;
    const [from, to] = this.zoomed ?? this.whole();
    if (bar.t0 < from || bar.t0 > to) this.window([bar.t0 - (to - from) / 4, bar.t0 + (3 * (to - from)) / 4]);
  }

  key(event) {
    const bars = [...this.view.store.bars.values()].filter((bar) => this.rowOf?.has(bar.lane));
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key === "Escape") {
      this.choose(undefined);
      this.view.choose(null, this);
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 1 / 1.4 : 1.4);
    if ((event.key === "Enter" || event.key === " ") && this.chosen !== undefined) {
      event.preventDefault();
      this.view.choose({ kind: "bar", id: this.chosen }, this);
    }
    if (!(event.key in moves) || !bars.length) return;
    event.preventDefault();
    const [down, along] = moves[event.key];
    const here = this.view.store.bars.get(this.chosen) ?? null;
    const row = here ? clamp(this.rowOf.get(here.lane) + down, 0, this.rows.length - 1) : 0;
    const lane = bars.filter((bar) => this.rowOf.get(bar.lane) === row).sort((a, b) => a.t0 - b.t0);
    const next =
      along && here
        ? lane[clamp(lane.indexOf(here) + along, 0, lane.length - 1)]
        : (lane.find((bar) => (bar.t1 ?? Infinity) > (here?.t0 ?? 0)) ?? lane[0]);
    if (!next) return;
    this.choose(next.id);
    this.view.announce(`${this.rows[row].label}: ${this.describe(next).map((part) => part.textContent).join(", ")}`);
  }

  close() {
    this.sized.disconnect();
    this.seen.disconnect();
    removeEventListener("pointerup", this.drop);
  }
}

/**
 * Drawn as one path instead of a rotated box, because every element with a transform costs the
 * compositor time in each frame.
 */
const diamond = (x, y, r) => `M${(x - r).toFixed(1)} ${y}l${r} -${r} ${r} ${r} -${r} ${r}z`;

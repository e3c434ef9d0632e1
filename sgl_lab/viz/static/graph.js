/* The dataflow graphs of compiled programs, which light up while they run: a box a node, a row a
 * strand, lines for what waits for what. Places and widths come from the kernel (viz/views/layers.py).
 */

import { clamp, count, el, figure, panel, setText, svg, tool } from "./page.js";

const STEP = { height: 24, head: 22, pad: 14, stage: 232 };
const ASKING = new Set(["gen", "select"]);
export const STEP_LOOK = {
  idle: ["·", "not reached"],
  queued: ["◌", "queued"],
  running: ["▸", "running"],
  done: ["✓", "done"],
  failed: ["✕", "failed"],
};
const STEP_MEANING = {
  idle: "the program has not come here",
  queued: "given to its stream, which has not come here",
  running: "a request is in flight",
  done: "passed by all that came here",
  failed: "failed, or stopped",
};

export class GraphPanel {
  title = "Graph";

  constructor(view) {
    this.view = view;
    this.drawn = new Map();
    this.dirty = new Set();
    this.linked = new Set();
    this.scale = 1;
    this.follows = true;
    this.keys = Object.fromEntries(
      Object.entries(STEP_LOOK).map(([state, [glyph, word]]) => [
        state,
        el("span", { class: `sgl-key sgl-step-key ${state}`, title: STEP_MEANING[state], hidden: true }, el("i", {}, glyph), word),
      ]),
    );
    this.tally = el("span", { class: "sgl-total" });
    const tools = el(
      "div",
      { class: "sgl-tools" },
      tool("Fit: show the whole graph", "Fit", () => this.fit()),
      tool("Zoom out", "−", () => this.zoom(1 / 1.25)),
      tool("Zoom in", "+", () => this.zoom(1.25)),
    );
    this.heads = svg("g", { class: "sgl-step-heads" });
    this.edges = svg("g", { class: "sgl-edges" });
    this.nodes = svg("g");
    this.world = svg("g", {}, this.edges, this.heads, this.nodes);
    this.canvas = svg("svg", { class: "sgl-flow-canvas", role: "presentation" }, this.world);
    this.scroll = el(
      "div",
      { class: "sgl-scroll sgl-graph-stage", tabindex: 0, role: "group", "aria-label": "Graph; arrow keys move from node to node, Enter chooses" },
      this.canvas,
    );
    this.root = panel("graph", this.title, [this.tally, el("div", { class: "sgl-legend" }, ...Object.values(this.keys)), tools], this.scroll);
    this.listen();
  }

  /** There is nothing to see before a compiled program runs. */
  get isEmpty() {
    return !this.view.store.graphs.size;
  }

  changed(change) {
    if (change.reset) {
      for (const part of [this.heads, this.edges, this.nodes]) part.replaceChildren();
      this.drawn.clear();
      this.shape = true;
    }
    if (change.graphs) this.shape = true;
    for (const id of change.reset ? this.view.store.steps.keys() : (change.steps ?? [])) this.dirty.add(id);
  }

  // ------------------------------------------------ painting

  paint() {
    const { store } = this.view;
    if (this.shape) {
      this.arrange();
      this.shape = false;
    }
    let running = null;
    for (const id of this.dirty) {
      const step = store.steps.get(id);
      if (!step) continue;
      this.draw(step);
      if (step.state === "running") running ??= step;
    }
    if (this.dirty.size) {
      const seen = new Set();
      for (const { state } of store.steps.values()) seen.add(state);
      for (const [state, key] of Object.entries(this.keys)) key.hidden = !seen.has(state);
    }
    this.dirty.clear();
    if (running && this.follows) this.bring(running);
    return false;
  }

  arrange() {
    const { graphs, flow } = this.view.store;
    this.heads.replaceChildren(
      ...[...graphs.values()].map(({ name, n, is_kept: isKept, runs, y }) => {
        const words = [name, `${count(n, "node")}${isKept ? "" : ", too many to be drawn"}`, runs === 1 ? "" : count(runs, "run")];
        return svg("text", { class: "sgl-step-head", x: STEP.pad, y: y + 15 }, words.filter(Boolean).join(" · "));
      }),
    );
    const n = [...graphs.values()].reduce((sum, graph) => sum + graph.n, 0);
    setText(this.tally, n ? count(n, "node") : "");
    this.size = { width: Math.max(flow.width, 200) + 2 * STEP.pad, height: flow.height + 16 };
    this.rescale();
  }

  rescale() {
    const { width, height } = this.size;
    this.canvas.setAttribute("width", Math.ceil(width * this.scale));
    this.canvas.setAttribute("height", Math.ceil(height * this.scale));
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.scroll.style.height = `${clamp(Math.ceil(height * this.scale) + 12, 70, STEP.stage)}px`;
  }

  draw(step) {
    let box = this.drawn.get(step.id);
    if (!box) {
      box = this.make(step);
      this.drawn.set(step.id, box);
    }
    const [glyph] = STEP_LOOK[step.state] ?? STEP_LOOK.idle;
    const { runs } = this.view.store.graphs.get(step.graph) ?? { runs: 1 };
    const asks = ASKING.has(step.kind) ? " asks" : "";
    const marks = `${this.linked.has(step.id) ? " sgl-linked" : ""}${step.id === this.chosen ? " sgl-chosen" : ""}`;
    box.root.setAttribute("class", `sgl-step ${step.state}${asks}${marks}`);
    box.root.setAttribute("aria-label", this.words(step));
    setText(box.glyph, runs > 1 && step.n[2] ? figure(step.n[2]) : glyph);
    for (const edge of box.edges) edge.setAttribute("class", `${edge.kind} ${step.state}`);
  }

  make(step) {
    const { store } = this.view;
    const { x, y, w } = step;
    const left = x + STEP.pad;
    const glyph = svg("text", { class: "sgl-step-glyph", x: left + 7, y: y + 16 });
    const label = svg("text", { class: "sgl-node-label", x: left + 21, y: y + 16 }, step.label.replace(/ /g, "\u00a0"));
    const rect = svg("rect", { x: left, y, width: w, height: STEP.height, rx: ASKING.has(step.kind) ? 12 : 4 });
    const root = svg("g", { role: "img" }, rect, glyph, label);
    root.step = step.id;
    const edges = [];
    for (const [others, kind] of [[step.after, "sgl-edge"], [step.reads, "sgl-edge reads"]])
      for (const other of others) {
        const before = store.steps.get(other);
        if (!before) continue;
        const edge = svg("path", { class: kind, d: route(before, step, kind !== "sgl-edge") });
        edge.kind = kind;
        edges.push(edge);
      }
    this.edges.append(...edges);
    this.nodes.append(root);
    return { root, rect, glyph, edges };
  }

  words(step) {
    const total = step.n.reduce((sum, n) => sum + n, 0);
    const names = ["queued", "running", "done", "failed"];
    const state = total > 1 ? step.n.map((n, at) => (n ? `${figure(n)} ${names[at]}` : "")).filter(Boolean).join(", ") : (STEP_LOOK[step.state] ?? STEP_LOOK.idle)[1];
    return `${step.kind} ${step.label}: ${state}`;
  }

  fit() {
    const { clientWidth } = this.scroll;
    this.scale = clamp(clientWidth / this.size.width, 0.12, 1);
    this.rescale();
  }

  zoom(by) {
    const { scroll } = this;
    const middle = (scroll.scrollLeft + scroll.clientWidth / 2) / this.scale;
    this.scale = clamp(this.scale * by, 0.12, 2);
    this.rescale();
    scroll.scrollLeft = middle * this.scale - scroll.clientWidth / 2;
  }

  /** Scroll a node into sight. */
  bring({ x, y, w }) {
    const { scroll, scale } = this;
    const [left, right] = [scale * x, scale * (x + w + 2 * STEP.pad)];
    if (left < scroll.scrollLeft || right > scroll.scrollLeft + scroll.clientWidth) scroll.scrollLeft = Math.max(0, right - 0.7 * scroll.clientWidth);
    const [top, bottom] = [scale * (y - STEP.head), scale * (y + STEP.height + 8)];
    if (top < scroll.scrollTop || bottom > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = Math.max(0, top);
  }

  // ------------------------------------------------ pointer and keyboard

  listen() {
    const { scroll } = this;
    const at = (event) => event.target.closest?.(".sgl-step")?.step;
    scroll.addEventListener("pointermove", (event) => this.choose(at(event)));
    scroll.addEventListener("pointerleave", () => this.choose(undefined));
    scroll.addEventListener("blur", () => this.choose(undefined));
    scroll.addEventListener("pointerdown", () => (this.follows = false));
    scroll.addEventListener("wheel", () => (this.follows = false), { passive: true });
    scroll.addEventListener("click", (event) => {
      const id = at(event);
      this.view.choose(id === undefined ? null : { kind: "step", id }, this);
    });
    scroll.addEventListener("keydown", (event) => this.key(event));
  }

  choose(id) {
    if (id === this.chosen) return;
    for (const step of [this.chosen, id]) if (step !== undefined) this.dirty.add(step);
    this.chosen = id;
    this.view.point(id === undefined ? null : { kind: "step", id });
    this.view.invalidate();
    const step = this.view.store.steps.get(id);
    const box = this.drawn.get(id);
    if (!step || !box) this.view.card.hide();
    else this.view.card.show(box.rect.getBoundingClientRect(), this.describe(step));
  }

  /** The details of a node. */
  describe(step) {
    const line = (...words) => el("div", { class: "sgl-card-line" }, words.filter(Boolean).join(" · "));
    const head = el("div", { class: "sgl-card-head" }, el("b", {}, this.words(step)), el("span", {}, `node ${step.id}`));
    const places = step.places.filter(([, from, to]) => to !== null && to > from);
    const n = places.reduce((sum, [, from, to]) => sum + to - from, 0);
    return [head, line(step.words), line(n ? count(n, "token") : "", step.requests.length ? `request ${step.requests.at(-1)}` : "")];
  }

  /** Highlight the nodes that belong to the item under the pointer. */
  mark({ steps }) {
    for (const id of [...this.linked, ...steps]) this.dirty.add(id);
    this.linked = steps;
  }

  /** Scroll to the first node of an item that was chosen in another panel. */
  reveal() {
    const step = this.view.store.steps.get([...this.linked][0]);
    if (step && !this.root.hidden) this.bring(step);
  }

  key(event) {
    if (event.key === "Escape") {
      this.choose(undefined);
      this.view.choose(null, this);
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 1.25 : 1 / 1.25);
    if ((event.key === "Enter" || event.key === " ") && this.chosen !== undefined) {
      event.preventDefault();
      this.view.choose({ kind: "step", id: this.chosen }, this);
    }
    const moves = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    const steps = [...this.view.store.steps.values()];
    if (!(event.key in moves) || !steps.length) return;
    event.preventDefault();
    this.follows = false;
    const here = this.view.store.steps.get(this.chosen);
    const [along, down] = moves[event.key];
    const next = here ? nearest(steps, here, along, down) : steps[0];
    if (!next) return;
    this.bring(next);
    this.choose(next.id);
    this.view.announce(this.words(next));
  }

  close() {}
}

/** The node that is next in one direction: in the same row, or in the next row as near as possible. */
function nearest(steps, here, along, down) {
  let best = null;
  let least = Infinity;
  for (const step of steps) {
    const [dx, dy] = [step.x - here.x, step.y - here.y];
    if (along ? dy !== 0 || Math.sign(dx) !== along : Math.sign(dy) !== down) continue;
    const far = along ? Math.abs(dx) : 10 * Math.abs(dy) + Math.abs(dx);
    if (far < least) [best, least] = [step, far];
  }
  return best;
}

/** Along the row; to a lower row first down, to a higher one first along. What is read of the same
 * row passes above it.
 */
function route(before, step, isRead) {
  const [left, right] = [before.x + before.w + STEP.pad, step.x + STEP.pad];
  const [above, here] = [before.y + STEP.height / 2, step.y + STEP.height / 2];
  if (above === here && !isRead) return `M${left} ${here}H${right}`;
  if (above === here) return `M${before.x + before.w / 2 + STEP.pad} ${before.y}v-4H${step.x + step.w / 2 + STEP.pad}v4`;
  if (here > above) return `M${left} ${above}h8V${here - 5}q0 5 5 5H${right}`;
  return `M${left} ${above}H${right - 15}q5 0 5 -5V${here + 5}q0 -5 5 -5H${right}`;
}

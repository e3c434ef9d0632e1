/* The radix tree of this run; the nodes of other cells are one row that can be opened. Only the
 * visible part is drawn, so that thousands of nodes move as smoothly as ten. viz/draw/plan.py
 * lays out the still picture the same way.
 */

import { NODE_GLYPH, NODE_MEANING, NODE_WORDS, clamp, count, el, figure, furnish, ordinal, panel, pictured, setText, still, svg, thumbnail, tool, visible, wordsOf } from "./page.js";

const GHOST_MS = 700;
const RECENT_MS = 1500;
const ABOVE = 36;

const NODE = { height: 24, pitch: 29, gap: 24, font: 6.65, small: 5.7, pad: 8, mark: 14, space: 10, picture: 22, letters: 24 };
const STAGE = { pad: 14, low: 96, high: 232, pace: 68 };
const LEGIBLE = 0.8;
const FAINT = 0.62;
const LEAST = 0.06;
const FAR = 0.45;
const OTHERS = "others";

export class TreePanel {
  title = "Radix tree";

  constructor(view) {
    this.view = view;
    this.items = new Map();
    this.order = [];
    this.camera = { x: 16, y: 16, k: 1 };
    this.follow = true;
    this.drawn = new Map();
    this.selected = null;
    this.linked = new Set();
    this.found = [];
    this.size = { width: 0, height: 0 };
    this.opened = false;
    this.following = tool("Follow the run", "Follow", () => this.track(true));
    this.following.setAttribute("aria-pressed", "true");
    this.query = el("input", {
      type: "search",
      class: "sgl-find",
      placeholder: "Find text or #id",
      "aria-label": "Find nodes by text, or by a token id after #",
      input: () => this.search(true),
      keydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter") this.next(event.shiftKey ? -1 : 1);
        else if (event.key === "Escape") this.search((this.query.value = ""));
      },
    });
    this.matches = el("span", { class: "sgl-num" });
    this.hits = el(
      "span",
      { class: "sgl-hits", hidden: true },
      this.matches,
      tool("Previous match", "↑", () => this.next(-1)),
      tool("Next match", "↓", () => this.next(1)),
    );
    const tools = el(
      "div",
      { class: "sgl-tools" },
      this.query,
      this.hits,
      this.following,
      tool("Fit: show the whole tree", "Fit", () => this.fit()),
      tool("Zoom out (Ctrl + wheel; drag to move)", "−", () => this.zoom(1 / 1.3)),
      tool("Zoom in (Ctrl + wheel; drag to move)", "+", () => this.zoom(1.3)),
    );
    this.keys = Object.fromEntries(
      Object.entries(NODE_WORDS).map(([state, word]) => [
        state,
        el("span", { class: `sgl-key sgl-node-key ${state}`, title: NODE_MEANING[state] ?? word }, el("i", { "aria-hidden": "true" }, NODE_GLYPH[state]), word),
      ]),
    );
    const legend = Object.values(this.keys);
    this.edges = Object.fromEntries(["plain", "used", "tail"].map((kind) => [kind, svg("path", { class: `sgl-edge ${kind}` })]));
    this.masses = Object.fromEntries(
      ["cached", "locked", "running", "gone"].map((state) => [state, svg("path", { class: `sgl-mass ${state}` })]),
    );
    this.layer = svg("g");
    this.world = svg("g", {}, svg("g", { "aria-hidden": "true" }, ...Object.values(this.edges), ...Object.values(this.masses)), this.layer);
    this.canvas = svg("svg", { class: "sgl-canvas", role: "presentation" }, this.world);
    this.empty = el("div", { class: "sgl-empty" }, "The cache is empty.");
    this.details = el("div", { class: "sgl-details", role: "region", "aria-label": "Chosen node", tabindex: 0, hidden: true });
    this.stage = el("div", { class: "sgl-stage", tabindex: 0, "aria-label": "Radix tree; arrow keys move, Enter tells of a node" }, this.canvas);
    const frame = el("div", { class: "sgl-frame" }, this.stage, this.empty, this.details);
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

  /** The words of the legend that depend on where the engine is. */
  explain(words) {
    if (words === this.words) return;
    this.words = words;
    for (const [state, word] of Object.entries({ cached: words.before, computed: words.new })) this.keys[state].lastChild.data = word;
    this.redraw = true;
  }

  changed(change) {
    const { store } = this.view;
    this.explain(wordsOf(store));
    this.redraw ||= change.reset || change.tails || change.nodes?.size > 0 || change.gone?.length > 0;
    if (change.reset) {
      const old = this.items;
      this.items = new Map();
      this.shape = true; // also if only leaves were removed
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
    if (this.selected) this.described = false;
    if (this.query.value && (change.reset || change.nodes?.size || change.gone?.length)) this.search(false);
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
    item.picture = pictured(this.view.store.texts.get(node.id)?.picture);
    const more = [node.reused ? `↻${figure(node.reused)}` : "", node.state === "locked" ? "■" : ""];
    item.meta = node.state === "root" ? "" : [figure(node.n), ...more].filter(Boolean).join(" ");
    const width = widthOf(item);
    if (known && Math.abs(width - item.width) > 2) this.shape = true;
    item.width = width;
    this.items.set(key, item);
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
        meta: figure(tail.n),
        stale: true,
      });
      // never narrower than before, so that its neighbours stay still while it grows
      const width = Math.max(90, widthOf(item), item.width ?? 0);
      if (width !== item.width) this.shape = true;
      item.width = width;
      this.items.set(key, item);
    }
    for (const [key, item] of this.items) {
      if (item.kind !== "tail" || seen.has(key)) continue;
      this.items.delete(key);
      this.shape = true;
    }
  }

  /**
   * Rows in leaf order: every leaf has its own row, and a parent is in the middle of its
   * children. The last row is for nodes of other runs. O(n).
   */
  layout() {
    const { items } = this;
    const roots = [];
    items.delete(OTHERS);
    const [n_left, n_left_tokens] = this.view.store.others ?? [0, 0];
    const others = { n: n_left, n_tokens: n_left_tokens };
    this.n_mine = 0;
    for (const item of items.values()) {
      item.children = [];
      if (item.goneAt !== null) continue;
      if (item.node.mine !== false) {
        this.n_mine += item.kind === "node";
        continue;
      }
      others.n += item.home !== null;
      others.n_tokens += item.node.n;
    }
    for (const item of items.values()) {
      if (item.node.mine === false && !this.opened) continue;
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
    // A split puts a younger node above an older one: siblings are sorted by the oldest id below
    // them, so that they never swap positions.
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
    if (others.n) this.order.push(this.putOthers(others, NODE.pitch * row++));
    this.extent = { width: right, height: Math.max(0, NODE.pitch * row - (NODE.pitch - NODE.height)) };
    this.stretch();
    this.shape = false;
    this.moved = true;
  }

  /** The nodes that other cells left in the cache, as one row. */
  putOthers({ n, n_tokens: tokens }, ty) {
    const text = `${this.opened ? "−" : "+"} ${count(n, "other node")}`;
    const node = { state: OTHERS, label: text, n: tokens };
    const item = { key: OTHERS, id: null, kind: OTHERS, home: null, node, bornAt: 0, goneAt: null, x: 0, y: ty, tx: 0, ty, depth: 0, stale: true };
    Object.assign(item, { text, meta: figure(tokens), children: [] });
    item.width = widthOf(item);
    this.items.set(OTHERS, item);
    return item;
  }

  open(on) {
    this.opened = on;
    this.shape = true;
    this.touch();
  }

  /**
   * The stage grows with the tree in a few steps, so that the content below it seldom moves. It
   * never shrinks, and a height set by the reader is kept.
   */
  stretch() {
    const { low, high, pace, pad } = STAGE;
    const height = clamp(low + Math.ceil((this.extent.height + 2 * pad - low) / pace) * pace, low, this.view.store.options.dashboard ? 1.6 * high : high);
    if (height <= (this.height ?? 0) || this.stage.style.height !== (this.height ? `${this.height}px` : "")) return;
    this.stage.style.height = `${(this.height = height)}px`;
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
    const others = this.items.get(OTHERS);
    setText(this.tally, nodes.size ? `${count(this.n_mine, "node")}${others ? " of this run" : ""}${tails.length ? ` · ${tails.length} growing` : ""}` : "");
    const settling = this.settle();
    const gliding = this.follow && this.glide();
    if (settling || gliding || this.redraw) this.draw(now);
    this.redraw = settling || gliding;
    if (!this.described) this.describe();
    return settling || gliding;
  }

  /** Move every node a part of the way to its position. Returns true while any node is moving. */
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

  /**
   * The target of the camera while it follows: the whole tree if it is legible; otherwise the
   * growing nodes, as large as they fit; otherwise, if nothing grows, as much as remains
   * distinguishable.
   */
  glide() {
    const { width, height } = this.size;
    if (!width || !this.order.length) return false;
    const { pad } = STAGE;
    const { camera, extent } = this;
    const growing = this.order.filter((item) => item.kind === "tail" || (item.node.state === "running" && item.goneAt === null));
    const recent = performance.now() - RECENT_MS;
    const focus = growing.length ? growing : this.order.filter((item) => item.bornAt > recent && item.goneAt === null);
    const low = { x: Infinity, y: Infinity };
    const high = { x: -Infinity, y: -Infinity };
    for (const { tx, ty, width: w } of focus) {
      low.x = Math.min(low.x, tx);
      low.y = Math.min(low.y, ty);
      high.x = Math.max(high.x, tx + w);
      high.y = Math.max(high.y, ty + NODE.height);
    }
    const fit = Math.min((width - 2 * pad) / extent.width, (height - 2 * pad) / extent.height);
    const least = growing.length ? Math.min(LEGIBLE, (height - 2 * pad) / (high.y - low.y)) : FAINT;
    const k = clamp(Math.max(fit, least), LEAST, 1);
    // Along one axis: stay, unless the growing nodes have left the inner part of the stage.
    const axis = (length, room, first, last, now) => {
      if (length * k + 2 * pad <= room) return pad;
      const margin = clamp((room - (last - first) * k) / 2, pad / 2, room * 0.1);
      let place = now;
      if (first * k + place < margin) place = margin - first * k;
      if (last * k + place > room - margin) place = room - margin - last * k;
      return clamp(place, room - length * k - pad, pad);
    };
    const x = axis(extent.width, width, low.x, high.x, camera.x);
    const y = axis(extent.height, height, low.y, high.y, camera.y);
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
        masses[massOf(item)]?.push(`M${Math.round(item.x)} ${Math.round(item.y)}h${item.width}v${NODE.height}h${-item.width}z`);
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
    if (item.stale) box.dress(item, now, wordsOf(this.view.store));
    item.stale = false;
    box.root.classList.toggle("sgl-selected", item.key === this.selected);
    box.root.classList.toggle("sgl-cursor", item.key === this.cursor);
    box.root.classList.toggle("sgl-linked", this.linked.has(item.key));
    box.root.classList.toggle("sgl-found", this.found.includes(item.key));
    box.root.setAttribute("aria-selected", item.key === this.selected);
  }

  // ------------------------------------------------ pointer and keyboard

  listen() {
    const { stage } = this;
    const fingers = new Map();
    let drag = null;
    const grip = () => {
      const [one, other] = [...fingers.values()];
      return { x: (one.x + other.x) / 2, y: (one.y + other.y) / 2, apart: Math.hypot(one.x - other.x, one.y - other.y) };
    };
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      drag = { x: event.clientX, y: event.clientY, from: { ...this.camera }, moved: fingers.size > 1 };
    });
    stage.addEventListener("pointermove", (event) => {
      if (!drag) {
        this.hover(this.at(event));
        return;
      }
      if (fingers.size === 2 && fingers.has(event.pointerId)) {
        const before = grip();
        fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
        const after = grip();
        const home = stage.getBoundingClientRect();
        if (before.apart) this.zoom(after.apart / before.apart, after.x - home.left, after.y - home.top);
        return;
      }
      const dx = event.clientX - drag.x;
      const dy = event.clientY - drag.y;
      if (!drag.moved && Math.hypot(dx, dy) < 4) return;
      if (!drag.moved) {
        stage.setPointerCapture(event.pointerId);
        stage.classList.add("sgl-dragging");
        this.hover(null);
      }
      drag.moved = true;
      this.track(false);
      Object.assign(this.camera, { x: drag.from.x + dx, y: drag.from.y + dy });
      this.touch();
    });
    const release = (event) => {
      fingers.delete(event.pointerId);
      stage.classList.remove("sgl-dragging");
      if (drag && !drag.moved && event.type === "pointerup") this.select(this.at(event));
      drag = null;
    };
    stage.addEventListener("pointerup", release);
    stage.addEventListener("pointercancel", release);
    stage.addEventListener("pointerleave", () => this.hover(null));
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
      this.hover(null);
      this.touch();
    });
  }

  /**
   * The item under the pointer or the keyboard cursor is described in the card and highlighted
   * in all panels.
   */
  hover(key) {
    if (key === this.pointed) return;
    this.pointed = key;
    const item = this.items.get(key);
    this.view.point(item && item.kind !== OTHERS ? nameOf(item) : null);
    const box = this.drawn.get(key);
    if (item && box) this.view.card.show(box.root.getBoundingClientRect(), this.brief(item));
    else this.view.card.hide();
  }

  touch() {
    this.redraw = true;
    this.view.invalidate();
  }

  track(on) {
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
    const item = this.items.get(key);
    this.cursor = key;
    if (item?.kind === OTHERS) {
      this.open(!this.opened);
      return;
    }
    this.view.choose(item ? nameOf(item) : null, this);
    if (item) {
      this.view.announce(this.brief(item).map((part) => part.textContent).join(", "));
      this.describe();
      const right = (item.tx + item.width) * this.camera.k + this.camera.x;
      if (right > this.size.width - this.details.offsetWidth) this.reveal(item);
    }
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
      this.view.later(0, () => this.hover(this.cursor));
    } else if (event.key === "Enter" || event.key === " ") this.select(here?.key ?? null);
    else if (event.key === "Escape") this.select(null);
    else if (event.key === "+" || event.key === "-") this.zoom(event.key === "+" ? 1.3 : 1 / 1.3);
    else return;
    event.preventDefault();
    if (this.cursor) this.stage.setAttribute("aria-activedescendant", `${this.view.id}-${this.cursor}`);
    else this.stage.removeAttribute("aria-activedescendant");
    this.touch();
  }

  /** Move the camera to a node, at a scale at which it can be read. */
  reveal(item) {
    this.track(false);
    const { camera } = this;
    const { height } = this.size;
    const width = this.size.width - (this.details.hidden ? 0 : this.details.offsetWidth);
    if (camera.k < LEGIBLE) this.zoom(1 / camera.k);
    const left = item.tx * camera.k + camera.x;
    const top = item.ty * camera.k + camera.y;
    const right = left + Math.min(item.width * camera.k, width - 32);
    if (left < 16) camera.x += 16 - left;
    else if (right > width - 16) camera.x -= right - width + 16;
    if (top < 16) camera.y += 16 - top;
    else if (top + NODE.height > height - 16) camera.y -= top + NODE.height - height + 16;
  }

  // ------------------------------------------------ search

  /**
   * Find nodes whose text contains the words, or a token id after `#`. `go` moves to the first
   * match.
   */
  search(go) {
    const words = this.query.value.trim().toLowerCase();
    const id = /^#(\d+)$/.exec(words)?.[1];
    const { texts } = this.view.store;
    const fits = ({ kind, id: node, node: { label } }) => {
      const row = kind === "node" ? texts.get(node) : null;
      return id ? row?.ids.includes(Number(id)) : `${row?.text ?? ""}\n${label}`.toLowerCase().includes(words);
    };
    const some = (item) => item.goneAt === null && item.node.mine === false && fits(item);
    if (words && !this.opened && [...this.items.values()].some(some)) this.opened = this.shape = true;
    if (this.shape) this.layout();
    this.found = words ? this.order.filter((item) => item.goneAt === null && fits(item)).map((item) => item.key) : [];
    this.hits.hidden = !words;
    if (go && this.found.length) this.next(0);
    else if (go && !words) this.view.choose(null, this);
    this.tellFound();
    this.touch();
  }

  next(by) {
    if (!this.found.length) return;
    const here = this.found.indexOf(this.selected);
    const key = this.found[(Math.max(here, by < 0 ? 0 : here < 0 && by ? -1 : 0) + by + this.found.length) % this.found.length];
    this.select(key);
    this.reveal(this.items.get(key));
    this.tellFound();
  }

  tellFound() {
    const here = this.found.indexOf(this.selected) + 1;
    setText(this.matches, this.found.length ? `${here || "–"} of ${this.found.length}` : "none");
  }

  // ------------------------------------------------ relations

  mark({ nodes, tails }) {
    this.linked = new Set([...[...nodes].map((id) => `n${id}`), ...[...tails].map((id) => `t${id}`)]);
    const { chosen } = this.view;
    const key = chosen?.kind === "node" ? `n${chosen.id}` : chosen?.kind === "tail" ? `t${chosen.id}` : null;
    if (key !== this.selected) this.described = false;
    this.selected = key;
    this.redraw = true;
  }

  /** Move the camera to an item that was chosen in another panel: to the deepest of its nodes. */
  show() {
    const marked = this.order.filter((item) => this.linked.has(item.key));
    if (marked.length && !this.root.hidden) this.reveal(marked.at(-1));
  }

  // ------------------------------------------------ details of a node

  brief(item) {
    const { node, kind } = item;
    const state = item.goneAt !== null ? "gone" : node.state;
    if (kind === OTHERS) return [el("div", { class: "sgl-card-line" }, `${count(node.n, "token")} that other cells left in the cache; ${this.view.store.others ? "not kept here" : `click to ${this.opened ? "hide" : "show"} them`}`)];
    const line = (...words) => el("div", { class: "sgl-card-line" }, words.filter(Boolean).join(" · "));
    const text = (kind === "node" && this.view.store.texts.get(item.id)?.text) || node.label || "root";
    return [
      ...(item.picture ? [thumbnail(item.picture)] : []),
      el("div", { class: "sgl-card-text" }, text.slice(0, 160)),
      line(count(node.n, "token"), kind === "node" && node.state !== "root" ? originOf(node, wordsOf(this.view.store)) : ""),
      line(kind === "tail" ? "being generated, not in the tree yet" : NODE_MEANING[state]),
    ];
  }

  describe() {
    this.described = true;
    const item = this.items.get(this.selected);
    this.details.hidden = !item || item.goneAt !== null;
    if (this.details.hidden) return;
    const { node, kind } = item;
    const { store } = this.view;
    const path = kind === "node" ? store.path(item.id) : [...store.path(Number(item.home.slice(1))), { node, from: 0, to: 0 }];
    const row = kind === "node" ? store.texts.get(item.id) : null;
    const above = path.slice(0, -1).map(({ node: each }) => (each.state === "root" ? "" : (store.texts.get(each.id)?.text ?? each.label)));
    const facts = [["tokens", kind === "node" && node.n ? `${node.n}, positions ${path.at(-1).from} to ${path.at(-1).to - 1}` : node.n]];
    if (kind === "node") {
      const ago = Math.max(0, store.clock - node.used);
      if (node.state !== "root") facts.push(["origin", originOf(node, wordsOf(store))]);
      facts.push(["hits", `${node.hits} in all`], ["last used", ago ? `${count(ago, "cache lookup")} ago` : "most recently"]);
      const fate = this.fate(node);
      if (fate) facts.push(["eviction", fate]);
    }
    const close = tool("Close", "×", () => this.select(null));
    const terms = facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
    const users = this.users(item);
    if (users.length) terms.push(el("dt", {}, "requests"), el("dd", {}, ...users));
    if (row?.ids.length) terms.push(el("dt", {}, "ids"), el("dd", { class: "sgl-ids" }, row.ids.join(" ") + (node.n > row.ids.length ? " …" : "")));
    const face = toneOf(item);
    const state = el("span", { class: `sgl-node-key ${face}` }, el("i", { "aria-hidden": "true" }, NODE_GLYPH[face] ?? "▸"));
    state.append(` ${kind === "tail" ? "being generated" : NODE_MEANING[node.state]}`);
    this.details.replaceChildren(
      el("div", { class: "sgl-details-head" }, state, close),
      el("div", { class: "sgl-above", title: "text before it" }, shortened(above.join(""))),
      ...(item.picture ? [thumbnail(item.picture)] : []),
      el("div", { class: "sgl-node-text", tabindex: 0, role: "group", "aria-label": "Its text" }, (row?.text ?? node.label) || "root"),
      el("dl", {}, ...terms),
    );
  }

  /**
   * The node's position in the order of eviction; null if a recording does not contain the
   * policy.
   */
  fate(node) {
    if (node.state === "root") return "never";
    if (node.refs) return `not possible while in use (${count(node.refs, "lease")})`;
    const { evict } = this.view.store.options;
    if (!evict) return null;
    const order = this.view.store.evictionOrder();
    if (!order) return `decided by what programs do (${evict.toUpperCase()})`;
    return `${ordinal(order.indexOf(node.id) + 1)} of ${order.length} (${evict.toUpperCase()})`;
  }

  /**
   * The newest requests that computed or found the node. A request of this run links to its
   * bars.
   */
  users({ kind, id, node }) {
    const { store } = this.view;
    const bars = new Map([...store.bars.values()].filter(({ request }) => request).map((bar) => [bar.request, bar]));
    return (kind === "node" ? node.by : [id]).map((request) => {
      const bar = bars.get(request);
      const label = `${request}${bar ? ` ${[store.lanes.get(bar.lane)?.label, bar.name].filter(Boolean).join(" · ")}` : ""}`;
      if (!bar) return el("span", { class: "sgl-user", title: "a request of another run" }, label);
      return el("button", { type: "button", class: "sgl-user", title: "Show its bar", click: () => this.view.choose({ kind: "bar", id: bar.id }, null) }, label);
    });
  }

  close() {
    this.sized.disconnect();
  }
}

class Box {
  /* One node on the canvas. */
  constructor(item, id, fresh) {
    this.shape = svg("rect", { height: NODE.height, rx: 7 });
    this.glyph = svg("text", { class: "sgl-node-glyph", x: NODE.pad, y: 15.5 });
    this.label = svg("text", { class: "sgl-node-label", y: 16 });
    this.meta = svg("text", { class: "sgl-node-meta", y: 16, "text-anchor": "end" });
    this.title = svg("title");
    this.picture = null;
    this.root = svg(
      "g",
      { id, role: "treeitem", "aria-level": item.depth + 1 },
      this.shape,
      this.glyph,
      this.label,
      this.meta,
      this.title,
    );
    this.inner = fresh ? "sgl-fresh" : "";
  }

  /** The picture of an image, left of the label. */
  show(url, x) {
    if (this.url === url) return;
    this.picture?.remove();
    this.picture = url ? svg("image", { class: "sgl-node-picture", href: url, x, y: 3, width: 18, height: 18 }) : null;
    if (this.picture) this.root.insertBefore(this.picture, this.label);
    this.url = url;
  }

  move({ x, y }) {
    const place = `translate(${x.toFixed(1)} ${y.toFixed(1)})`;
    if (place !== this.place) this.root.setAttribute("transform", (this.place = place));
  }

  dress(item, now, words) {
    const { node } = item;
    const state = item.goneAt !== null ? "gone" : node.state;
    const hit = item.hitAt && now - item.hitAt < 300;
    const tone = toneOf(item);
    const glyph = item.kind === OTHERS ? "" : (NODE_GLYPH[tone] ?? "▸");
    this.root.setAttribute("class", `sgl-node ${state} tone-${tone} ${this.inner}${hit ? " sgl-hit" : ""}${node.mine === false ? " sgl-other" : ""}`);
    this.shape.setAttribute("width", item.width);
    const start = NODE.pad + (glyph ? NODE.mark : 0);
    this.show(item.picture ?? null, start);
    this.label.setAttribute("x", start + (item.picture ? NODE.picture : 0));
    this.meta.setAttribute("x", item.width - NODE.pad);
    setText(this.label, item.text);
    setText(this.meta, item.meta);
    setText(this.glyph, glyph);
    setText(this.title, node.title ?? "");
    const facts = item.kind === "node" ? `${node.state === "root" ? "" : `${originOf(node, words)}, `}${NODE_MEANING[state]}` : item.kind === OTHERS ? "left by other cells" : "being generated";
    furnish(this.root, { "aria-label": `${node.label || "root"}, ${count(node.n, "token")}, ${facts}` });
  }
}

/** The tone of a node for colour and glyph: its state if it has one, otherwise its origin. */
function toneOf({ goneAt, kind, node }) {
  if (goneAt !== null) return "gone";
  if (kind !== "node") return kind;
  if (node.state === "root" || node.state === "running") return node.state;
  return node.fresh ? "computed" : "cached";
}

/** The origin of a node, and how often the run reused it. */
const originOf = ({ fresh, mine, reused }, words) =>
  [mine === false ? "of other cells" : fresh ? words.new : words.before, reused ? `reused ${count(reused, "time")}` : ""].filter(Boolean).join(", ");

function shorten(label) {
  const text = visible(label);
  const letters = Array.from(text);
  if (letters.length <= NODE.letters) return text;
  if (letters.at(-1) === "…") return letters.slice(0, NODE.letters - 1).join("") + "…";
  return letters.slice(0, 14).join("") + "…" + letters.slice(15 - NODE.letters).join("");
}

function widthOf({ text, meta, node, kind, picture }) {
  let cells = 0;
  for (const letter of text) cells += letter.codePointAt(0) > 0x1100 && !/[…↵⇥●○▸◆■▣]/.test(letter) ? 1.8 : 1;
  const mark = (node.state === "root" || kind === OTHERS ? 0 : NODE.mark) + (picture ? NODE.picture : 0);
  return Math.ceil(cells * NODE.font + 2 * NODE.pad + mark + (meta ? NODE.space + NODE.small * meta.length : 0));
}

function massOf({ goneAt, kind, node }) {
  if (goneAt !== null) return "gone";
  if (kind === OTHERS) return null;
  return kind === "tail" || node.state === "running" ? "running" : node.state === "locked" || node.state === "root" ? "locked" : "cached";
}

const tenth = (value) => Math.round(10 * value) / 10;

const BEND = 5;

function curve(parent, item) {
  const x0 = tenth(parent.x + parent.width);
  const y0 = tenth(parent.y + NODE.height / 2);
  const x1 = tenth(item.x);
  const y1 = tenth(item.y + NODE.height / 2);
  if (Math.abs(y1 - y0) < 2 * BEND || x1 - x0 < 3 * BEND) return `M${x0} ${y0}L${x1} ${y1}`;
  const mid = tenth(x1 - NODE.gap / 2);
  const way = y1 > y0 ? BEND : -BEND;
  return `M${x0} ${y0}H${mid - BEND}Q${mid} ${y0} ${mid} ${y0 + way}V${tenth(y1 - way)}Q${mid} ${y1} ${mid + BEND} ${y1}H${x1}`;
}

function line(parent, item) {
  return `M${Math.round(parent.x + parent.width)} ${Math.round(parent.y + NODE.height / 2)}L${Math.round(item.x)} ${Math.round(item.y + NODE.height / 2)}`;
}

function setPath(path, d) {
  if (path.d !== d) path.setAttribute("d", (path.d = d));
}

const nameOf = ({ kind, id }) => ({ kind, id });

/** The end of a long text. */
const shortened = (text) => (text.length > ABOVE ? "…" : "") + visible(text.slice(-ABOVE));

/* Replays a recorded run in a saved page, without a kernel: the live view as it was at the end
 * of the run, with a slider over its moments.
 *
 * The recording consists of the messages that the live view received, each with its time. Views
 * and style are in a shadow tree, which isolates them from the style of the page and of other
 * cells.
 */

import { clamp, count, el, furnish, seconds, setText, still, tool } from "./page.js";
import { Store } from "./store.js";
import { View } from "./view.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 50];
const WATCHED_MS = [4_000, 20_000];

/** The original speed, unless it is too fast to see or too slow to watch. */
function pace(ms) {
  const slower = SPEEDS.findLast((speed) => speed <= 1 && ms / speed >= WATCHED_MS[0]) ?? SPEEDS[0];
  return slower < 1 ? slower : (SPEEDS.find((speed) => speed >= 1 && ms / speed <= WATCHED_MS[1]) ?? SPEEDS.at(-1));
}

/**
 * Replace the other children of `home`, the pictures, by the player as soon as they come near
 * the viewport. `unpack` returns the recording.
 */
export function replay(home, css, meta, unpack) {
  const pictures = el("div");
  pictures.append(...[...home.children].filter((child) => child.localName !== "script"));
  const place = home.closest("[data-sgl-run]");
  const name = place?.dataset.sglRun;
  const known = players.get(name);
  if (known && !known.host.isConnected) return known.move(home, pictures, place);
  const host = el("div");
  const shadow = host.attachShadow({ mode: "open" });
  const root = el("div");
  shadow.append(el("style", {}, css), root);
  home.prepend(host, pictures);
  const player = new Player(root, meta, unpack, () => hide(pictures));
  player.host = host;
  player.attach(place);
  if (name) players.set(name, player);
  const near = new IntersectionObserver(
    ([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      near.disconnect();
      player.open();
    },
    { rootMargin: "400px 0px" },
  );
  near.observe(pictures);
  return player;
}

/** Players by the names of their runs: an output that is drawn again keeps its player and its moment. */
const players = new Map();

/** Hidden, but still text of the page: its search and other readers find every answer. */
function hide(pictures) {
  Object.assign(pictures.style, { position: "absolute", width: "1px", height: "1px", overflow: "hidden", clipPath: "inset(50%)" });
  furnish(pictures, { inert: true, "aria-hidden": true });
}

/** "light" or "dark", as the page declares; "" if it does not. */
function theme({ jpThemeLight, vscodeThemeKind = "" }) {
  if (jpThemeLight !== undefined) return jpThemeLight === "true" ? "light" : "dark";
  return vscodeThemeKind && (vscodeThemeKind.includes("light") ? "light" : "dark");
}

class Player {
  constructor(root, meta, unpack, opened) {
    Object.assign(this, { root, meta, unpack, opened });
    this.ms = meta.ms;
    this.at = -1;
    this.speed = pace(meta.ms);
    this.verb = el("span");
    this.button = el("button", { type: "button", class: "sgl-stop sgl-play", click: () => this.toggle() }, this.verb);
    this.explore = el(
      "button",
      { type: "button", class: "sgl-stop sgl-play", title: "Go on from any token of this run; of what is chosen here, if something is", hidden: true, click: () => this.branch() },
      "Explore",
    );
    this.refusal = el("span", { class: "sgl-refusal", role: "status", hidden: true });
    this.slider = el("input", {
      type: "range",
      class: "sgl-range sgl-time",
      min: 0,
      max: meta.ms,
      step: "any",
      value: meta.ms,
      "aria-label": "Moment of the run",
      input: () => this.drag(Number(this.slider.value)),
      keydown: (event) => this.key(event),
    });
    this.marks = el("div", { class: "sgl-moments", "aria-hidden": "true", hidden: true });
    this.clock = el("span", { class: "sgl-clock" });
    const speeds = SPEEDS.map((speed) => el("option", { value: speed, selected: speed === this.speed }, `${speed}×`));
    this.pace = el("select", { class: "sgl-pick", "aria-label": "Speed", change: () => (this.speed = Number(this.pace.value)) }, ...speeds);
    this.steps = [tool("One moment back", "‹", () => this.step(-1)), tool("One moment forward", "›", () => this.step(1))];
    this.less = el("span", { class: "sgl-less", hidden: true });
    this.bar = el(
      "div",
      { class: "sgl-moment", role: "group", "aria-label": "Play the run again" },
      this.steps[0],
      el("div", { class: "sgl-slide" }, this.slider, this.marks),
      this.steps[1],
      this.clock,
      this.pace,
      this.less,
    );
    root.dataset.theme = theme(document.body.dataset);
    new MutationObserver(() => (root.dataset.theme = theme(document.body.dataset))).observe(document.body, { attributes: true });
  }

  // ------------------------------------------------ the kernel's door

  /** Follow the door of the element that holds the picture, if there is one. */
  attach(place) {
    this.place = place;
    const follow = ({ text = "" } = {}) => {
      this.explore.hidden = !place.sglExplore;
      this.explore.disabled = false;
      this.refusal.hidden = !text;
      setText(this.refusal, text);
    };
    place?.addEventListener("sgl-door", ({ detail }) => follow(detail));
    if (place) follow();
  }

  /** Its output was drawn again. */
  move(home, pictures, place) {
    home.prepend(this.host, pictures);
    if (this.view) hide(pictures);
    this.attach(place);
    return this;
  }

  /** Ask the kernel to explore the gen of what is chosen. */
  branch() {
    const { chosen } = this.view;
    const stretch = chosen && chosen.kind !== "count" ? this.store.links(chosen).stretches.at(-1) : null;
    const [fork, , end] = stretch ?? [null, null, null];
    this.explore.disabled = true;
    this.place.sglExplore({ fork, position: Number.isFinite(end) ? end - 1 : null });
  }

  async open() {
    this.opening ??= this.unpack().then((recording) => {
      this.frames = recording.frames;
      const { options } = recording;
      const model = { get: (name) => (name === "options" ? options : undefined), on() {}, send() {} };
      this.store = new Store(model);
      clearTimeout(this.store.asking);
      const status = { phase: options.phase ?? "done", text: options.message ?? "", progress: null };
      Object.assign(this.store, { length: this.meta.ms, status });
      this.sparse();
      this.view = new View(this.store, this.root, this);
      this.view.seek = (ms) => this.drag(ms);
      this.seek(this.ms);
      this.view.paint(performance.now());
      this.opened();
    });
    return this.opening;
  }

  /** If moments are left out, the slider marks the remaining ones and stops only at them. */
  sparse() {
    const { n_moments: all, dropped } = this.meta;
    const n = this.frames.length;
    this.isSparse = all > n;
    const kept = this.isSparse ? `${n} of ${count(all, "moment")} kept` : "";
    const lost = dropped ? `without ${dropped}` : "";
    setText(this.less, [kept, lost].filter(Boolean).join(", "));
    this.less.hidden = !kept && !lost;
    this.less.title = `Moments are left out to keep the notebook small. %sgl export run.html writes a page with all of them.`;
    this.marks.hidden = !this.isSparse || n > 160;
    if (this.marks.hidden) return;
    this.marks.append(...this.frames.map(([ms]) => {
      const mark = el("i");
      mark.style.left = `${(100 * ms) / Math.max(1, this.meta.ms)}%`;
      return mark;
    }));
  }

  // ------------------------------------------------ time

  /** Number of the last frame at or before `ms`. */
  frameAt(ms) {
    let [low, high] = [0, this.frames.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.frames[middle][0] <= ms + 0.001) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  seek(ms) {
    this.ms = clamp(ms, 0, this.meta.ms);
    const to = this.frameAt(this.ms);
    if (this.isSparse && !this.store.playing && this.ms < this.meta.ms) this.ms = this.frames[to][0];
    const back = to < this.at || this.at < 0;
    if (back || to > this.at || this.store.time.ms !== this.ms) {
      const messages = this.frames.slice(back ? 0 : this.at + 1, to + 1).map(([, message]) => message);
      this.at = to;
      this.store.seek(messages, this.ms, back);
    }
    this.paint();
  }

  async drag(ms) {
    this.pause();
    this.ms = ms;
    await this.open();
    this.seek(this.ms);
  }

  async step(by) {
    this.pause();
    await this.open();
    this.seek(this.frames[clamp(this.at + by, 0, this.frames.length - 1)][0]);
  }

  async toggle() {
    if (this.store?.playing) {
      this.pause();
      return;
    }
    await this.open();
    if (this.ms >= this.meta.ms) this.seek(0);
    this.store.playing = true;
    let last = performance.now();
    const tick = (now) => {
      if (!this.store.playing) return;
      if (now - last > (still.matches ? 500 : 0)) {
        this.seek(this.ms + (now - last) * this.speed);
        last = now;
      }
      if (this.ms >= this.meta.ms) this.pause();
      else requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    this.paint();
  }

  pause() {
    if (this.store?.playing) {
      this.store.playing = false;
      this.view?.changed({});
    }
    this.paint();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowRight: () => this.step(1),
      ArrowUp: () => this.step(1),
      ArrowLeft: () => this.step(-1),
      ArrowDown: () => this.step(-1),
      PageUp: () => this.drag(this.ms + this.meta.ms / 10),
      PageDown: () => this.drag(this.ms - this.meta.ms / 10),
      Home: () => this.drag(0),
      End: () => this.drag(this.meta.ms),
      " ": () => this.toggle(),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  paint() {
    const playing = Boolean(this.store?.playing);
    setText(this.verb, playing ? "❚❚ Pause" : "▶ Replay");
    this.button.setAttribute("aria-label", playing ? "Pause the run" : "Replay the run");
    if (Number(this.slider.value) !== this.ms) this.slider.value = this.ms;
    setText(this.clock, `${seconds(this.ms)} of ${seconds(this.meta.ms)}`);
    this.slider.setAttribute("aria-valuetext", `${seconds(this.ms)} of ${seconds(this.meta.ms)}`);
  }
}

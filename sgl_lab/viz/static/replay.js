/* A recorded run in a saved page, without a kernel: a bar to play it, and the live views at any of its moments.
 *
 * The recording is the messages that the live view would have got, each with its time. Views and style stand in a
 * shadow tree, so that neither the page's style nor that of another cell reaches them.
 */

import { clamp, el, figure, seconds, setText, still, tool } from "./page.js";
import { Store } from "./store.js";
import { View, toggle } from "./view.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 50];
const WATCHED_MS = [4_000, 20_000];

/** As it was, unless that is too fast to be seen or too slow to be watched. */
function pace(ms) {
  const slower = SPEEDS.findLast((speed) => speed <= 1 && ms / speed >= WATCHED_MS[0]) ?? SPEEDS[0];
  return slower < 1 ? slower : (SPEEDS.find((speed) => speed >= 1 && ms / speed <= WATCHED_MS[1]) ?? SPEEDS.at(-1));
}

/** Put the player on top of `home`, whose other children are the pictures it stands for. `unpack` gives the recording. */
export function replay(home, css, meta, unpack) {
  const pictures = el("div");
  pictures.append(...[...home.children].filter((child) => child.localName !== "script"));
  const host = el("div");
  const shadow = host.attachShadow({ mode: "open" });
  const root = el("div");
  shadow.append(el("style", {}, css), root);
  home.prepend(host, pictures);
  const player = new Player(root, meta, unpack, (open) => (pictures.hidden = open));
  for (const image of pictures.querySelectorAll("img")) {
    image.style.cursor = "zoom-in";
    image.title = "Explore";
    image.addEventListener("click", () => player.open());
  }
  return player;
}

/** Light or dark, as the page is; "" where it does not say. */
function theme({ jpThemeLight, vscodeThemeKind = "" }) {
  if (jpThemeLight !== undefined) return jpThemeLight === "true" ? "light" : "dark";
  return vscodeThemeKind && (vscodeThemeKind.includes("light") ? "light" : "dark");
}

class Player {
  constructor(root, meta, unpack, show) {
    Object.assign(this, { root, meta, unpack, show });
    this.ms = meta.ms;
    this.at = -1;
    this.speed = pace(meta.ms);
    this.button = el("button", { type: "button", class: "sgl-play", click: () => this.toggle() });
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
    this.clock = el("span", { class: "sgl-clock" });
    const speeds = SPEEDS.map((speed) => el("option", { value: speed, selected: speed === this.speed }, `${speed}×`));
    this.pace = el("select", { class: "sgl-pick", "aria-label": "Speed", change: () => (this.speed = Number(this.pace.value)) }, ...speeds);
    this.toggles = el("div", { class: "sgl-toggles", role: "group", "aria-label": "Views" });
    this.steps = [tool("One moment back", "‹", () => this.step(-1)), tool("One moment on", "›", () => this.step(1))];
    this.door = el("button", { type: "button", class: "sgl-door", click: () => (this.view ? this.close() : this.open()) });
    this.bar = el(
      "div",
      { class: "sgl-player", role: "group", "aria-label": "Play the run again" },
      this.button,
      this.steps[0],
      this.slider,
      this.steps[1],
      this.clock,
      this.pace,
      this.toggles,
      this.door,
    );
    this.cut = el("div", { class: "sgl-note", hidden: true });
    root.classList.add("sgl-live", "sgl-closed");
    root.dataset.theme = theme(document.body.dataset);
    new MutationObserver(() => (root.dataset.theme = theme(document.body.dataset))).observe(document.body, { attributes: true });
    root.append(this.bar);
    this.paintBar();
  }

  // ------------------------------------------------ open and closed

  async open() {
    if (this.view || this.opening) return this.opening;
    this.opening = this.unpack().then((recording) => {
      this.frames = recording.frames;
      const { options } = recording;
      const model = { get: (name) => (name === "options" ? { ...options, tall: true } : undefined), on() {}, send() {} };
      this.store = new Store(model);
      clearTimeout(this.store.asking);
      Object.assign(this.store, { length: this.meta.ms, status: { phase: "recorded", text: "recorded", progress: null } });
      this.show(true);
      this.root.classList.remove("sgl-closed");
      const focused = this.root.getRootNode().activeElement;
      this.view = new View(this.store, this.root, () => this.head());
      focused?.focus(); // the bar has moved
      this.view.seek = (ms) => this.drag(ms);
      this.at = -1;
      this.seek(this.ms);
      this.opening = null;
    });
    return this.opening;
  }

  /** Back to the pictures. */
  close() {
    this.pause();
    this.view.close();
    this.view = null;
    this.at = -1;
    this.ms = this.meta.ms;
    this.toggles.replaceChildren();
    this.root.classList.add("sgl-closed");
    this.root.append(this.bar);
    this.show(false);
    this.paintBar();
    this.door.focus();
  }

  /** What a view wants of its header. */
  head() {
    return {
      root: el("div", {}, this.bar, this.cut),
      toggle: (...words) => toggle(this.toggles, ...words),
      paint: () => this.paintBar(),
      close: () => {},
    };
  }

  // ------------------------------------------------ time

  /** Number of the last frame that was told by `ms`. */
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
    const back = to < this.at || this.at < 0;
    if (back || to > this.at || this.store.time.ms !== this.ms) {
      const messages = this.frames.slice(back ? 0 : this.at + 1, to + 1).map(([, message]) => message);
      this.at = to;
      this.store.wind(messages, this.ms, back);
    }
    this.paintBar();
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
    this.paintBar();
  }

  pause() {
    if (this.store?.playing) {
      this.store.playing = false;
      this.view?.changed({});
    }
    this.paintBar();
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

  paintBar() {
    const playing = Boolean(this.store?.playing);
    setText(this.button, playing ? "❚❚" : this.view ? "▶" : "▶\u2002Replay");
    this.button.setAttribute("aria-label", playing ? "Pause" : "Play the run again");
    if (Number(this.slider.value) !== this.ms) this.slider.value = this.ms;
    this.slider.style.setProperty("--done", this.ms / Math.max(1, this.meta.ms));
    setText(this.clock, this.view ? `${seconds(this.ms)} of ${seconds(this.meta.ms)}` : seconds(this.meta.ms));
    this.slider.setAttribute("aria-valuetext", `${seconds(this.ms)} of ${seconds(this.meta.ms)}`);
    setText(this.door, this.view ? "Close" : "Explore");
    this.door.setAttribute("aria-expanded", Boolean(this.view));
    for (const part of [...this.steps, this.pace, this.toggles]) part.hidden = !this.view;
    const { since, newest, cell } = this.meta;
    const tokens = newest ? `, and of all tokens and bars the newest ${figure(newest)}` : "";
    this.cut.hidden = !since;
    const [what, way] = cell ? ["notebook", " %sgl export run.html keeps all of it."] : ["page", ""];
    setText(this.cut, `To keep the ${what} small, the first ${seconds(since)} are told in one piece, without alternatives and times${tokens}.${way}`);
  }
}

/* Explore buttons on saved pictures of runs that this kernel still holds. The button is in the
 * player's header; a picture without a player gets one below it. Where the kernel is gone, nothing
 * is shown.
 */

import { el } from "./page.js";

const LOOK_SOON_MS = 120;
const ARRIVES_MS = 8_000;

class Door {
  constructor(model) {
    this.model = model;
    this.selector = `[data-sgl-run^="${CSS.escape(model.get("door"))}-"]`;
    this.timer = 0;
    this.seen = new MutationObserver(() => (this.timer ||= setTimeout(() => this.look(), LOOK_SOON_MS)));
    this.seen.observe(document.body, { childList: true, subtree: true });
    model.on("change:held", () => this.look());
    model.on("msg:custom", (message) => this.answer(message));
    this.look();
  }

  places() {
    return [...document.querySelectorAll(this.selector)].map((place) => [place, Number(place.dataset.sglRun.split("-").at(-1))]);
  }

  look() {
    clearTimeout(this.timer);
    this.timer = 0;
    const held = new Set(this.model.get("held"));
    for (const [place, run] of this.places()) this.put(place, held.has(run) ? (where) => this.model.send({ kind: "explore", run, ...where }) : null);
  }

  /** Give the picture its way to the kernel, or take it. */
  put(place, explore) {
    if (Boolean(place.sglExplore) === Boolean(explore)) return;
    place.sglExplore = explore;
    place.querySelector(":scope > .sgl-door")?.remove();
    if (explore && !place.querySelector("script"))
      place.append(el("button", { type: "button", class: "sgl-door jp-Button", title: "Go on from any token of this run", click: () => explore({}) }, "Explore"));
    place.dispatchEvent(new CustomEvent("sgl-door", { detail: {} }));
  }

  answer({ run, place: name, text = "" }) {
    for (const [place, its] of this.places()) if (its === run) place.dispatchEvent(new CustomEvent("sgl-door", { detail: { text, done: true } }));
    if (name) this.arrive(run, `[data-sgl-place="${CSS.escape(name)}"] .sgl-x-tok`, performance.now() + ARRIVES_MS);
  }

  /** Focus the first token of the panel below this run's picture, as soon as it is there. */
  arrive(run, selector, until) {
    const homes = this.places().flatMap(([place, its]) => (its === run ? [place.parentElement] : []));
    const found = homes.flatMap((home) => [...home.querySelectorAll(selector)]).find((tok) => tok.offsetParent);
    found?.scrollIntoView({ block: "nearest" });
    found?.focus();
    if (!found && performance.now() < until) setTimeout(() => this.arrive(run, selector, until), LOOK_SOON_MS);
  }

  close() {
    this.seen.disconnect();
    clearTimeout(this.timer);
    for (const [place] of this.places()) this.put(place, null);
  }
}

export default () => ({
  initialize({ model }) {
    const door = new Door(model);
    model.on("comm_live_update", () => door.close());
    return () => door.close();
  },
});

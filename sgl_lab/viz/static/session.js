/* What outlasts a cell: views in outputs whose HTML is readable without a kernel, the queue of a
 * dashboard, and the controls that run a cell again.
 */

import { count, el, furnish, keyed, setText } from "./page.js";

const LOOK_MS = 120;
const SETTLE_MS = 150;

export class Mounts {
  /* Views in all elements of the page that carry the widget's name, including elements that are
   * added later.
   */
  constructor(name, open) {
    this.selector = `[data-sgl-place="${CSS.escape(name)}"]`;
    this.open = open;
    this.held = new Map(); // element -> the view, its root and the pictures that it replaced
    this.timer = 0;
    this.seen = new MutationObserver(() => this.schedule());
    this.seen.observe(document.body, { childList: true, subtree: true });
    this.look();
  }

  /** Look for mounts soon, or at once if a view has lost its mount and another one is free. */
  schedule() {
    const lost = [...this.held.keys()].some((mount) => !mount.isConnected);
    if (lost && [...document.querySelectorAll(this.selector)].some((mount) => !this.held.has(mount))) this.look();
    else this.timer ||= setTimeout(() => this.look(), LOOK_MS);
  }

  /** A new output takes over the view of a removed one, with its scroll position and zoom. */
  look() {
    clearTimeout(this.timer);
    this.timer = 0;
    const left = [...this.held].filter(([mount]) => !mount.isConnected);
    for (const mount of document.querySelectorAll(this.selector)) {
      if (this.held.has(mount)) continue;
      const [old, held] = left.pop() ?? [null, this.fresh()];
      if (old) this.held.delete(old);
      this.held.set(mount, { ...held, pictures: [...mount.childNodes] });
      mount.replaceChildren(held.root);
      if (old && document.activeElement === document.body) held.focused()?.focus();
    }
    for (const [mount, { view }] of left) {
      view.close();
      this.held.delete(mount);
    }
  }

  fresh() {
    let last = null; // the focused element when the output was removed from the page
    const root = el("div", {
      focusin: ({ target }) => (last = target),
      focusout: () => setTimeout(() => root.isConnected && !root.contains(document.activeElement) && (last = null)),
    });
    return { root, view: this.open(root), focused: () => last };
  }

  /** Close the views and put the pictures back. */
  close() {
    this.seen.disconnect();
    clearTimeout(this.timer);
    for (const [mount, { view, pictures }] of this.held) {
      view.close();
      mount.replaceChildren(...pictures);
    }
    this.held.clear();
  }

  /** The kernel of the views is gone: put the pictures back, below a line that explains it. */
  lose(words) {
    const mounts = [...this.held.keys()];
    this.close();
    for (const mount of mounts) mount.prepend(el("div", { class: "sgl-lost", role: "status" }, words));
  }
}

/** The line above a panel whose kernel was restarted or is gone. */
export function lost(options) {
  const again = options.dashboard ? "Run %sgl dashboard again" : options.explore ? "Run %sgl explore again" : "Run the cell again";
  return `Not live any more: the kernel was restarted or is gone. ${again} to bring it back; below is the last picture.`;
}

/** The elements between the counts and the panels. */
export function extras(view) {
  const { options } = view.store;
  return [...(options.dashboard ? [new Queue(view)] : []), ...(options.controls ? [new Controls(view, options.controls)] : [])];
}

class Queue {
  /* Waiting requests, first come first. */
  constructor(view) {
    this.view = view;
    this.words = el("span");
    this.root = el("div", { class: "sgl-queue" }, el("b", {}, "Waiting"), this.words);
  }

  paint() {
    const { queue } = this.view.store;
    const more = queue.length > 4 ? `, and ${count(queue.length - 4, "other")}` : "";
    setText(this.words, queue.slice(0, 4).join(", ") + more || "no requests");
  }
}

class Controls {
  /* A slider or a list for each value. A change is sent after a short pause in moving the
   * control.
   */
  constructor(view, controls) {
    this.view = view;
    this.values = {};
    this.root = el("div", { class: "sgl-controls", role: "group", "aria-label": "Values of the cell" }, ...controls.map((each) => this.control(each)));
  }

  control({ name, label = name, values, index }) {
    const id = `${this.view.id}-${name}`;
    const shown = el("output", { for: id }, values[index].text);
    const isRange = values.length > 1 && values.every(({ number }) => number);
    const send = (at) => {
      setText(shown, values[at].text);
      this.values[name] = at;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.view.store.model.send({ kind: "set", values: { ...this.values } }), SETTLE_MS);
    };
    const input = isRange
      ? keyed(el("input", {
          id,
          type: "range",
          min: 0,
          max: values.length - 1,
          step: 1,
          value: index,
          "aria-valuetext": values[index].text,
          input: () => {
            furnish(input, { "aria-valuetext": values[input.value].text });
            send(Number(input.value));
          },
        }))
      : el(
          "select",
          { id, change: () => send(input.selectedIndex) },
          ...values.map(({ text }, at) => el("option", { selected: at === index }, text)),
        );
    return el("div", { class: "sgl-dial" }, el("label", { for: id }, label), input, isRange ? shown : "");
  }

  paint() {}
}

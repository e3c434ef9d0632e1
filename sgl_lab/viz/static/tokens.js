/* The text of every fork, token by token; two channels of colour and line; the alternatives of
 * each token.
 */

import { HEALED, TOKEN_MEANING, TOKEN_STATES, TOKEN_WORDS, choice, clamp, count, el, figure, furnish, keyed, panel, percent, pictured, seconds, setText, thumbnail, visible, wordsOf } from "./page.js";
import { tempered } from "./temper.js";

const CARET_MS = 700;
const CARDS_A_FRAME = 6;
const SPANS_A_MS = 20;
const SLOW_MS = 25;
const LATEST_MS = 300;
const LONG = 400;
/** Experts have eight colours, again from the ninth on. */
const EXPERTS = [...Array(8).keys()].map((n) => [`x${n}`, `expert ${n}`, `most layers weighted expert ${n} highest, or ${n + 8}, ${n + 16} and so on`]);
const ONLY_IF_SEEN = new Set(["reused", "forced", "choice", HEALED.word, ...EXPERTS.map(([key]) => key)]);

const step = (value, borders) => borders.findIndex((border) => value < border);

/** The channels: their levels, the words for each level, and the level of a token ("" for none). */
const CHANNELS = {
  type: {
    keys: Object.entries(TOKEN_WORDS).map(([state, word]) => [state, word, TOKEN_MEANING[state]]),
    of: ([, state]) => state,
  },
  probability: {
    keys: [
      ["s1", "≥ 90 %", "the model was sure"],
      ["s2", "50–90 %", "likely"],
      ["s3", "10–50 %", "unsure"],
      ["s4", "< 10 %", "a surprise"],
    ],
    of: (token, chance) => (token[2] === null ? "" : `s${4 - step(chance(token), [0.1, 0.5, 0.9, Infinity])}`),
  },
  latency: {
    keys: [
      ["s1", "< 10 ms", "since the token before it"],
      ["s2", "10–50 ms", "since the token before it"],
      ["s3", "50–250 ms", "since the token before it"],
      ["s4", "≥ 250 ms", "since the token before it"],
    ],
    of: (token) => (token[6]?.ms === undefined ? "" : `s${1 + step(token[6].ms, [10, 50, 250, Infinity])}`),
  },
  origin: {
    keys: ["cached", "reused", "computed"].map((state) => [state, TOKEN_WORDS[state], TOKEN_MEANING[state]]),
    of: ([, state]) => (state === "cached" || state === "reused" || state === "computed" ? state : ""),
  },
  forced: {
    keys: [
      ["forced", "forced", TOKEN_MEANING.forced],
      ["masked", "masked", "chosen among what the constraint allowed"],
    ],
    of: (token) => (token[1] === "forced" ? "forced" : token[6]?.allowed === undefined ? "" : "masked"),
  },
  expert: {
    keys: EXPERTS,
    of: (token) => (token[6]?.expert === undefined ? "" : `x${token[6].expert % EXPERTS.length}`),
  },
  none: { keys: [], of: () => "" },
};

export class TokensPanel {
  title = "Tokens";

  constructor(view) {
    this.view = view;
    this.streams = new Map();
    this.channel = { ink: "type", line: "type" };
    this.temperature = 1;
    this.chance = (token) => tempered(token, this.temperature)?.own ?? Math.exp(token[2]);
    this.seen = new Set();
    this.look = (token) => {
      this.meet(token[1]);
      if (token[6]?.healed) this.meet(HEALED.word);
      if (token[6]?.expert !== undefined) this.meet(CHANNELS.expert.of(token));
      const level = (name) => CHANNELS[this.channel[name]].of(token, this.chance);
      return [
        ["bg", level("ink")],
        ["ul", level("line")],
      ].map(([prefix, key]) => (key ? ` ${prefix}-${key}` : "")).join("");
    };
    this.legend = el("div", { class: "sgl-legend" });
    const pick = (name, label) => {
      const box = choice(label, Object.keys(CHANNELS).filter((key) => key !== "expert"), this.channel[name], (value) => this.show(name, value));
      this[name] = box;
      return el("label", { class: "sgl-setting" }, el("span", { "aria-hidden": "true" }, name === "ink" ? "Colour" : "Line"), box);
    };
    this.heat = keyed(el("input", {
      type: "range",
      class: "sgl-range",
      min: 0.1,
      max: 2,
      step: 0.05,
      value: 1,
      "aria-label": "Probabilities at another temperature",
      input: () => this.temper(Number(this.heat.value)),
    }));
    this.degrees = el("span", { class: "sgl-num" }, "1.00");
    const heat = el(
      "label",
      { class: "sgl-setting", title: "How likely the same tokens would have been at another temperature, from the recorded alternatives. Nothing runs again." },
      el("span", { "aria-hidden": "true" }, "Probability at T"),
      this.heat,
      this.degrees,
    );
    this.note = el("div", { class: "sgl-note", hidden: true });
    this.noteText = el("span");
    this.note.append(
      this.noteText,
      el("button", { type: "button", class: "sgl-tool", click: () => this.temper((this.heat.value = 1)) }, "Reset"),
    );
    this.roots = el("div", { class: "sgl-roots" });
    this.body = el(
      "div",
      { class: "sgl-scroll sgl-text", tabindex: 0, role: "group", "aria-label": "Tokens; arrow keys move from token to token" },
      this.roots,
    );
    const tools = el("div", { class: "sgl-tools" }, pick("ink", "What colour tells"), pick("line", "What the line below tells"), heat);
    this.root = panel("tokens", this.title, [this.legend, tools], this.note, this.body);
    this.dirty = new Map();
    this.marked = [];
    this.height = 0;
    this.late = 0;
    this.sight = new IntersectionObserver((entries) => this.watch(entries), { root: this.body, rootMargin: "60px 0px" });
    sticky(this.body);
    this.body.addEventListener("pointerover", (event) => this.point(event.target));
    this.body.addEventListener("pointerleave", () => this.point(null));
    this.body.addEventListener("focusin", (event) => event.target.token && this.point(event.target));
    this.body.addEventListener("focusout", () => this.point(null));
    this.body.addEventListener("click", (event) => this.choose(event.target));
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.explain();
  }

  // ------------------------------------------------ channels and temperature

  show(name, channel) {
    this.channel[name] = channel;
    this[name].value = channel;
    for (const stream of this.streams.values()) stream.redress();
    this.explain();
  }

  /** Add an entry to the legend when a state first occurs. */
  meet(key) {
    if (!ONLY_IF_SEEN.has(key) || this.seen.has(key)) return;
    this.seen.add(key);
    this.explained = false;
    if (key.startsWith("x") && ![...this.ink.options].some(({ value }) => value === "expert"))
      for (const box of [this.ink, this.line]) box.add(el("option", { value: "expert" }, "expert"), box.options.length - 1);
  }

  /** The legend of both channels, or of one if both show the same. */
  explain() {
    const { ink, line } = this.channel;
    this.words = wordsOf(this.view.store);
    const worded = ([key, label, meaning]) => [key, key === "cached" ? this.words.cached : label, TOKEN_WORDS[key] ? this.words.meanings[key] : meaning];
    const sample = (names, [key, label, meaning]) =>
      el(
        "span",
        { class: "sgl-key", title: meaning },
        el("span", { class: `t ${names.map((name) => `${name}-${key}`).join(" ")}` }, TOKEN_STATES[key] ? `${TOKEN_STATES[key]} ${label}` : label),
      );
    const known = ([key]) => !ONLY_IF_SEEN.has(key) || this.seen.has(key);
    const group = (names, channel) => CHANNELS[channel].keys.filter(known).map((key) => sample(names, worded(key)));
    this.explained = true;
    const seam = el("span", { class: "sgl-key", title: HEALED.meaning }, el("span", { class: "t sgl-healed" }, `${HEALED.mark} ${HEALED.word}`));
    this.legend.replaceChildren(
      ...(ink === line ? group(["bg", "ul"], ink) : [...group(["bg"], ink), ...group(["ul"], line)]),
      ...(this.seen.has(HEALED.word) ? [seam] : []),
    );
  }

  temper(temperature) {
    this.temperature = temperature;
    setText(this.degrees, temperature.toFixed(2));
    this.note.hidden = temperature === 1;
    if (temperature !== 1 && !Object.values(this.channel).includes("probability")) this.show("ink", "probability");
    else for (const stream of this.streams.values()) stream.redress();
    if (temperature === 1) return;
    const known = [...this.streams.values()].flatMap(({ spans }) => spans.map((span) => span.token)).filter((token) => token[2] !== null && token[4]);
    const mean = (chances) => chances.reduce((sum, value) => sum + value, 0) / chances.length;
    setText(
      this.noteText,
      known.length
        ? `At temperature ${temperature.toFixed(2)} the sampled tokens have a mean probability of ${percent(mean(known.map(this.chance)))}; ` +
            `at 1.00, the model's own temperature, ${percent(mean(known.map((token) => Math.exp(token[2]))))}. ` +
            "This is an approximation: tokens beyond the recorded alternatives count as equally likely as the last of them."
        : "No alternatives were recorded, so probabilities at another temperature cannot be computed.",
    );
  }

  // ------------------------------------------------ state and painting

  changed(change) {
    if (change.reset) {
      const { forks } = this.view.store;
      // Most of the received tokens are on the page already. They keep their focus and selection.
      if ([...this.streams.keys()].some((fork) => !forks.has(fork))) {
        this.streams.clear();
        this.roots.replaceChildren();
      }
      this.dirty = new Map([...forks.keys()].map((fork) => [fork, 0]));
    }
    for (const id of change.bars ?? []) {
      const bar = this.view.store.bars.get(id);
      if (bar?.kind === "reused") this.streams.get(this.view.store.forkOf(bar))?.head();
    }
    for (const [fork, index] of change.tokens ?? []) this.dirty.set(fork, Math.min(index, this.dirty.get(fork) ?? Infinity));
    if (this.words !== wordsOf(this.view.store)) this.explained = false;
    this.idle = !this.view.store.active && !this.view.store.playing;
    this.body.classList.toggle("sgl-busy", !this.idle);
  }

  /**
   * Keeps the tree smooth while forks grow: cards out of sight wait, and only a few visible
   * cards are painted in each frame. A card is painted less often the longer its last line is
   * and the longer the last frame took.
   */
  paint(t) {
    const drawn = [];
    let n_cards = 0;
    let due = Infinity;
    for (const [fork, index] of this.dirty) {
      const stream = this.stream(fork);
      stream?.note(t);
      if (stream && !this.idle) {
        if (stream.isAway) continue;
        const turn = stream.isCard && n_cards === CARDS_A_FRAME ? t : stream.due;
        if (turn >= t) {
          due = Math.min(due, turn);
          continue;
        }
        n_cards += stream.isCard;
        stream.due = t + Math.min(stream.lineLength() / SPANS_A_MS + this.late, LATEST_MS);
      }
      this.dirty.delete(fork);
      stream?.draw(index);
      if (stream) drawn.push(stream);
    }
    for (const stream of this.streams.values()) stream.caret(t, this.idle);
    if (!this.explained) this.explain();
    if (drawn.length) {
      this.grow();
      if (this.body.stick) this.follow(t);
      for (const { isCard, flow } of drawn) if (isCard && flow.stick) scrollTo(flow, flow.scrollHeight);
      this.view.later(CARET_MS + 20);
      requestAnimationFrame((next) => (this.late = next - t > SLOW_MS ? 3 * (next - t) : 0));
    }
    if (due > t && due < Infinity) this.view.later(due - t);
    return due <= t;
  }

  /** Cards come into sight and leave it. */
  watch(entries) {
    for (const { target, isIntersecting } of entries) {
      const stream = this.streams.get(target.fork);
      if (!stream) continue;
      stream.leave(!isIntersecting);
      if (isIntersecting) this.dirty.set(target.fork, Math.min(stream.spans.length, this.dirty.get(target.fork) ?? Infinity));
    }
    this.view.invalidate();
  }

  /**
   * Keep the generated text visible: the cards of all growing forks if they fit, otherwise the
   * newest text.
   */
  follow(t) {
    const { body } = this;
    const boxes = [...this.streams.values()].filter(({ grewAt }) => t - grewAt < CARET_MS).map((stream) => stream.tipBox());
    const shift = body.scrollTop - body.getBoundingClientRect().top;
    const top = Math.min(...boxes.map((box) => box.top)) + shift - 6;
    const bottom = Math.max(...boxes.map((box) => box.bottom)) + shift + 8;
    const room = body.clientHeight;
    const place = !boxes.length
      ? this.idle
        ? body.scrollTop
        : body.scrollHeight - room
      : bottom - top > room
        ? top
        : clamp(body.scrollTop, bottom - room, top);
    if (Math.abs(place - body.scrollTop) > 1) scrollTo(body, place);
  }

  /**
   * The box grows in a few steps instead of line by line, so that the content below it seldom
   * moves. It never shrinks.
   */
  grow() {
    const [pace, most] = [60, 240];
    if (this.height === most) return;
    const height = clamp(Math.ceil((this.roots.offsetHeight + 14) / pace) * pace, 2 * pace, most);
    if (height > this.height) this.body.style.height = `${(this.height = height)}px`;
  }

  stream(id) {
    const fork = this.view.store.forks.get(id);
    const known = this.streams.get(id);
    if (!fork || known?.base === fork.base) return known;
    const parent = fork.parent === null ? null : this.stream(fork.parent);
    const stream = known ?? new Stream(fork, Boolean(parent), this.view.store, this.look);
    stream.base = fork.base;
    this.streams.set(id, stream);
    if (parent) {
      parent.adopt(stream, fork.base);
      this.sight.observe(stream.root);
      this.sight.unobserve(parent.root);
      parent.leave(false);
    } else this.roots.append(stream.root);
    this.roots.classList.toggle("sgl-forks", this.roots.childElementCount > 1);
    this.roots.dataset.n = this.roots.childElementCount;
    return stream;
  }

  // ------------------------------------------------ pointer and keyboard

  point(target) {
    const span = target?.closest?.(".t");
    if (span === this.pointed) return;
    this.pointed?.classList.remove("sgl-on");
    this.pointed?.removeAttribute("aria-describedby");
    this.pointed = span?.token ? span : null;
    this.view.point(this.pointed && { kind: "token", fork: span.fork, position: span.position });
    if (!this.pointed) {
      this.view.card.hide();
      return;
    }
    span.classList.add("sgl-on");
    span.setAttribute("aria-describedby", this.view.card.root.id);
    this.view.card.show(span.getClientRects()[0] ?? span.getBoundingClientRect(), this.describe(span));
  }

  /** The details of a token. */
  describe({ token, fork, position, textContent: shown, n_joined: joined }) {
    const times = this.view.store.timesReused(fork, position);
    const [, state, logprob, role, , id, how] = token;
    const line = (...words) => el("div", { class: "sgl-card-line" }, words.filter(Boolean).join(" · "));
    const now = tempered(token, this.temperature);
    const own = now?.own ?? (logprob === null ? null : Math.exp(logprob));
    const rows = [
      el(
        "div",
        { class: "sgl-card-head" },
        ...(pictured(how?.picture) ? [thumbnail(how.picture)] : []),
        el("code", { class: `t bg-${state} ul-${state}` }, visible(shown || token[0])),
        el("span", {}, own === null ? "" : percent(own)),
      ),
      line(wordsOf(this.view.store).meanings[state] ?? state, role),
      ...(times ? [line(`reused ${count(times, "time")} by this run`)] : []),
      line(`position ${position}`, how?.block ? `digest ${how.block}…` : id === null || id === undefined ? "" : `id ${id}`, joined > 1 ? `one character in ${joined} tokens` : ""),
    ];
    if (how?.t !== undefined) rows.push(line(`at ${seconds(how.t)}`, how.ms ? `${seconds(how.ms)} after the token before` : "in the same step as the token before"));
    if (how?.healed) rows.push(line(`healed: ${JSON.stringify(how.healed)} was re-encoded together with the text after it`));
    if (how?.expert !== undefined) rows.push(line(`expert ${how.expert} first in ${how.routed} layers`));
    if (how?.drafted) rows.push(line("drafted and accepted"));
    if (how?.allowed !== undefined) {
      const { vocab } = this.view.store.options;
      rows.push(line(`${figure(how.allowed)}${vocab ? ` of ${figure(vocab)}` : ""} tokens allowed here`));
    }
    if (now) {
      const known = now.alternatives.map(([text, share, before]) => chance(text, share, text === token[0], this.temperature === 1 ? null : before));
      rows.push(...known, chance("all others", now.rest, false, null, "sgl-rest"));
    } else if (own !== null) rows.push(chance(token[0], own, true, null));
    if (now && this.temperature !== 1) rows.push(line(`at temperature ${this.temperature.toFixed(2)}; the mark is at 1.00`));
    return rows;
  }

  choose(target) {
    const span = target?.closest?.(".t");
    if (span?.token) this.view.choose({ kind: "token", fork: span.fork, position: span.position }, this);
  }

  key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") {
      this.point(null);
      this.view.choose(null, this);
      return;
    }
    if (event.key === "Enter" || event.key === " ") {
      if (!this.pointed) return;
      event.preventDefault();
      this.choose(this.pointed);
      return;
    }
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    const spans = [...this.roots.querySelectorAll(".t:not(:empty)")];
    const here = spans.indexOf(this.root.getRootNode().activeElement);
    const by = steps[event.key];
    const next = spans[here < 0 ? (by > 0 ? 0 : spans.length - 1) : clamp(here + by, 0, spans.length - 1)];
    event.preventDefault();
    next?.closest(".sgl-away")?.classList.remove("sgl-away");
    next?.setAttribute("tabindex", -1);
    next?.focus();
  }

  /** Highlight the tokens that belong to the item under the pointer. */
  mark({ stretches }) {
    for (const span of this.marked) span.classList.remove("sgl-linked");
    this.marked = stretches.flatMap(([fork, from, to]) => {
      const stream = this.streams.get(fork);
      return stream ? stream.spans.slice(Math.max(0, from - stream.base), Math.max(0, to - stream.base)) : [];
    });
    for (const span of this.marked) span.classList.add("sgl-linked");
  }

  /** Scroll to the first token of an item that was chosen in another panel. */
  reveal() {
    const [span] = this.marked;
    if (!span || this.root.hidden) return;
    span.closest(".sgl-away")?.classList.remove("sgl-away");
    const flow = span.closest(".sgl-fork > .sgl-flow");
    for (const box of [flow, this.body]) {
      if (!box) continue;
      box.stick = false;
      const home = box.getBoundingClientRect();
      const place = span.getBoundingClientRect();
      if (place.top < home.top || place.bottom > home.bottom) scrollTo(box, box.scrollTop + place.top - home.top - 40);
    }
  }

  close() {
    this.sight.disconnect();
  }
}

function chance(text, share, own, before, kind = "") {
  const bar = el("span", { class: "sgl-chance" }, ...(before === null ? [] : [el("i")]));
  bar.style.setProperty("--share", share);
  if (before !== null) bar.style.setProperty("--before", before);
  return el("div", { class: `sgl-alt ${kind}${own ? " sgl-own" : ""}` }, el("code", {}, visible(text)), bar, el("span", { class: "sgl-num" }, percent(share)));
}

/** Keep the end of a scrolling box visible until the reader scrolls away from it. */
function sticky(box) {
  box.stick = true;
  box.addEventListener(
    "scroll",
    () => {
      if (Math.abs(box.scrollTop - (box.put ?? Infinity)) < 2) return;
      box.put = null;
      box.stick = box.scrollHeight - box.scrollTop - box.clientHeight < 28;
    },
    { passive: true },
  );
}

function scrollTo(box, top) {
  box.scrollTop = top;
  box.put = box.scrollTop;
}

// ---------------------------------------------------------------- characters of several tokens

const BYTES = /(?:\\x[89a-f][0-9a-f])+/g;
const ENDS_IN_BYTES = /(?:\\x[89a-f][0-9a-f])+$/;
const BEGINS_WITH_BYTES = /^(?:\\x[89a-f][0-9a-f])+/;
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Joins `\xNN` bytes that form a character. Other bytes remain. */
const characters = (text) =>
  text.replace(BYTES, (run) => {
    try {
      return strict.decode(Uint8Array.from(run.split("\\x").slice(1), (pair) => parseInt(pair, 16)));
    } catch {
      return run;
    }
  });

/**
 * The text shown for the tokens from `from` on. Of tokens that only together form a character,
 * the first shows it and the others show nothing.
 */
function* spelled(tokens, from) {
  for (let i = from; i < tokens.length; ) {
    let text = tokens[i][0];
    let whole = text.includes("\\x") ? characters(text) : text;
    let n = 1;
    while (ENDS_IN_BYTES.test(whole) && n < 8 && BEGINS_WITH_BYTES.test(tokens[i + n]?.[0])) whole = characters((text += tokens[i + n++][0]));
    if (ENDS_IN_BYTES.test(whole)) {
      whole = characters(tokens[i][0]);
      n = 1;
    }
    for (let k = 0; k < n; k++) yield [k ? "" : whole, k ? 0 : n];
    i += n;
  }
}

// ---------------------------------------------------------------- one fork

/** The first position of a block, such as an image, is shown for all of its positions. */
const isInside = ([text, , , , , id]) => id < 0 && !text;

/** The spellings of special tokens: <|im_start|>, </s>, <bos>. */
const MARK = /^<[|/]?[\w|｜▁ -]+[|｜]?>$/;

function entitle(turn, role) {
  turn.dataset.role = role;
  setText(turn.querySelector(".sgl-role"), role);
}

class Stream {
  /* One fork's own text: turns of tokens, with the groups of its children at their fork points. */
  constructor(fork, card, store, look) {
    this.fork = fork.fork;
    this.store = store;
    this.look = look;
    this.spans = [];
    this.groups = [];
    this.tip = null;
    this.nSeen = 0;
    this.due = 0;
    this.grewAt = -Infinity;
    this.isAway = false;
    this.flow = el("div", { class: "sgl-flow" });
    this.size = el("span", { class: "sgl-size" });
    this.root = el("div", { class: card ? "sgl-stream sgl-fork" : "sgl-stream" });
    if (card) {
      const name = fork.label || `fork ${fork.index + 1}`;
      sticky(this.flow);
      furnish(this.flow, { tabindex: 0, role: "group", "aria-label": name });
      this.broken = el("span", { class: "sgl-broken", hidden: true });
      this.root.append(el("div", { class: "sgl-fork-head" }, el("span", {}, name), this.broken, this.size));
    } else this.root.append((this.broken = el("div", { class: "sgl-broken", hidden: true })));
    this.isCard = card;
    this.root.fork = fork.fork;
    if (card) this.root.append(this.flow);
    else this.root.prepend(this.flow);
  }

  /** How the fork ended, if not well; its number of tokens, and how many of them it reused. */
  head() {
    const { tokens, state } = this.store.forks.get(this.fork);
    const reused = this.store.reused.get(`f${this.fork}`);
    setText(this.size, `${reused ? `↻ ${figure(reused)} · ` : ""}${count(tokens.length, "token")}`);
    if (this.isCard) this.size.title = reused ? `${count(reused, "token")} reused: this run had them in the cache already` : "";
    this.broken.hidden = !state;
    setText(this.broken, state === "error" ? "✕ failed here" : state ? `■ ${state} here` : "");
    this.root.classList.toggle("sgl-failed", state === "error");
  }

  /** Children that fork at the same position are side by side, in the order of their index. */
  adopt(child, base) {
    let group = this.groups.find((other) => other.base === base);
    if (!group) {
      group = { base, root: el("div", { class: "sgl-forks" }) };
      this.groups.push(group);
      this.groups.sort((a, b) => a.base - b.base);
      const cut = base - this.store.forks.get(this.fork).base;
      if (cut < this.spans.length) this.truncate(Math.max(0, cut));
      this.flow.insertBefore(group.root, this.groups[this.groups.indexOf(group) + 1]?.root ?? null);
      this.draw(this.spans.length);
    }
    group.root.append(child.root);
    this.root.classList.add("sgl-nested");
    for (const { root } of this.groups) {
      root.dataset.n = root.childElementCount;
      root.hidden = !root.childElementCount;
    }
  }

  truncate(length) {
    for (const span of this.spans.splice(Math.max(0, length)).reverse()) {
      const line = span.parentNode;
      if (!line) continue; // it stood for several positions
      span.remove();
      if (line.childElementCount) continue;
      const text = line.parentNode;
      line.remove();
      if (!text.childElementCount) text.parentNode.remove();
    }
    const turn = this.spans.at(-1)?.closest(".sgl-turn");
    if (turn?.dataset.role && ![...turn.querySelectorAll(".t")].some((span) => span.token[3])) entitle(turn, "");
  }

  /** Whether it is out of sight. */
  leave(isAway) {
    this.isAway = isAway;
    this.root.classList.toggle("sgl-away", isAway);
  }

  /** Growth is detected before it is drawn. */
  note(t) {
    const { tokens } = this.store.forks.get(this.fork);
    if (tokens.length > this.nSeen && /^(generated|forced)$/.test(tokens.at(-1)[1])) this.grewAt = t;
    this.nSeen = tokens.length;
  }

  draw(from) {
    const { tokens, base } = this.store.forks.get(this.fork);
    let i = Math.min(from, this.spans.length, tokens.length);
    while (i > 0 && ENDS_IN_BYTES.test(tokens[i - 1][0])) i--;
    for (const [shown, joined] of spelled(tokens, i)) {
      if (i && isInside(tokens[i])) {
        this.spans[i] = this.spans[i - 1];
        i++;
        continue;
      }
      // A span is kept while its turn and line are right: only its style can have changed.
      const old = this.spans[i]?.token;
      if (old && (old[3] !== tokens[i][3] || old[0] !== tokens[i][0])) this.truncate(i);
      if (i === this.spans.length) this.spans.push(this.place(i, tokens[i], base));
      Object.assign(this.spans[i], { fork: this.fork, position: base + i, n_joined: joined });
      this.dress(this.spans[i], tokens[i]);
      this.fill(this.spans[i], shown);
      i++;
    }
    this.truncate(tokens.length);
    for (const turn of this.flow.children)
      if (turn.matches(".sgl-turn")) turn.classList.toggle("sgl-long", [...turn.lastChild.children].reduce((n, line) => n + line.childElementCount, 0) > LONG);
    this.flow.classList.toggle("sgl-plain", ![...this.flow.children].some(({ dataset }) => dataset.role));
    this.head();
  }

  place(i, token, base) {
    const role = token[3];
    const last = this.spans.at(-1);
    const turn = last?.closest(".sgl-turn");
    const ended = last?.token[0].endsWith("\n");
    const forked = this.groups.some((group) => group.base === base + i);
    // Markup has no role. Markup that closes a turn stays on its line; markup that opens a turn
    // becomes its first line.
    const first = turn?.dataset.role === "" ? turn.querySelector(".t").token[0] : "";
    const opens = MARK.test(first);
    const again = opens && !role && token[0] === first; // the template adds several turns of its own
    const span = el("span");
    if (turn && !forked && !again && (role === turn.dataset.role || (role ? opens : !ended))) {
      // Every line is a paragraph of its own, because a browser lays out a growing paragraph again
      // as a whole.
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

  /** A token's text; the picture of an image before it. */
  fill(span, shown) {
    const picture = pictured(span.token[6]?.picture);
    if (!picture) setText(span, shown);
    else if (span.picture !== picture) {
      span.replaceChildren();
      furnish(span, {}, [thumbnail(picture), shown]);
    }
    span.picture = picture;
  }

  dress(span, token) {
    const block = token[6]?.block ?? "";
    if (span.title !== block) span.title = block;
    const name = `t ${token[1]}${this.look(token)}${token[6]?.healed ? " sgl-healed" : ""}${block ? " sgl-block" : ""}${token[6]?.picture ? " sgl-pictured" : ""}${MARK.test(token[0]) ? " sgl-mark" : ""}`;
    if (span.look !== name) span.className = span.look = name;
    span.token = token;
  }

  /** Update colours and lines. */
  redress() {
    for (const span of this.spans) this.dress(span, span.token);
  }

  caret(t, idle) {
    const tip = !idle && t - this.grewAt < CARET_MS ? this.spans.at(-1) : null;
    if (tip === this.tip) return;
    this.tip?.classList.remove("sgl-tip");
    tip?.classList.add("sgl-tip");
    this.tip = tip;
  }

  /** Spans that a browser lays out again when one more is added. */
  lineLength() {
    return this.spans.at(-1)?.parentNode.childElementCount ?? 0;
  }

  /** The growing end. */
  tipBox() {
    return (this.isCard ? this.root : (this.spans.at(-1) ?? this.root)).getBoundingClientRect();
  }
}

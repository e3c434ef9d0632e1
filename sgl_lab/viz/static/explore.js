/* An exploration: the explored answer with its alternatives, its branches, the prompt's pieces, and
 * tries of what was sampled again. Clicks and keys become messages to the kernel; all that is shown
 * comes back as a picture of events (viz/views/explore.py). A recorded one only shows.
 */

import { clamp, count, el, figure, furnish, percent, seconds, setText, tool, visible } from "./page.js";

const LEFT_BY = { token: "◆", more: "▸", edit: "✎" };
const NOTED = 0.05;
const PLAN_MS = 150;
const TRIE_ROWS = 60;

const chanceOf = (logprob) => Math.exp(Math.min(logprob, 0));
const shareOf = (p) => (p === null || p === undefined ? "–" : percent(p));

/** The likeliest other token at a place, if it is close. */
const rival = ([, id, , top]) => {
  const other = top.find(([, token]) => token !== id);
  return other && chanceOf(other[2]) >= NOTED ? other : null;
};

export class Explore {
  constructor(view) {
    this.view = view;
    this.lines = new Map(); // branch -> BranchLine
    this.stale = true;
    this.want = null; // the branch whose first new token is focused once it is there
    this.acts = !view.header.player;
    this.note = el("span", { class: "sgl-x-note", role: "status" });
    this.heat = el("input", { class: "sgl-x-number", type: "number", min: 0, max: 5, step: 0.1, value: 1, "aria-label": "Temperature" });
    this.n = el("input", { class: "sgl-x-number", type: "number", min: 1, max: 64, step: 1, value: 8, "aria-label": "How many further texts" });
    const more = [el("label", {}, "more: ", this.n), el("label", {}, "temperature ", this.heat)];
    const tools = this.acts ? [...more, tool("Undo the last change (u)", "Undo", () => this.send("undo"))] : [];
    this.prompt = el("div", { class: "sgl-x-prompt" });
    this.answer = el("div", { class: "sgl-x-answer" });
    this.branches = el("div", { class: "sgl-x-branches" });
    this.tries = el("div", { class: "sgl-x-tries" });
    this.cell = el("div", { class: "sgl-x-cell", hidden: true });
    this.popup = el("div", { class: "sgl-x-popup", role: "listbox", "aria-label": "Alternatives", hidden: true });
    this.root = el(
      "section",
      {
        class: "sgl-panel sgl-explore",
        "aria-label": "Explore",
        "data-lm-suppress-shortcuts": "true",
        hidden: true,
        keydown: (event) => this.key(event),
        focusin: ({ target }) => target.tok && this.focused(target),
        pointerover: ({ target }) => this.point(target.closest?.(".sgl-x-tok") ?? null),
        pointerleave: () => this.point(null),
        click: ({ target }) => this.click(target.closest?.(".sgl-x-tok")),
      },
      el("div", { class: "sgl-bar" }, el("h4", {}, "Explore"), this.note, el("div", { class: "sgl-tools" }, ...tools)),
      this.cell,
      this.prompt,
      this.answer,
      this.branches,
      this.tries,
      this.popup,
    );
  }

  send(kind, rest = {}) {
    this.view.store.model.send({ kind, ...rest });
  }

  // ------------------------------------------------ from the kernel

  changed({ reset, explore, explored }) {
    if (reset) this.lines.clear();
    if (reset || explore) this.stale = true;
    if (explored) this.reply(explored);
  }

  reply({ of, text, branch, ...plan }) {
    setText(this.note, text && of !== "copy" ? text : "");
    this.note.classList.toggle("sgl-x-error", of === "error");
    if (branch !== undefined && of !== "error") this.want = branch;
    if (of === "plan") this.editing?.planned(plan);
    if (of === "edit") this.editing?.close();
    if (of === "copy") this.copied(text);
    if (of === "refused") return this.refuse(plan);
    this.stale = true;
    this.view.invalidate();
  }

  /** The cell of a branch, for the clipboard and to read. */
  copied(text) {
    const box = el("textarea", { class: "sgl-x-source", readonly: true, rows: Math.min(12, text.split("\n").length), "aria-label": "The branch as a cell" });
    box.value = text;
    this.cell.replaceChildren(box, tool("Close", "✕", () => (this.cell.hidden = true)));
    this.cell.hidden = false;
    box.focus();
    box.select();
    navigator.clipboard?.writeText(text).then(
      () => setText(this.note, "copied: paste it into a new cell"),
      () => setText(this.note, "copy it from here: Ctrl+C"),
    );
  }

  // ------------------------------------------------ painting

  paint() {
    const { explore } = this.view.store;
    this.root.hidden = !explore;
    if (!explore || !this.stale) return;
    this.stale = false;
    this.paintPrompt(explore);
    const shown = [...explore.branches.values()].filter(({ id, deleted }) => id && !deleted);
    shown.sort((a, b) => b.pinned - a.pinned || b.id - a.id);
    const answer = explore.branches.get(0);
    if (answer) this.place(this.answer, [this.line(answer)]);
    this.place(this.branches, shown.map((row) => this.line(row)));
    for (const [id, { root }] of this.lines) if (!root.isConnected && id) this.lines.delete(id);
    this.paintTries(explore.tries ?? []);
    this.arrive();
  }

  /** Put these lines there; those that are there already keep their focus. */
  place(home, lines) {
    const roots = lines.map(({ root }) => root);
    for (const child of [...home.children]) if (!roots.includes(child)) child.remove();
    roots.forEach((root, at) => home.children[at] !== root && home.insertBefore(root, home.children[at] ?? null));
  }

  line(row) {
    let line = this.lines.get(row.id);
    if (!line) this.lines.set(row.id, (line = new BranchLine(this, row)));
    line.update(row);
    return line;
  }

  paintPrompt({ pieces = [] }) {
    const key = JSON.stringify(pieces);
    if (key === this.pieces || this.editing) return;
    this.pieces = key;
    this.prompt.replaceChildren(
      ...pieces.flatMap((piece, at) => (piece.kind === "template" ? [] : [this.piece(piece, at)])),
    );
  }

  piece({ role, kind, text, n }, at) {
    const canEdit = this.acts && kind === "text";
    const body = canEdit
      ? el("button", { type: "button", class: "sgl-x-piece", title: "Edit this text (Enter)", click: () => this.edit(at, text, body) }, visible(text) || "∅")
      : el("span", { class: "sgl-x-piece" }, visible(text));
    return el("div", { class: "sgl-x-row" }, el("span", { class: "sgl-x-role" }, role || "text"), el("div", {}, body), el("span", { class: "sgl-x-count" }, count(n, "token")));
  }

  edit(at, text, body) {
    this.editing?.close();
    this.editing = new PieceEdit(this, at, text, body);
  }

  /** Draw the tries that are new or have changed. */
  paintTries(tries) {
    tries.forEach((trie, at) => {
      const key = JSON.stringify(trie);
      const known = this.tries.children[at];
      if (known?.key === key) return;
      const drawn = this.trie(trie);
      drawn.key = key;
      if (known) known.replaceWith(drawn);
      else this.tries.append(drawn);
    });
    while (this.tries.children.length > tries.length) this.tries.lastChild.remove();
  }

  trie({ n, first, whole, rows }) {
    const words = first === null ? "their probability is not known" : `their first tokens cover ${shareOf(first)} of what could follow, the whole texts ${shareOf(whole)}`;
    const lines = rows.slice(0, TRIE_ROWS).map((row) => {
      const go = () => this.reach(row.line, row.at);
      const bar = el("i");
      bar.style.width = `${clamp(100 * (row.reach ?? 0), 0.5, 100)}%`;
      const text = el("code", {}, visible(row.toks.join("")));
      text.style.paddingLeft = `${Math.min(row.depth, 12) * 16}px`;
      const about = `${count(row.n, "text")}; all of these words: ${shareOf(row.mass)}. Show where they begin`;
      return el("button", { type: "button", class: "sgl-x-node", title: about, click: go }, el("span", { class: "sgl-x-bar" }, bar), el("span", { class: "sgl-x-p" }, shareOf(row.reach)), text);
    });
    const more = rows.length > TRIE_ROWS ? [el("div", { class: "sgl-x-count" }, `${figure(rows.length - TRIE_ROWS)} more rows`)] : [];
    return el("div", { class: "sgl-x-trie" }, el("div", { class: "sgl-x-head" }, el("b", {}, "What it could have said"), ` ${count(n, "text")}; ${words}`), ...lines, ...more);
  }

  // ------------------------------------------------ the focused token

  reach(branch, at) {
    const line = this.lines.get(branch);
    if (!line) return;
    const tok = line.toks[clamp(at, 0, line.toks.length - 1)];
    tok?.focus({ preventScroll: false });
  }

  /** Focus the first new token of the branch that was asked for. */
  arrive() {
    const line = this.want === null ? null : this.lines.get(this.want);
    if (!line || line.toks.length <= line.row.n_forced) return;
    if (this.root.contains(document.activeElement) || this.root.getRootNode().activeElement === null) this.reach(this.want, Math.max(0, line.row.n_forced - 1));
    this.want = null;
  }

  focused(target) {
    this.current = target;
    this.point(target);
    if (!this.popup.hidden && this.popup.tok !== target) this.close();
  }

  point(target) {
    if (target === this.pointed) return;
    this.pointed = target;
    const row = target?.line.row;
    this.view.point(row?.fork ? { kind: "token", fork: row.fork, position: row.prompt + target.tok.at } : null);
  }

  /** Mark the branches that the pointed node or bar belongs to. */
  mark({ stretches }) {
    const forks = new Set(stretches.map(([fork]) => fork));
    for (const { root, row } of this.lines.values()) root.classList.toggle("sgl-linked", row.fork > 0 && forks.has(row.fork));
  }

  // ------------------------------------------------ clicks and keys

  click(target) {
    if (!target) return;
    target.focus();
    this.open(target);
  }

  /** The alternatives of a token, in a list below it. */
  open(target) {
    if (!this.acts) return;
    const { at } = target.tok;
    const { row } = target.line;
    const [text, own, logprob, top] = row.toks[at];
    const known = top.some(([, id]) => id === own) || logprob === null ? top : [[text, own, logprob], ...top];
    const options = known.map(([word, id, p]) => this.option(word, id, chanceOf(p), id === own, () => this.choose(row.id, at, id)));
    const more = el("button", { type: "button", class: "sgl-x-more", role: "option", title: "m", click: () => this.more(row.id, at) }, "More from here");
    this.popup.replaceChildren(...options, more);
    this.popup.tok = target;
    this.popup.hidden = false;
    const home = this.root.getBoundingClientRect();
    const box = target.getBoundingClientRect();
    this.popup.style.left = `${clamp(box.left - home.left, 4, Math.max(4, home.width - this.popup.offsetWidth - 4))}px`;
    this.popup.style.top = `${box.bottom - home.top + 3}px`;
    this.send("refused", { line: row.id, at });
    (options.find((option) => !option.classList.contains("sgl-own")) ?? more).focus({ preventScroll: true });
  }

  /** Alternatives that the constraint of the gen forbids cannot be chosen. */
  refuse({ line, at, tokens, why }) {
    const { tok } = this.popup;
    if (this.popup.hidden || tok.line.row.id !== line || tok.tok.at !== at) return;
    const options = [...this.popup.children];
    for (const option of options) {
      if (!tokens.includes(option.token)) continue;
      furnish(option, { "aria-disabled": true, title: `${option.word} ${why}` });
      option.append(el("span", { class: "sgl-x-why" }, why));
    }
    const own = this.root.getRootNode().activeElement;
    if (own?.ariaDisabled !== "true") return;
    options.find((option) => option.ariaDisabled !== "true" && !option.classList.contains("sgl-own"))?.focus({ preventScroll: true });
  }

  option(word, token, p, isOwn, act) {
    const bar = el("i");
    bar.style.width = `${clamp(100 * p, 0.5, 100)}%`;
    const click = () => option.ariaDisabled !== "true" && act();
    const option = el(
      "button",
      { type: "button", class: `sgl-x-option${isOwn ? " sgl-own" : ""}`, role: "option", "aria-selected": isOwn, click },
      el("code", {}, visible(word) || "∅"),
      el("span", { class: "sgl-x-bar" }, bar),
      el("span", { class: "sgl-x-p" }, shareOf(p)),
    );
    return Object.assign(option, { token, word: visible(word) });
  }

  close() {
    const { tok } = this.popup;
    this.popup.hidden = true;
    this.popup.tok = null;
    return tok;
  }

  choose(branch, at, token) {
    this.close()?.focus({ preventScroll: true });
    this.send("branch", { branch, at, token });
  }

  more(branch, at) {
    this.close()?.focus({ preventScroll: true });
    this.send("more", { branch, at, n: Number(this.n.value), temperature: Number(this.heat.value) });
  }

  key(event) {
    const { target, key } = event;
    if (event.metaKey || event.altKey || target.matches("input, textarea")) return;
    const isUndo = event.ctrlKey && key === "z";
    if (event.ctrlKey && !isUndo) return;
    const done = isUndo ? (this.acts && this.send("undo"), true) : this.popup.contains(target) ? this.keyInPopup(target, key) : this.keyOn(target, key);
    if (!done) return;
    event.preventDefault();
    event.stopPropagation();
  }

  keyInPopup(target, key) {
    const options = [...this.popup.children];
    const step = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (step) options[clamp(options.indexOf(target) + step, 0, options.length - 1)].focus();
    else if (key === "Escape" || key === "Tab") this.close()?.focus();
    else if (key === "m") this.more(this.popup.tok.line.row.id, this.popup.tok.tok.at);
    else return false;
    return true;
  }

  keyOn(target, key) {
    if (key === "u" && this.acts) return this.send("undo"), true;
    if (!target.tok) return false;
    const { line, tok } = target;
    const lines = [this.answer, this.branches].flatMap((home) => [...home.children]).map((root) => root.line);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    const down = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (step) line.toks[clamp(tok.at + step, 0, line.toks.length - 1)].focus();
    else if (key === "Home" || key === "End") line.toks.at(key === "Home" ? 0 : -1).focus();
    else if (down) this.reach(lines[clamp(lines.indexOf(line) + down, 0, lines.length - 1)].row.id, tok.at);
    else if (key === "Enter" || key === " ") this.open(target);
    else if (!this.acts) return false;
    else if (key === "m") this.more(line.row.id, tok.at);
    else if (line.row.id && line.acts[key]) line.acts[key]();
    else return false;
    return true;
  }
}

class BranchLine {
  /* The answer, or a branch: its tokens, and what can be done with it. */
  constructor(explore, row) {
    this.explore = explore;
    this.row = row;
    this.toks = [];
    this.name = el("span", { class: "sgl-x-name" });
    this.text = el("div", { class: "sgl-x-text", role: "group", "aria-label": row.id ? row.label : "answer" });
    this.about = el("div", { class: "sgl-x-count" });
    this.edited = el("div", { class: "sgl-x-count", hidden: true });
    const send = (kind, rest) => explore.send(kind, { branch: row.id, ...rest });
    this.acts = {
      p: () => send("pin", { on: !this.row.pinned }),
      r: () => this.ask("name", this.row.label, (text) => send("rename", { text })),
      F2: () => this.acts.r(),
      k: () => this.ask("variable", "kept", (text) => send("keep", { text })),
      c: () => send("copy"),
      Delete: () => {
        send("delete");
        explore.reach(0, 0);
      },
    };
    this.pin = tool("Pin (p)", "☆", () => this.acts.p());
    const tools = [
      this.pin,
      tool("Rename (r)", "✎", () => this.acts.r()),
      tool("Keep as a state (k)", "Keep", () => this.acts.k()),
      tool("Copy as cell (c)", "Copy as cell", () => this.acts.c()),
      tool("Delete (Delete)", "✕", () => this.acts.Delete()),
    ];
    this.tools = el("span", { class: "sgl-x-tools" }, ...(row.id && explore.acts ? tools : []));
    const side = el("div", { class: "sgl-x-role" }, this.name);
    this.root = el("div", { class: row.id ? "sgl-x-row sgl-x-branch" : "sgl-x-row" }, side, el("div", {}, this.edited, this.text, el("div", { class: "sgl-x-foot" }, this.about, this.tools)));
    this.root.line = this;
  }

  /** Ask for a word in place of the counts. */
  ask(label, value, act) {
    const close = () => {
      input.replaceWith(this.about);
      this.toks[0]?.focus();
    };
    const input = el("input", {
      class: "sgl-x-ask",
      "aria-label": label,
      value,
      keydown: (event) => {
        event.stopPropagation();
        if (event.key === "Enter") act(input.value);
        if (event.key === "Enter" || event.key === "Escape") close();
      },
    });
    if (!this.about.isConnected) return;
    this.about.replaceWith(input);
    input.focus();
    input.select();
  }

  update(row) {
    const before = this.row;
    this.row = row;
    if (this.drawn === row) return;
    this.drawn = row;
    setText(this.name, row.id ? `${LEFT_BY[row.how] ?? "◆"} ${row.label}` : "answer");
    this.root.classList.toggle("sgl-x-running", row.state === "running");
    this.pin.textContent = row.pinned ? "★" : "☆";
    this.pin.setAttribute("aria-pressed", row.pinned);
    this.edited.hidden = row.how !== "edit";
    setText(this.edited, `prompt: ${visible(row.text)}`);
    let same = 0;
    while (same < this.toks.length && same < row.toks.length && before.toks[same][1] === row.toks[same][1]) same += 1;
    for (const span of this.toks.splice(same)) span.remove();
    const made = row.toks.slice(same).map((tok, at) => this.token(tok, same + at));
    this.toks.push(...made);
    this.text.append(...made);
    if (!row.id) return;
    const from = row.how === "edit" ? "edited prompt" : `from ${row.parent ? `branch ${row.parent}` : "the answer"} at token ${row.n_kept + 1}`;
    const heat = row.temperature ? `, temperature ${row.temperature}` : "";
    const cached = row.cached === null ? "" : `, ${figure(row.cached)} cached`;
    const first = row.ms === null ? "" : `, first after ${seconds(row.ms)}`;
    setText(this.about, `${from}${heat} · ${figure(row.computed)} computed${cached}, ${figure(row.toks.length - row.n_forced)} generated${first}`);
  }

  token(tok, at) {
    const { n_kept: kept, n_forced: forced, id } = this.row;
    const state = id && at < kept ? "sgl-x-kept" : id && at < forced ? "sgl-x-chosen" : "sgl-x-drawn";
    const other = rival(tok);
    const p = tok[2] === null ? "" : `, ${shareOf(chanceOf(tok[2]))}`;
    const span = el(
      "span",
      {
        class: `sgl-x-tok ${state}${other ? " sgl-x-fork" : ""}`,
        role: "button",
        tabindex: at ? -1 : 0,
        title: `${visible(tok[0])}${p}${other ? `; or ${visible(other[0])}, ${shareOf(chanceOf(other[2]))}` : ""}`,
      },
      (id ? visible(tok[0]).replaceAll("\u00a0", " ") : visible(tok[0])) || "∅",
    );
    if (other && !id) span.append(el("small", { "aria-hidden": "true" }, `${visible(other[0]).trim().slice(0, 14)} ${Math.round(100 * chanceOf(other[2]))}%`));
    span.tok = { at };
    span.line = this;
    return span;
  }
}

class PieceEdit {
  /* A piece of the prompt as a text box, with what running it would compute. */
  constructor(explore, at, text, body) {
    Object.assign(this, { explore, at, body });
    this.words = el("span", { class: "sgl-x-count" });
    this.plan = el("div", { class: "sgl-x-plan" });
    this.box = el("textarea", { class: "sgl-x-source", rows: clamp(text.split("\n").length, 1, 8), "aria-label": "Text of the prompt", input: () => this.soon(), keydown: (event) => this.key(event) });
    this.box.value = text;
    const run = el("button", { type: "button", class: "sgl-x-run", click: () => this.run() }, "Run as a branch");
    const cancel = tool("Cancel (Escape)", "Cancel", () => this.close());
    this.root = el("div", { class: "sgl-x-edit" }, this.box, this.plan, el("div", { class: "sgl-x-foot" }, run, cancel, this.words));
    body.replaceWith(this.root);
    this.box.focus();
    this.soon(0);
  }

  soon(ms = PLAN_MS) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.explore.send("plan", { piece: this.at, text: this.box.value }), ms);
  }

  planned({ toks, n_cached: n, before, cached, computed }) {
    setText(this.words, `${count(cached, "token")} stay cached, ${figure(computed)} will be computed (Ctrl+Enter)`);
    const part = (tokens, name) => (tokens.length ? [el("span", { class: name }, visible(tokens.join("")))] : []);
    this.plan.replaceChildren(before ? `… ${figure(before)} more … ` : "", ...part(toks.slice(0, n), "t bg-cached ul-cached"), ...part(toks.slice(n), "t bg-computed ul-computed"));
  }

  key(event) {
    event.stopPropagation();
    if (event.key === "Escape") this.close();
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
    else return;
    event.preventDefault();
  }

  run() {
    clearTimeout(this.timer);
    this.explore.send("edit", { piece: this.at, text: this.box.value });
  }

  close() {
    clearTimeout(this.timer);
    this.root.replaceWith(this.body);
    if (this.explore.editing === this) this.explore.editing = null;
    this.body.focus();
  }
}

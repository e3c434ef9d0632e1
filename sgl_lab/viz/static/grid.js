/* All rows of a grid: sorted, filtered, opened. It takes the place of the still picture and needs no
 * kernel. Texts of models and of data are text nodes only. */

import { brief, count, el, figure, furnish, seconds, setText, visible } from "./page.js";

const MARKS = { pass: "✓", fail: "✕", error: "!", stopped: "■", none: "·" };
const MEANING = { pass: "passes all checks", fail: "fails a check", error: "the body failed", stopped: "stopped before it ended", none: "no checks" };
const RANK = { error: 0, fail: 1, stopped: 2, none: 3, pass: 4 };
const FIELDS = 3;
const SHOWN = 180;

const outcome = (cell) =>
  cell.status === "error" ? "error" : cell.status !== "ok" ? "stopped" : cell.passed === null ? "none" : cell.passed ? "pass" : "fail";
const cut = (text, length = SHOWN) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const share = (part) => `${(100 * part).toFixed(part > 0.9995 || part === 0 ? 0 : 1)}\u2009%`;

/** Replace the other children of `home` by the grid when its data is unpacked. */
export async function sheet(home, css, unpack) {
  const picture = await unpack();
  const pictures = [...home.children].filter((child) => child.localName !== "script");
  const host = el("div");
  const shadow = host.attachShadow({ mode: "open" });
  const root = el("div", { class: "sgl-grid" });
  shadow.append(el("style", {}, css), root);
  const follow = () => (root.dataset.theme = hue(document.body.dataset));
  follow();
  new MutationObserver(follow).observe(document.body, { attributes: true });
  home.prepend(host);
  const grid = new Sheet(root, picture);
  // Hidden, but still text of the page, as the pictures of a replayed cell are.
  for (const each of pictures) {
    Object.assign(each.style, { position: "absolute", width: "1px", height: "1px", overflow: "hidden", clipPath: "inset(50%)" });
    furnish(each, { inert: true, "aria-hidden": true });
  }
  return grid;
}

/** "light" or "dark", as the page declares; "" if it does not. */
function hue({ jpThemeLight, vscodeThemeKind = "" }) {
  if (jpThemeLight !== undefined) return jpThemeLight === "true" ? "light" : "dark";
  return vscodeThemeKind && (vscodeThemeKind.includes("light") ? "light" : "dark");
}

class Sheet {
  constructor(root, picture) {
    Object.assign(this, { root, picture, sorted: { by: "row", down: false }, words: "", only: "all" });
    this.fields = picture.fields.slice(0, FIELDS);
    this.bars = picture.rows.map(() => null);
    this.texts = picture.rows.map((row) => this.text(row));
    this.count = el("span", { class: "count", role: "status" });
    this.body = el("div", { class: "rows", role: "rowgroup" });
    this.heads = new Map();
    const wide = this.fields.map(() => "minmax(90px, 1fr)").concat(picture.columns.map(() => "minmax(150px, 2fr)"));
    root.style.setProperty("--columns", `44px ${wide.join(" ")}`);
    root.style.setProperty("--least", `${44 + 90 * this.fields.length + 150 * picture.columns.length}px`);
    const table = el("div", { class: "table", role: "table", "aria-label": picture.name }, this.head(), this.body);
    root.append(this.title(), this.totals(), this.tools(), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rows" }, table));
    this.body.addEventListener("click", (event) => this.click(event));
    this.show();
  }

  title() {
    const { name, rows, columns } = this.picture;
    const words = `${count(rows.length, "row")} · ${count(columns.length, "version")}`;
    return el("div", { class: "title" }, el("strong", {}, cut(name, 60)), el("span", { class: "soft" }, words));
  }

  totals() {
    const box = el("div", { class: "totals" });
    for (const column of this.picture.columns) {
      box.append(el("div", { class: "name" }, column.label), this.passes(column), el("div", { class: "soft facts" }, this.facts(column)));
    }
    const said = [...this.picture.sentences, ...(this.picture.notes ?? [])].map((words, n) =>
      el("p", n < this.picture.sentences.length ? {} : { class: "soft" }, words),
    );
    return el("div", { class: "above" }, box, ...said);
  }

  passes({ passes, checks }) {
    if (!passes) return el("div", { class: "soft" }, "no checks");
    const [n, all, low, high] = passes;
    const inside = el("i", { class: "bar" });
    inside.style.width = `${(100 * n) / Math.max(1, all)}%`;
    const line = el("i", { class: "interval" });
    Object.assign(line.style, { left: `${100 * low}%`, width: `${100 * (high - low)}%` });
    const words = all ? `${figure(n)} of ${figure(all)} pass, ${share(n / all)}` : "none finished";
    const span = all ? `${share(low)} to ${share(high)}` : "";
    const why = "The line is the 95 % interval (Wilson) of the true share";
    const each = checks.map(([name, [passed, of], raised]) => `${name} ${passed} of ${of}${raised ? `, ${raised} raised` : ""}`);
    return el(
      "div",
      { class: "passes" },
      el("div", {}, words, el("span", { class: "soft" }, span && ` (${span})`)),
      el("div", { class: "track", title: why, role: "img", "aria-label": `${words} ${span}` }, inside, line),
      el("div", { class: "soft small" }, checks.length > 1 ? each.join(" · ") : ""),
    );
  }

  facts(column) {
    const found = [`${brief(column.computed)} computed`, `${brief(column.cached)} cached`, `${brief(column.generated)} generated`];
    if (column.judged) found.push(`${brief(column.judged)} computed by judges`);
    if (column.done) found.push(`${seconds(column.ms / column.done)} a row`);
    if (column.currency) found.push(`${+column.cost.toPrecision(3)} ${column.currency}${column.unpriced ? " +" : ""}`);
    if (column.errors) found.push(count(column.errors, "error"));
    if (column.stopped) found.push(`${figure(column.stopped)} stopped`);
    if (column.missing) found.push(`${figure(column.missing)} not run`);
    return found.join(" · ");
  }

  // ------------------------------------------------ sorting and filtering

  head() {
    const head = el("div", { class: "row head", role: "row" });
    const columns = this.picture.columns.map(({ label, model }, n) => [`cell ${n}`, label, model]);
    for (const [by, words, hint] of [["row", "#", "row"], ...this.fields.map((name, n) => [`field ${n}`, name, name]), ...columns]) {
      const arrow = el("span", { "aria-hidden": "true" });
      const button = el("button", { type: "button", title: `Sort by ${hint}`, click: () => this.sort(by) }, cut(words, 40), arrow);
      const cell = el("div", { role: "columnheader", "aria-sort": "none" }, button);
      this.heads.set(by, { cell, arrow });
      head.append(cell);
    }
    return head;
  }

  tools() {
    const search = el("input", {
      type: "search",
      placeholder: "Find in rows and answers",
      "aria-label": "Find in rows and answers",
      input: () => this.filter({ words: search.value }),
    });
    const kinds = [["all", "all rows"], ["bad", "not passed"], ["differ", "answers differ"], ["fixed", "fixed"], ["broken", "broken"]];
    kinds.push(["error", "errors"], ["missing", "not run or stopped"]);
    const only = el(
      "select",
      { "aria-label": "Rows to show", change: () => this.filter({ only: only.value }) },
      ...kinds.map(([value, words]) => el("option", { value }, `${words} (${figure(this.picture.rows.filter((row) => this.is(row, value)).length)})`)),
    );
    const columns = this.picture.columns.flatMap(({ label }, n) =>
      [["computed", "tokens computed"], ["generated", "tokens generated"], ["ms", "time"], ["parting", "first difference"]].map(([what, words]) => [
        `${what} ${n}`,
        `${label}: ${words}`,
      ]),
    );
    const order = el(
      "select",
      { "aria-label": "Sort by", change: () => order.value && this.sort(order.value) },
      el("option", { value: "" }, "sort by a column, or"),
      ...columns.map(([value, words]) => el("option", { value }, cut(words, 60))),
    );
    this.order = order;
    return el("div", { class: "tools" }, search, only, order, this.count);
  }

  text(row) {
    const answers = row.cells.flatMap((cell) => (cell ? [cell.value, cell.message, ...cell.values.map(([, text]) => text)] : []));
    return [...row.given, ...answers].join("\n").toLowerCase();
  }

  is(row, kind) {
    const cells = row.cells.filter(Boolean);
    if (kind === "bad") return cells.some((cell) => cell.passed === false);
    if (kind === "differ") return cells.some((cell) => cell.parting);
    if (kind === "error") return cells.some((cell) => cell.status === "error");
    if (kind === "missing") return cells.length < row.cells.length || cells.some((cell) => outcome(cell) === "stopped");
    return kind === "all" || cells.some((cell) => cell.change === kind);
  }

  filter(change) {
    Object.assign(this, change);
    this.show();
  }

  sort(by) {
    this.sorted = { by, down: this.sorted.by === by ? !this.sorted.down : !/^(row|field|cell|parting)/.test(by) };
    if (this.order.value !== by) this.order.value = "";
    this.show();
  }

  /** What a row is sorted by; null comes last. */
  value(row) {
    const [what, n] = this.sorted.by.split(" ");
    if (what === "row") return row.row;
    if (what === "field") return row.given[n] === null ? null : number(row.given[n]);
    const cell = row.cells[n];
    if (!cell) return null;
    if (what === "cell") return RANK[outcome(cell)];
    if (what === "parting") return cell.parting?.[0] ?? null;
    return cell[what];
  }

  show() {
    const words = this.words.toLowerCase();
    const found = [];
    this.picture.rows.forEach((row, at) => {
      if (this.is(row, this.only) && (!words || this.texts[at].includes(words))) found.push([this.value(row), at]);
    });
    const turn = this.sorted.down ? -1 : 1;
    found.sort(([a, x], [b, y]) => {
      if (a === b) return x - y;
      if (a === null || b === null) return a === null ? 1 : -1;
      return turn * (typeof a === typeof b ? (a < b ? -1 : 1) : typeof a === "number" ? -1 : 1) || x - y;
    });
    this.body.replaceChildren(...found.map(([, at]) => this.line(at)));
    setText(this.count, `${figure(found.length)} of ${count(this.picture.rows.length, "row")}`);
    for (const [by, { cell, arrow }] of this.heads) {
      const here = by === this.sorted.by;
      cell.setAttribute("aria-sort", !here ? "none" : this.sorted.down ? "descending" : "ascending");
      setText(arrow, !here ? "" : this.sorted.down ? " ↓" : " ↑");
    }
  }

  // ------------------------------------------------ rows

  /** The element of a row, made when it is first shown. */
  line(at) {
    if (this.bars[at]) return this.bars[at];
    const row = this.picture.rows[at];
    const opener = el("button", { type: "button", class: "open", "aria-expanded": "false", title: "Open the row" }, row.row);
    const cells = [el("div", { role: "cell", class: "soft" }, opener)];
    for (let n = 0; n < this.fields.length; n++) cells.push(el("div", { role: "cell" }, cut(visibleLine(row.given[n] ?? "—"))));
    for (const cell of row.cells) cells.push(el("div", { role: "cell" }, ...this.cell(cell)));
    const line = el("div", { class: "row", role: "row", "data-at": at }, ...cells);
    this.bars[at] = el("div", { class: "bundle", role: "presentation" }, line);
    return this.bars[at];
  }

  cell(cell) {
    if (!cell) return [el("span", { class: "soft" }, "not run")];
    const kind = outcome(cell);
    const shown = [el("span", { class: `mark ${kind}`, title: MEANING[kind], role: "img", "aria-label": MEANING[kind] }, MARKS[kind]), " "];
    shown.push(cut(visibleLine(kind === "error" ? cell.message : cell.value)));
    const remarks = [];
    if (cell.change) remarks.push(el("b", { class: cell.change === "fixed" ? "pass" : "fail" }, cell.change));
    const bad = cell.checks.find(([, passed]) => passed !== true);
    if (bad) remarks.push(`${bad[0]}: ${bad[1] === null ? "raised " : ""}${cut(bad[3] || (bad[2] ? `expected ${bad[2]}` : "false"), 80)}`);
    if (cell.parting) remarks.push(parting(cell.parting));
    if (remarks.length) shown.push(el("div", { class: "soft small" }, ...remarks.flatMap((each, n) => (n ? [" · ", each] : [each]))));
    return shown;
  }

  click(event) {
    const line = event.target.closest("[data-at]");
    if (!line || (event.target.closest("button") && !event.target.closest(".open")) || getSelection().toString()) return;
    const bundle = line.parentNode;
    const isOpen = bundle.classList.toggle("opened");
    line.querySelector(".open").setAttribute("aria-expanded", isOpen);
    if (isOpen) bundle.append(this.details(this.picture.rows[line.dataset.at]));
    else bundle.lastChild.remove();
  }

  details(row) {
    const given = this.picture.fields.map((name, n) => [name, row.given[n]]).filter(([, text]) => text !== null);
    const box = el("div", { class: "details" });
    box.append(el("dl", { class: "given" }, ...given.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])));
    row.cells.forEach((cell, n) => {
      if (!cell) return;
      const column = this.picture.columns[n];
      const facts = [`${figure(cell.computed)} computed`, `${figure(cell.cached)} cached`, `${figure(cell.generated)} generated`];
      if (cell.judged) facts.push(`${figure(cell.judged)} computed by the judge`);
      facts.push(seconds(cell.ms));
      if (cell.cost !== null) facts.push(`${+cell.cost.toPrecision(3)} ${column.currency}`);
      const part = el("section", {}, el("h5", {}, column.label, " ", el("span", { class: "soft" }, facts.join(" · "))));
      if (cell.message) part.append(el("p", { class: "fail" }, cell.line ? `line ${cell.line}: ${cell.message}` : cell.message));
      const answers = cell.values.some(([, text]) => text === cell.value) || !cell.value ? cell.values : [["value", cell.value], ...cell.values];
      part.append(el("dl", {}, ...answers.flatMap(([name, text]) => [el("dt", {}, name), el("dd", { class: "answer" }, text)])));
      if (cell.parting) part.append(el("p", { class: "soft" }, `differs from ${column.base} at ${parting(cell.parting)}`));
      for (const [name, passed, expected, message] of cell.checks) {
        const kind = passed === null ? "error" : passed ? "pass" : "fail";
        const why = message || (expected && `expected ${expected}`);
        part.append(el("p", {}, el("span", { class: `mark ${kind}` }, MARKS[kind]), ` ${name}`, el("span", { class: "soft" }, why && `: ${why}`)));
      }
      if (cell.open) part.append(this.copier(cell.open));
      box.append(part);
    });
    return box;
  }

  copier(command) {
    const button = el("button", { type: "button", class: "copy", title: "Copy the command that opens this row" }, "Copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(command).then(() => setText(button, "Copied"), () => {});
    });
    return el("p", { class: "command" }, el("code", {}, command), button);
  }
}

const visibleLine = (text) => text.trim().replace(/\n/g, "↵").replace(/\t/g, "⇥");
const number = (text) => (text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text.toLowerCase());
const token = (text) => (text ? `“${cut(visible(text), 20)}”` : "the end");
const parting = ([at, before, after]) => `token ${at}: ${token(before)} → ${token(after)}`;

/* The state of a run, by id, and the relations between its items.
 *
 * Applies the messages of viz/sender.py, live or from a recording. Paints nothing.
 */

const ACTIVE = new Set(["loading", "running"]);
const HELLO_EVERY_MS = 1000;

/** What each count of a run includes: states of tokens and kinds of bars. */
const COUNTED = {
  found: { states: new Set(["cached"]), kinds: new Set(["found"]) },
  reused: { states: new Set(["reused"]), kinds: new Set(["reused"]) },
  computed: { states: new Set(["computed"]), kinds: new Set(["prefill", "score"]) },
  generated: { states: new Set(["generated", "forced"]), kinds: new Set(["decode", "forced"]) },
};

export class Store {
  /* The state of the run, and the views that are notified of changes. */
  constructor(model) {
    this.model = model;
    this.views = new Set();
    this.expected = 0;
    this.behind = true;
    this.asking = 0;
    this.missed = false;
    this.stopping = false;
    this.clear();
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
    model.on("change:snapshot", () => this.recover(model.get("snapshot")));
    this.recover(model.get("snapshot"));
    this.ask();
  }

  clear() {
    this.forks = new Map();
    this.nodes = new Map();
    this.texts = new Map();
    this.ends = new Map();
    this.tails = [];
    this.others = null; // numbers of nodes and tokens of other runs that a recording left out
    this.clock = 0;
    this.lanes = new Map();
    this.bars = new Map();
    this.reused = new Map(); // lane -> tokens that its requests reused
    this.graphs = new Map();
    this.steps = new Map(); // nodes of graphs
    this.flow = { width: 0, height: 0 };
    this.since = 0;
    this.queue = [];
    this.time = { ms: 0, at: performance.now() };
    this.metrics = null;
    this.explore = null;
    this.status = { phase: "loading", text: "", progress: null };
  }

  get options() {
    return this.model.get("options") ?? {};
  }

  get active() {
    return ACTIVE.has(this.status.phase);
  }

  /** Current time of the run in milliseconds: the kernel's last report plus the time since. */
  now() {
    return this.time.ms + (this.status.phase === "running" ? performance.now() - this.time.at : 0);
  }

  // ------------------------------------------------ messages

  /**
   * Request the full state, at most once a second; again afterwards if messages were missed
   * meanwhile.
   */
  ask() {
    this.missed = Boolean(this.asking);
    if (this.asking) return;
    this.model.send({ kind: "hello" });
    this.asking = setTimeout(() => {
      this.asking = 0;
      if (this.missed && this.behind) this.ask();
    }, HELLO_EVERY_MS);
  }

  /** A message of the kernel. Its content is in a buffer, as JSON. */
  receive(header, buffers) {
    const message = buffers?.length ? { ...header, ...JSON.parse(new TextDecoder().decode(buffers[0])) } : header;
    if (message.kind === "stopping") {
      this.stopping = true;
      this.notify({ status: true });
    } else if (message.kind === "explored") {
      this.notify({ explored: message });
    } else if (message.kind === "full") {
      this.behind = false;
      this.clear();
      this.apply(message, true);
      this.expected = message.seq + 1;
    } else if (message.kind === "delta") {
      if (message.seq === 0) this.behind = false;
      else if (message.seq !== this.expected) this.behind = true;
      if (this.behind) this.ask();
      this.apply(message, false);
      this.expected = message.seq + 1;
    }
  }

  /**
   * A page that missed messages uses the snapshot, as far as it is complete, until the kernel
   * can answer.
   */
  recover(text) {
    if (!this.behind || !text) return;
    const snapshot = JSON.parse(text);
    if (snapshot.tokens) this.forks.clear();
    if (snapshot.tree) for (const known of [this.nodes, this.texts, this.ends]) known.clear();
    if (snapshot.lanes) {
      for (const known of [this.lanes, this.bars, this.reused]) known.clear();
    }
    if (snapshot.graph) for (const known of [this.graphs, this.steps]) known.clear();
    this.apply(snapshot, true);
    this.expected = snapshot.seq;
    this.behind = Boolean(snapshot.partial);
  }

  /**
   * Apply the messages of a recording between two moments, starting over if the state has to go
   * back.
   */
  seek(messages, ms, anew) {
    const { status } = this;
    if (anew) this.clear();
    this.status = status;
    const change = emptyChange(anew);
    for (const message of messages) this.merge(message, change);
    this.time = { ms, at: performance.now() };
    this.notify(change);
  }

  apply(message, reset) {
    const change = emptyChange(reset);
    this.merge(message, change);
    this.notify(change);
  }

  merge({ tokens, tree, lanes, metrics, graph, explore, status }, change) {
    if (explore) {
      const branches = this.explore?.branches ?? new Map();
      for (const row of explore.branches ?? []) branches.set(row.id, row);
      this.explore = { ...this.explore, ...explore, branches };
      change.explore = true;
    }
    if (tokens) this.mergeTokens(tokens, change);
    if (graph) this.mergeGraph(graph, change);
    if (tree) {
      for (const node of tree.nodes ?? []) {
        // a recording contains only changed fields
        this.nodes.set(node.id, { ...this.nodes.get(node.id), ...node });
        change.nodes.add(node.id);
      }
      for (const row of tree.texts ?? []) {
        this.texts.set(row.id, row);
        change.nodes.add(row.id);
      }
      for (const [fork, node] of tree.ends ?? []) this.ends.set(fork, node);
      for (const id of tree.gone ?? []) {
        this.texts.delete(id);
        if (this.nodes.delete(id)) change.gone.push(id);
      }
      change.tails ||= Boolean(tree.tails);
      this.tails = tree.tails ?? this.tails;
      this.clock = tree.clock ?? this.clock;
      this.others = tree.others ?? this.others;
    }
    if (lanes) {
      for (const lane of lanes.lanes ?? []) this.lanes.set(lane.lane, lane);
      change.lanes ||= lanes.lanes?.length > 0;
      for (const row of lanes.bars ?? []) {
        const known = this.bars.get(row.id);
        const bar = known ? { ...known, ...row } : row;
        if (!known && bar.kind === "reused") this.reused.set(bar.lane, (this.reused.get(bar.lane) ?? 0) + bar.n);
        this.bars.set(bar.id, bar);
        change.bars.add(bar.id);
      }
      if (lanes.gone?.length) this.drop(new Set(lanes.gone), change);
      this.since = lanes.since ?? this.since;
      this.queue = lanes.queue ?? this.queue;
      if (lanes.now !== undefined) this.time = { ms: lanes.now, at: performance.now() };
    }
    if (metrics) this.metrics = metrics;
    if (metrics && this.options.dashboard) status = { phase: metrics.running + metrics.waiting ? "running" : "idle", text: "", progress: null };
    if (status) {
      if (!ACTIVE.has(status.phase)) this.time = { ms: this.now(), at: performance.now() };
      else if (!this.active) this.stopping = false;
      this.status = status;
      change.status = true;
    }
  }

  /** Drop lanes that are no longer kept, with their bars. */
  drop(gone, change) {
    for (const lane of gone) for (const known of [this.lanes, this.reused]) known.delete(lane);
    for (const [id, bar] of this.bars)
      if (gone.has(bar.lane)) {
        this.bars.delete(id);
        change.dropped.push(id);
      }
    change.lanes = true;
  }

  mergeTokens({ forks = [], ops = [] }, change) {
    const since = (fork, index) => change.tokens.set(fork, Math.min(index, change.tokens.get(fork) ?? Infinity));
    for (const fork of forks) {
      this.forks.set(fork.fork, { ...fork, tokens: this.forks.get(fork.fork)?.tokens ?? [] });
      since(fork.fork, this.forks.get(fork.fork).tokens.length);
    }
    for (const { fork, start, toks } of ops) {
      const stream = this.forks.get(fork);
      if (!stream) continue;
      const index = Math.max(0, start - stream.base);
      while (stream.tokens.length < index) stream.tokens.push(["…", "text", null, "", null, null, null]);
      stream.tokens.length = index;
      for (const token of toks) stream.tokens.push(token);
      since(fork, index);
    }
  }

  mergeGraph({ graphs = [], steps = [], width, height }, change) {
    for (const row of graphs) this.graphs.set(row.graph, row);
    for (const row of steps) {
      // a recording contains only changed fields
      this.steps.set(row.id, { ...this.steps.get(row.id), ...row });
      change.steps.add(row.id);
    }
    this.flow = { width: width ?? this.flow.width, height: height ?? this.flow.height };
    change.graphs ||= graphs.length > 0;
  }

  notify(change) {
    for (const view of this.views) view.changed(change);
  }

  // ------------------------------------------------ relations

  /** Nodes from the root down to `id`, each with the positions of its tokens. */
  path(id) {
    const nodes = [];
    for (let node = this.nodes.get(id); node; node = this.nodes.get(node.parent)) nodes.unshift(node);
    let from = 0;
    return nodes.map((node) => ({ node, from, to: (from += node.n) }));
  }

  /** The fork, or the further sample of a gen, whose stream a bar worked on. */
  forkOf({ lane }) {
    const sample = lane?.startsWith("r") ? -Number(lane.slice(1)) : null;
    if (this.forks.has(sample)) return sample;
    while (lane && !lane.startsWith("f")) lane = this.lanes.get(lane)?.parent;
    return lane ? Number(lane.slice(1)) : null;
  }

  /**
   * Positions of a bar's tokens: [from, to). The last token of a generation was sampled and has
   * no KV yet.
   */
  spanOf({ kind, at, n }) {
    return at === null || at === undefined || kind === "wait" || kind === "sent" || kind === "preempted" ? null : [at, at + n + (kind === "decode")];
  }

  /** The part of [from, to) that a fork and its ancestors own, as a list of [fork, from, to]. */
  stretches(fork, from, to) {
    const found = [];
    for (let at = this.forks.get(fork), end = to; at && end > from; at = this.forks.get(at.parent)) {
      if (Math.max(from, at.base) < end) found.push([at.fork, Math.max(from, at.base), end]);
      end = Math.min(end, at.base);
    }
    return found;
  }

  /**
   * The tokens and bars that a count includes: tokens by state, or those that a later request
   * reused, and bars by kind.
   */
  counted(name) {
    const { states, kinds } = COUNTED[name];
    const bars = [...this.bars.values()].filter(({ kind }) => kinds.has(kind));
    const spans = [];
    if (name === "reused") for (const bar of bars) spans.push([this.forkOf(bar), ...this.spanOf(bar)]);
    for (const { fork, base, tokens } of this.forks.values())
      for (let at = 0, from = 0; at <= tokens.length; at++) {
        if (at < tokens.length && states.has(tokens[at][1])) continue;
        if (at > from) spans.push([fork, base + from, base + at]);
        from = at + 1;
      }
    return { spans, bars: new Set(bars.map(({ id }) => id)) };
  }

  /** How often requests of the run reused the token at a position of a fork. */
  timesReused(fork, position) {
    let n = 0;
    for (const bar of this.bars.values())
      if (bar.kind === "reused" && bar.at <= position && position < bar.at + bar.n) n += this.stretches(this.forkOf(bar), position, position + 1)[0]?.[0] === fork;
    return n;
  }

  /**
   * Everything related to a token, node, tail, bar, count or node of a graph: `{ nodes, tails, bars,
   * steps, stretches }`.
   */
  links(cursor) {
    const marks = { nodes: new Set(), tails: new Set(), bars: new Set(), steps: new Set(), stretches: [] };
    if (!cursor) return marks;
    const isCount = cursor.kind === "count";
    const spans = []; // [fork, from, to]
    const bar = cursor.kind === "bar" ? this.bars.get(cursor.id) : null;
    if (isCount) {
      const counted = this.counted(cursor.id);
      spans.push(...counted.spans);
      marks.bars = counted.bars;
    } else if (cursor.kind === "token") {
      for (const { fork } of this.forks.values())
        if (this.stretches(fork, cursor.position, cursor.position + 1)[0]?.[0] === cursor.fork)
          spans.push([fork, cursor.position, cursor.position + 1]);
    } else if (cursor.kind === "step") {
      for (const [fork, from, to] of this.steps.get(cursor.id)?.places ?? []) spans.push([fork, from, to ?? Infinity]);
    } else if (bar) {
      const span = this.spanOf(bar);
      if (span) spans.push([this.forkOf(bar), ...span]);
    } else if (cursor.kind === "node" && this.nodes.has(cursor.id)) {
      const { from, to } = this.path(cursor.id).at(-1);
      for (const [fork, end] of this.ends)
        if (this.path(end).some(({ node }) => node.id === cursor.id)) spans.push([fork, from, to]);
    } else if (cursor.kind === "tail") {
      const tail = this.tails.find(({ request }) => request === cursor.id);
      const its = [...this.bars.values()].find(({ request }) => request === cursor.id);
      const from = tail ? (this.path(tail.node).at(-1)?.to ?? 0) : 0;
      if (tail && its) spans.push([this.forkOf(its), from, from + tail.n]);
    }
    for (const [fork, from, to] of spans) {
      for (const stretch of this.stretches(fork, from, to)) marks.stretches.push(stretch);
      const path = this.ends.has(fork) ? this.path(this.ends.get(fork)) : [];
      for (const { node, from: first, to: end } of path) if (first < to && from < end) marks.nodes.add(node.id);
      const depth = path.at(-1)?.to ?? 0;
      if (to > depth)
        for (const { request, node } of this.tails) if (node === this.ends.get(fork)) marks.tails.add(request);
    }
    if (bar) marks.bars.add(bar.id);
    else if (!isCount)
      for (const other of this.bars.values()) {
        const span = this.spanOf(other);
        const fork = span && this.forkOf(other);
        if (span && spans.some(([its, from, to]) => its === fork && span[0] < to && from < span[1])) marks.bars.add(other.id);
      }
    if (!isCount) this.linkSteps(cursor, bar, marks);
    if (cursor.kind === "node") marks.nodes.add(cursor.id);
    if (cursor.kind === "tail") marks.tails.add(cursor.id);
    return marks;
  }

  /** The nodes of graphs whose tokens or requests are among what is marked. */
  linkSteps(cursor, bar, marks) {
    if (cursor.kind === "step") {
      marks.steps.add(cursor.id);
      return;
    }
    for (const { id, places, requests } of this.steps.values())
      if (
        (bar && requests.includes(bar.request)) ||
        places.some(([fork, from, to]) => marks.stretches.some(([its, first, end]) => its === fork && from < end && first < (to ?? Infinity)))
      )
        marks.steps.add(id);
  }

  /**
   * Ids of the evictable nodes, in the order of their eviction if nothing were used again; null
   * if the policy looks at more than the nodes.
   */
  evictionOrder() {
    const { evict } = this.options;
    const key = { lru: (node) => [node.used], lfu: (node) => [node.hits, node.used], fifo: (node) => [node.born] }[evict];
    if (!key) return null;
    const before = (a, b) => {
      const [one, other] = [[...key(a), a.id], [...key(b), b.id]];
      const at = one.findIndex((value, index) => value !== other[index]);
      return at >= 0 && one[at] < other[at];
    };
    const below = new Map();
    for (const { parent } of this.nodes.values()) below.set(parent, (below.get(parent) ?? 0) + 1);
    const idle = (node) => node && node.parent !== null && !node.refs && !below.get(node.id);
    // the first one to evict is last
    const queue = [...this.nodes.values()].filter(idle).sort((a, b) => (before(a, b) ? 1 : -1));
    const order = [];
    while (queue.length) {
      const node = queue.pop();
      order.push(node.id);
      below.set(node.parent, below.get(node.parent) - 1);
      const parent = this.nodes.get(node.parent);
      if (!idle(parent)) continue;
      let [low, high] = [0, queue.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (before(parent, queue[middle])) low = middle + 1;
        else high = middle;
      }
      queue.splice(low, 0, parent);
    }
    return order;
  }
}

const emptyChange = (reset) => ({
  reset,
  tokens: new Map(),
  nodes: new Set(),
  gone: [],
  tails: false,
  lanes: false,
  graphs: false,
  steps: new Set(),
  bars: new Set(),
  dropped: [],
  explore: false,
  status: false,
});

// Attention over paged bf16 keys and values, in which what several rows share is read once for all.
//
// A context is walked in blocks of 64 keys. Keys and values of a block are gathered into panels, and
// every query that reads the block attends to the panels: the query heads of a KV head, the tokens of a
// prefill, and all rows whose leading pages are the same. Each query keeps its own running maximum, sum
// and output (online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867), so that its result does not
// depend on its company. Chunks of 256 keys are independent of each other and merged in order by their
// log-sum-exp, which lets a long context of one row use all threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "linear.hpp"

namespace sgl {

constexpr int kBlock = 64;
constexpr int kChunk = 256;
constexpr int kChunkBlocks = kChunk / kBlock;
constexpr int kTileTokens = 32;   // of one prefill that attend together, at most
constexpr int kWhole = -1;
constexpr int kMostQueries = 96;  // of one item: what they keep and the panels fit into the first-level cache

// One layer's store: [slots][kv_heads][head_dim].
struct Pages {
  bf16* keys;
  bf16* values;
};

// A layer's heads, and how their queries read keys.
struct Shape {
  int32_t n_heads, n_kv_heads, head_dim, page_size;
  int32_t window;  // a token reads itself and the window - 1 tokens before it; 0: all of them
  float scale;     // of query times key
  float softcap;   // scores become softcap * tanh(score / softcap); 0: they stay

  int first_read(int position) const { return window ? std::max(0, position + 1 - window) : 0; }

  int group() const { return n_heads / n_kv_heads; }
  int width() const { return round_up(head_dim, 64); }
  int partial() const { return width() + 2 * kLanes; }  // floats of a query's state: its output, 16 parts of its sum, its maximum
  size_t slot(const int32_t* pages, int position) const { return static_cast<size_t>(pages[position / page_size]) * page_size + position % page_size; }
};

// Consecutive tokens of one row: flat tokens [token, token + n) at positions from `start`.
struct Tile {
  const int32_t* pages;
  int token, n, start;
  int n_shared;  // leading blocks whose pages are those of the tile before, complete in both
  int partial;   // its chunks are items of their own, whose states begin here; or kWhole
  int first = 0; // the first key that one of its tokens reads

  int end() const { return start + n; }
  int first_chunk() const { return first / kChunk; }
  int end_chunk() const { return (end() + kChunk - 1) / kChunk; }
  int n_chunks() const { return end_chunk() - first_chunk(); }
  bool is_split() const { return partial != kWhole; }
};

// Work of one thread, for one KV head: chunks [first_chunk, last_chunk) of tiles [begin, end).
struct Item {
  int begin, end, first_chunk, last_chunk;
};

struct AttentionPlan {
  std::vector<Tile> tiles;
  std::vector<Item> items;
  std::vector<std::pair<int, int>> split;  // tile, its token
  int n_partials = 0;

  // rows: one tile each, however long
  void make(std::vector<Tile> rows, const Shape& shape) {
    std::stable_sort(rows.begin(), rows.end(), [&](const Tile& a, const Tile& b) {
      if ((a.n > 1) != (b.n > 1)) return b.n > 1;
      const int n = (std::min(a.end(), b.end()) + shape.page_size - 1) / shape.page_size;
      const auto [x, y] = std::mismatch(a.pages, a.pages + n, b.pages);
      return x == a.pages + n ? a.end() < b.end() : *x < *y;
    });
    tiles.clear();
    items.clear();
    split.clear();
    n_partials = 0;
    std::vector<int> singles;
    int n_long = 0;  // tiles of several tokens: a lone one would occupy few of a team
    for (const Tile& row : rows) n_long += row.n > 1 ? n_tiles(row) : 0;
    for (const Tile& row : rows)
      for (int done = 0, left = n_tiles(row); left > 0; --left) {
        const int n = (row.n - done + left - 1) / left;
        Tile tile{row.pages, row.token + done, n, row.start + done, 0, kWhole, shape.first_read(row.start + done)};
        done += n;
        const int t = static_cast<int>(tiles.size());
        if (t > 0) tile.n_shared = n_shared(tiles.back(), tile, shape.page_size);
        if (tile.n == 1) singles.push_back(t);
        if (tile.n_chunks() > 1 && (tile.n == 1 || n_long == 1)) {
          for (int i = 0; i < tile.n; ++i) split.push_back({t, i});
          tile.partial = n_partials;
          n_partials += tile.n_chunks() * tile.n;
        }
        tiles.push_back(tile);
      }
    // The longest first: what is left to the end is small.
    for (int t = static_cast<int>(tiles.size()) - 1; t >= 0; --t) {
      if (tiles[t].n == 1) continue;
      const int step = tiles[t].is_split() ? 1 : tiles[t].n_chunks();
      for (int chunk = tiles[t].first_chunk(); chunk < tiles[t].end_chunk(); chunk += step) items.push_back({t, t + 1, chunk, chunk + step});
    }
    int longest = 0;
    for (int t : singles) longest = std::max(longest, tiles[t].end_chunk());
    for (int chunk = 0; chunk < longest; ++chunk) {
      Item* open = nullptr;
      for (int t : singles) {
        if (tiles[t].end_chunk() <= chunk || tiles[t].first_chunk() > chunk) continue;
        const bool joins = open && open->end == t && tiles[t].n_shared > chunk * kChunkBlocks && (t - open->begin) * shape.group() < kMostQueries - shape.group();
        if (joins) {
          open->end = t + 1;
        } else {
          items.push_back({t, t + 1, chunk, chunk + 1});
          open = &items.back();
        }
      }
    }
  }

  // Two of what would be one and a large one: threads share it for less than the states of its chunks cost.
  static int n_tiles(const Tile& row) { return std::max(row.n > kTileTokens / 2 ? 2 : 1, (row.n + kTileTokens - 1) / kTileTokens); }

  static int n_shared(const Tile& a, const Tile& b, int page_size) {
    const int n_keys = std::min(a.start, b.start) / kBlock * kBlock;
    const int n_pages = (n_keys + page_size - 1) / page_size;
    const int n_equal = static_cast<int>(std::mismatch(a.pages, a.pages + n_pages, b.pages).first - a.pages);
    return std::min(n_keys, n_equal * page_size) / kBlock;
  }
};

inline void transpose_16x16(Ints (&rows)[16]) {
  Ints t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = low_ints(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = high_ints(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 2; ++j) {
      rows[4 * i + 2 * j] = low_pairs(t[4 * i + j], t[4 * i + j + 2]);
      rows[4 * i + 2 * j + 1] = high_pairs(t[4 * i + j], t[4 * i + j + 2]);
    }
  // rows[4i + j] now holds, in its four quarters q, columns 4q + j of rows 4i to 4i + 3.
  for (int j = 0; j < 4; ++j) {
    const Ints a = quarters<0x88>(rows[j], rows[4 + j]), b = quarters<0xdd>(rows[j], rows[4 + j]);
    const Ints c = quarters<0x88>(rows[8 + j], rows[12 + j]), d = quarters<0xdd>(rows[8 + j], rows[12 + j]);
    t[j] = quarters<0x88>(a, c);
    t[4 + j] = quarters<0x88>(b, d);
    t[8 + j] = quarters<0xdd>(a, c);
    t[12 + j] = quarters<0xdd>(b, d);
  }
  for (int i = 0; i < 16; ++i) rows[i] = t[i];
}

// A block of keys, and the queries [query, query + n) of an item that read it, none a key before `first`.
struct Read {
  const Tile* tile;
  int block, query, n, first;
};

// What one thread needs while it attends.
struct Scratch {
  std::vector<Read> reads;                  // of the item, in order
  std::vector<bf16> queries, keys, values;  // of the item; panels of the block
  std::vector<int> position;                // of each query
  std::vector<float> states, totals;  // of each query: of the chunk, and of all chunks so far
};

// One thread's attention in one layer.
class Attention {
 public:
  // queries [tokens][heads][head_dim] bf16; out has as many rows
  Attention(const AttentionPlan& plan, const Shape& shape, const Pages& pages, const bf16* queries, Activations& out, float* partials, Scratch& scratch)
      : plan_(plan), shape_(shape), pages_(pages), queries_(queries), out_(out), partials_(partials), scratch_(scratch) {}

  int n_pieces() const { return static_cast<int>(plan_.items.size()) * shape_.n_kv_heads; }

  // One KV head of one item.
  void run(int piece) {
    const Item& item = plan_.items[piece / shape_.n_kv_heads];
    const int kv_head = piece % shape_.n_kv_heads, stride = shape_.partial(), first_head = kv_head * shape_.group();
    begin(item, kv_head);
    Places now = places(scratch_.reads[0], kv_head);
    auto read = scratch_.reads.cbegin();
    for (int chunk = item.first_chunk; chunk < item.last_chunk; ++chunk) {
      clear(scratch_.states);
      for (; read != scratch_.reads.cend() && read->block < (chunk + 1) * kChunkBlocks; ++read) {
        const Places next = read + 1 == scratch_.reads.cend() ? first_places(piece + 1) : places(read[1], kv_head);
        gather(now, next);
        for (int done = 0; done < read->n; done += kTogether)
          with_rows(std::min(kTogether, read->n - done), [&]<int R>() { update<R>(read->query + done, read->block * kBlock, now.n); });
        now = next;
      }
      for (int q = 0; q < n_queries_; ++q) merge(&scratch_.totals[q * stride], &scratch_.states[q * stride]);
    }
    int q = 0;
    for (int t = item.begin; t < item.end; ++t) {
      const Tile& tile = plan_.tiles[t];
      for (int i = 0; i < tile.n; ++i)
        for (int h = 0; h < shape_.group(); ++h, ++q)
          if (tile.is_split()) std::memcpy(partial(tile, item.first_chunk, i, first_head + h), &scratch_.states[q * stride], stride * sizeof(float));
          else write(&scratch_.totals[q * stride], tile.token + i, first_head + h);
    }
  }

  // A token of a split tile: the chunks of each head become its output.
  void finish(const Tile& tile, int i) {
    std::vector<float>& total = scratch_.totals;
    n_queries_ = 1;
    grow(total, shape_.partial());
    for (int head = 0; head < shape_.n_heads; ++head) {
      clear(total);
      for (int chunk = tile.first_chunk(); chunk < tile.end_chunk(); ++chunk) merge(total.data(), partial(tile, chunk, i, head));
      write(total.data(), tile.token + i, head);
    }
  }

 private:
  static constexpr float kLowest = -1e30f;  // finite: the difference of two of them must not be NaN

  float* partial(const Tile& tile, int chunk, int i, int head) {
    return partials_ + ((static_cast<size_t>(tile.partial) + (chunk - tile.first_chunk()) * tile.n + i) * shape_.n_heads + head) * shape_.partial();
  }

  void begin(const Item& item, int kv_head) {
    const int dim = shape_.head_dim, group = shape_.group();
    n_queries_ = 0;
    for (int t = item.begin; t < item.end; ++t) n_queries_ += plan_.tiles[t].n * group;
    grow(scratch_.queries, n_queries_ * dim);
    grow(scratch_.position, n_queries_);
    grow(scratch_.states, n_queries_ * shape_.partial());
    grow(scratch_.totals, n_queries_ * shape_.partial());
    grow(scratch_.keys, kBlock * dim);
    grow(scratch_.values, kBlock * shape_.width());
    int q = 0;
    for (int t = item.begin; t < item.end; ++t)
      for (int i = 0; i < plan_.tiles[t].n; ++i)
        for (int h = 0; h < group; ++h, ++q) {
          const size_t place = static_cast<size_t>(plan_.tiles[t].token + i) * shape_.n_heads + kv_head * group + h;
          scratch_.position[q] = plan_.tiles[t].start + i;
          std::memcpy(&scratch_.queries[q * dim], queries_ + place * dim, dim * sizeof(bf16));
        }
    clear(scratch_.totals);
    list(item);
  }

  void clear(std::vector<float>& states) {
    std::fill(states.begin(), states.begin() + n_queries_ * shape_.partial(), 0.0f);
    for (int q = 0; q < n_queries_; ++q) states[q * shape_.partial() + shape_.width() + kLanes] = kLowest;
  }

  // What the item reads; those that share a block read it together.
  void list(const Item& item) {
    scratch_.reads.clear();
    for (int block = item.first_chunk * kChunkBlocks; block < item.last_chunk * kChunkBlocks; ++block)
      for (int t = item.begin, q = 0; t < item.end;) {
        const Tile& tile = plan_.tiles[t];
        int n = tile.n * shape_.group(), first = tile.first;
        for (++t; t < item.end && plan_.tiles[t].n_shared > block; ++t) {
          n += plan_.tiles[t].n * shape_.group();
          first = std::min(first, plan_.tiles[t].first);
        }
        if (block * kBlock < tile.end() && first < (block + 1) * kBlock) scratch_.reads.push_back({&tile, block, q, n, first});
        q += n;
      }
  }

  // Where the keys of a block lie, and its values likewise. Places beyond the n-th are those of the n-th, and those before the first
  // that is read are its: no query sees them.
  struct Places {
    int n = 0;
    size_t at[kBlock] = {};
  };

  Places places(const Read& read, int kv_head) const {
    const Tile& tile = *read.tile;
    const int first = read.block * kBlock;
    const size_t slot = static_cast<size_t>(shape_.n_kv_heads) * shape_.head_dim;
    Places found;
    found.n = std::min(kBlock, tile.end() - first);
    const int32_t* page = tile.pages + first / shape_.page_size;
    for (int i = 0, at = first % shape_.page_size; i < found.n; ++i) {
      found.at[i] = (static_cast<size_t>(*page) * shape_.page_size + at) * slot + kv_head * shape_.head_dim;
      if (++at == shape_.page_size) at = 0, ++page;
    }
    std::fill(found.at + found.n, found.at + kBlock, found.at[found.n - 1]);
    if (read.first > first) std::fill(found.at, found.at + read.first - first, found.at[read.first - first]);
    return found;
  }

  // Of the first block of a piece, if there is one.
  Places first_places(int piece) const {
    if (piece == n_pieces()) return {};
    const Item& item = plan_.items[piece / shape_.n_kv_heads];
    const Tile& tile = plan_.tiles[item.begin];
    const int block = std::max(item.first_chunk * kChunkBlocks, tile.first / kBlock);
    return places({&tile, block, 0, 0, tile.first}, piece % shape_.n_kv_heads);
  }

  // Keys as [dim / 2][64][2], values as [32][width][2]. Slots follow each other in no order that the hardware could foresee: memory
  // works on the next block meanwhile.
  void gather(const Places& now, const Places& next) {
    const bf16 *keys = pages_.keys, *values = pages_.values;
    for (int d = 0; d < shape_.head_dim; d += 32) {
      bf16* key_panel = &scratch_.keys[d / 2 * 2 * kBlock];
      for (int i = 0; i < kBlock; i += kLanes) {
        Ints rows[kLanes];
        for (int r = 0; r < kLanes; ++r) {
          rows[r] = load_ints(keys + now.at[i + r] + d);
          _mm_prefetch(keys + next.at[i + r] + d, _MM_HINT_T0);
        }
        transpose_16x16(rows);
        for (int r = 0; r < kLanes; ++r) store_ints(key_panel + r * 2 * kBlock + i * 2, rows[r]);
      }
      bf16* pair = value_pair(0, d);
      for (int i = 0; i < kBlock; i += 2, pair += 128) {
        const Ints a = load_ints(values + now.at[i] + d), b = load_ints(values + now.at[i + 1] + d);
        _mm_prefetch(values + next.at[i] + d, _MM_HINT_T0);
        _mm_prefetch(values + next.at[i + 1] + d, _MM_HINT_T0);
        const Interleaved pairs = interleave(a, b);
        store_ints(pair, pairs.low);
        store_ints(pair + 32, pairs.high);
      }
    }
  }

  // The panel of values is one of 64 columns for each 64 dimensions; zeros beyond the last, which nothing is ever written to.
  bf16* value_pair(int pair, int d) { return &scratch_.values[d / 64 * 64 * kBlock + pair * 128 + d % 64 * 2]; }

  // R queries from `q` on take in the block that begins at key `first`.
  template <int R>
  void update(int q, int first, int n_keys) {
    const int dim = shape_.head_dim, width = shape_.width(), stride = shape_.partial();
    float* states = &scratch_.states[q * stride];
    alignas(64) float maximum[kLanes] = {}, keep[kLanes], negative[kLanes];  // by query
    for (int r = 0; r < R; ++r) maximum[r] = states[r * stride + width + kLanes];
    Floats scores[R][4];
    for (auto& line : scores)
      for (auto& part : line) part = zeros();
    multiply_panel<R>(scores, &scratch_.queries[q * dim], dim, scratch_.keys.data(), dim / 2);

    Floats scale = splat(kLog2e * shape_.scale);
    if (shape_.softcap > 0) {
      cap(scores[0], R * 4);
      scale = splat(kLog2e * shape_.softcap);
    }
    Floats peak[6];
    std::fill(peak, peak + 6, splat(-std::numeric_limits<float>::infinity()));
    const auto seen = [&](int r, int c) {
      const int end = scratch_.position[q + r] + 1 - first - c * kLanes;
      return shape_.window ? static_cast<Lanes>(first_lanes(end) & ~first_lanes(end - shape_.window)) : first_lanes(end);
    };
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < 4; ++c) peak[r] = max_where(seen(r, c), peak[r], scores[r][c]);
    const Floats found = choose(0xf0, maxima(peak[4], peak[5], peak[4], peak[5]), maxima(peak[0], peak[1], peak[2], peak[3]));
    const Floats before = load(maximum), now = max(mul(found, scale), before);
    store(maximum, now);
    store(negative, sub(zeros(), now));
    store(keep, exp2_of(sub(before, now)));

    alignas(64) bf16 weights[R][kBlock];
    for (int r = 0; r < R; ++r) {
      float* sum = states + r * stride + width;
      Floats total = mul(load(sum), splat(keep[r]));
      for (int c = 0; c < 4; ++c) {
        const Floats weight = exp2_of(fmadd(scores[r][c], scale, splat(negative[r])), seen(r, c));
        store_bf16(&weights[r][c * kLanes], weight);
        total = add(total, weight);
      }
      store(sum, total);
      sum[kLanes] = maximum[r];
    }
    for (int d = 0; d < width; d += 64) {
      Floats sum[R][4];
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < 4; ++c) sum[r][c] = mul(load(states + r * stride + d + c * kLanes), splat(keep[r]));
      multiply_panel<R>(sum, weights[0], kBlock, value_pair(0, d), (n_keys + 1) / 2);
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < 4; ++c) store(states + r * stride + d + c * kLanes, sum[r][c]);
    }
  }

  // Scores become the tanh of their share of the cap.
  [[gnu::noinline]] void cap(Floats* scores, int n) const {
    for (int i = 0; i < n; ++i) scores[i] = tanh_of(mul(scores[i], splat(shape_.scale / shape_.softcap)));
  }

  // Outputs and sums to one maximum.
  void merge(float* total, const float* part) const {
    const int end = shape_.width() + kLanes;
    const float maximum = std::max(total[end], part[end]);
    const Floats keep = exp2_of(splat(total[end] - maximum)), take = exp2_of(splat(part[end] - maximum));
    for (int d = 0; d < end; d += kLanes)
      store(total + d, fmadd(load(part + d), take, mul(load(total + d), keep)));
    total[end] = maximum;
  }

  void write(const float* total, int token, int head) {
    const Floats inverse = splat(1.0f / sum_of(load(total + shape_.width())));
    const auto value = [&](int d) { return mul(load(total + d), inverse); };
    for (int d = 0; d < shape_.head_dim; d += kGroup) out_.put(token, head * shape_.head_dim + d, value(d), value(d + kLanes));
  }

  template <class T>
  static void grow(std::vector<T>& v, size_t n) {
    if (v.size() < n) v.resize(n);
  }

  friend void attend(Member& me, Attention mine);

  const AttentionPlan& plan_;
  const Shape& shape_;
  const Pages pages_;
  const bf16* queries_;
  Activations& out_;
  float* partials_;
  Scratch& scratch_;
  int n_queries_ = 0;
};

// Two phases: all items, then the tokens whose chunks have to be merged.
inline void attend(Member& me, Attention mine) {
  const AttentionPlan& plan = mine.plan_;
  me.share(mine.n_pieces(), 1, [&](int i) { mine.run(i); }, !plan.tiles[plan.items[0].begin].is_split());
  me.share(static_cast<int>(plan.split.size()), 1, [&](int i) { mine.finish(plan.tiles[plan.split[i].first], plan.split[i].second); });
}

}  // namespace sgl

// Attention on the CPU and its gradient, a tile of scores at a time, in fp32 whatever elements are: what is narrow is widened a
// head at a time and rounded once. Tiles above the diagonal are left out.
//
// How heads are cut into tiles depends on their sizes alone: the number of threads changes no bit.

#include "blas.h"
#include "gaps.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <limits>

using at::Tensor;
using namespace meshwright;

namespace {

// Queries and keys of a tile.
constexpr int64_t QUERIES = 64, KEYS = 512;

// Heads of a tensor [batch, heads, tokens, width].
struct Heads {
  Row start;
  int64_t batch, head, line, count, tokens, width;

  explicit Heads(const Tensor& t)
      : start(t), batch(t.stride(0)), head(t.stride(1)), line(t.stride(2)), count(t.size(1)), tokens(t.size(2)),
        width(t.size(3)) {}

  // A head's rows from a token on.
  Row at(int64_t sequence, int64_t head, int64_t token) const {
    return start.at(sequence * batch + head * this->head + token * line);
  }
};

// What both directions are told.
struct Told {
  Heads q, k, v;
  bool causal;
  // What is added to scores, [queries, keys], or nothing.
  const float* mask;
  float scale;

  Told(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, const Tensor* mask)
      : q(q), k(k), v(v), causal(causal), mask(mask ? mask->const_data_ptr<float>() : nullptr),
        scale(1.0f / std::sqrt(static_cast<float>(this->q.width))) {}

  // Query heads that share keys.
  int64_t group() const { return q.count / k.count; }
  // How many keys a tile of queries sees, at most.
  int64_t seen(int64_t query, int64_t rows) const { return causal ? std::min(k.tokens, query + rows) : k.tokens; }
  const float* masks(int64_t query, int64_t key) const { return mask ? mask + query * k.tokens + key : nullptr; }
};

// A tile of scores.
struct Tile {
  float* scores;
  int64_t query, rows, key, keys;

  Tile(const Told& told, float* scores, int64_t query, int64_t rows, int64_t key)
      : scores(scores), query(query), rows(rows), key(key), keys(std::min(KEYS, told.seen(query, rows) - key)) {}

  // Keys that a row sees.
  int64_t seen(bool causal, int64_t row) const {
    return causal ? std::clamp<int64_t>(query + row + 1 - key, 0, keys) : keys;
  }
};

// Memory of a thread's own, handed out part by part.
struct Space {
  float* next;
  float* take(int64_t floats) { return std::exchange(next, next + floats); }
};

// Rows of a head as floats: where they lie, or widened.
VECTORS Matrix floats(const Heads& heads, int64_t sequence, int64_t head, int64_t first, int64_t rows, float* space) {
  Row from = heads.at(sequence, head, first);
  if (!from.narrow) return {reinterpret_cast<const float*>(from.start), heads.line};
  for (int64_t row = 0; row < rows; ++row) load(from.at(row * heads.line), space + row * heads.width, heads.width);
  return {space, heads.width};
}

INLINE float greatest_of(const float* values, int64_t n) {
  float lanes[LANES];
  std::fill_n(lanes, LANES, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  float greatest = lanes[0];
  for (float lane : lanes) greatest = std::max(greatest, lane);
  for (; i < n; ++i) greatest = std::max(greatest, values[i]);
  return greatest;
}

// x = e^(x − less), and its sum.
INLINE float exponentials(float* values, float less, int64_t n) {
  float lanes[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) {
      values[i + lane] = exponential(values[i + lane] - less);
      lanes[lane] += values[i + lane];
    }
  float sum = 0;
  for (float lane : lanes) sum += lane;
  for (; i < n; ++i) sum += values[i] = exponential(values[i] - less);
  return sum;
}

INLINE void add(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// Scores become weights beside each row's greatest score so far; earlier sums and results shrink to it.
VECTORS void soften(Tile t, bool causal, const float* mask, int64_t line, float* greatest, float* sums, float* made,
                    int64_t width) {
  for (int64_t row = 0; row < t.rows; ++row) {
    float* scores = t.scores + row * KEYS;
    int64_t seen = t.seen(causal, row);
    std::fill(scores + seen, scores + t.keys, 0.0f);
    if (seen == 0) continue;
    if (mask) add(mask + row * line, scores, seen);
    float most = std::max(greatest[row], greatest_of(scores, seen)), sum = exponentials(scores, most, seen);
    if (t.key > 0) {
      float shrink = exponential(greatest[row] - most);
      for (int64_t i = 0; i < width; ++i) made[row * width + i] *= shrink;
      sum += sums[row] * shrink;
    }
    greatest[row] = most;
    sums[row] = sum;
  }
}

// Scores become weights, and gradients of weights those of scores, `share` being Σ gradient · weight of a row.
VECTORS void spread(Tile t, bool causal, const float* mask, int64_t line, const float* lse, const float* shares,
                    float scale, float* gradients) {
  for (int64_t row = 0; row < t.rows; ++row) {
    float *__restrict weights = t.scores + row * KEYS, *__restrict d = gradients + row * KEYS;
    int64_t seen = t.seen(causal, row);
    if (mask) add(mask + row * line, weights, seen);
    for (int64_t i = 0; i < seen; ++i) {
      weights[i] = exponential(weights[i] - lse[row]);
      d[i] = weights[i] * (d[i] - shares[row]) * scale;
    }
    std::fill(weights + seen, weights + t.keys, 0.0f);
    std::fill(d + seen, d + t.keys, 0.0f);
  }
}

// Results of rows, each divided by its sum.
VECTORS void give(float* made, const float* sums, int64_t rows, int64_t width, Row to, int64_t line) {
  for (int64_t row = 0; row < rows; ++row) {
    float* values = made + row * width;
    for (int64_t i = 0; i < width; ++i) values[i] /= sums[row];
    store(values, to.at(row * line), width);
  }
}

// Results of rows, put or added.
VECTORS void give(float* made, bool adds, int64_t rows, Heads to, Row place, float* space) {
  for (int64_t row = 0; row < rows; ++row) {
    float* values = made + row * to.width;
    if (adds) {
      load(place.at(row * to.line), space, to.width);
      add(space, values, to.width);
    }
    store(values, place.at(row * to.line), to.width);
  }
}

VECTORS void shares_of(Matrix a, Matrix b, int64_t rows, int64_t width, float* shares) {
  for (int64_t row = 0; row < rows; ++row) shares[row] = dot(a.start + row * a.line, b.start + row * b.line, width);
}

// Results of a tile of queries, and each one's log Σ e^score.
void forward(const Told& told, int64_t sequence, int64_t head, int64_t query, Matrix k, Matrix v, const Heads& out,
             float* lse, int64_t lse_line, Space space) {
  int64_t rows = std::min(QUERIES, told.q.tokens - query), width = told.q.width, seen = told.seen(query, rows);
  Matrix q = floats(told.q, sequence, head, query, rows, space.take(rows * width));
  float *made = space.take(rows * width), *scores = space.take(rows * KEYS);
  float *greatest = space.take(rows), *sums = space.take(rows);
  std::fill_n(greatest, rows, -std::numeric_limits<float>::infinity());
  for (int64_t key = 0; key < seen; key += KEYS) {
    Tile tile(told, scores, query, rows, key);
    Matrix keys{k.start + key * k.line, k.line}, values{v.start + key * v.line, v.line};
    product(false, q, true, keys, told.scale, 0, scores, KEYS, rows, tile.keys, width);
    soften(tile, told.causal, told.masks(query, key), told.k.tokens, greatest, sums, made, width);
    product(false, {scores, KEYS}, false, values, 1, key > 0, made, width, rows, width, tile.keys);
  }
  give(made, sums, rows, width, out.at(sequence, head, query), out.line);
  for (int64_t row = 0; row < rows; ++row) lse[row * lse_line] = greatest[row] + std::log(sums[row]);
}

// What the gradient is told besides, and where it goes.
struct Back {
  Heads out, dout, dq, dk, dv;
  const Tensor& lse;
  bool adds;
};

// Gradients of a tile of queries; those of keys and values are added to sums.
void backward(const Told& told, const Back& back, int64_t sequence, int64_t head, int64_t query, Matrix k, Matrix v,
              float* dk, float* dv, Space space) {
  int64_t rows = std::min(QUERIES, told.q.tokens - query), width = told.q.width, seen = told.seen(query, rows);
  auto of = [&](const Heads& heads) {
    return floats(heads, sequence, head, query, rows, space.take(rows * width));
  };
  Matrix q = of(told.q), out = of(back.out), dout = of(back.dout);
  float *dq = space.take(rows * width), *scores = space.take(rows * KEYS), *gradients = space.take(rows * KEYS);
  float *shares = space.take(rows), *lse = space.take(rows);
  shares_of(out, dout, rows, width, shares);
  auto* from = back.lse.const_data_ptr<float>() + sequence * back.lse.stride(0) + head * back.lse.stride(1);
  for (int64_t row = 0; row < rows; ++row) lse[row] = from[(query + row) * back.lse.stride(2)];
  for (int64_t key = 0; key < seen; key += KEYS) {
    Tile tile(told, scores, query, rows, key);
    Matrix keys{k.start + key * k.line, k.line}, values{v.start + key * v.line, v.line};
    Matrix weights{scores, KEYS}, d{gradients, KEYS};
    product(false, q, true, keys, told.scale, 0, scores, KEYS, rows, tile.keys, width);
    product(false, dout, true, values, 1, 0, gradients, KEYS, rows, tile.keys, width);
    spread(tile, told.causal, told.masks(query, key), told.k.tokens, lse, shares, told.scale, gradients);
    product(false, d, false, keys, 1, key > 0, dq, width, rows, width, tile.keys);
    product(true, d, false, q, 1, 1, dk + key * width, width, tile.keys, width, rows);
    product(true, weights, false, dout, 1, 1, dv + key * width, width, tile.keys, width, rows);
  }
  give(dq, back.adds, rows, back.dq, back.dq.at(sequence, head, query), scores);
}

// Gradients of a head of keys and of the query heads that share it.
void backward(const Told& told, const Back& back, int64_t sequence, int64_t kv, Space space) {
  int64_t tokens = told.k.tokens, width = told.q.width;
  Matrix k = floats(told.k, sequence, kv, 0, tokens, space.take(tokens * width));
  Matrix v = floats(told.v, sequence, kv, 0, tokens, space.take(tokens * width));
  float *dk = space.take(tokens * width), *dv = space.take(tokens * width);
  std::fill_n(dk, tokens * width, 0.0f);
  std::fill_n(dv, tokens * width, 0.0f);
  for (int64_t head = kv * told.group(); head < (kv + 1) * told.group(); ++head)
    for (int64_t query = 0; query < told.q.tokens; query += QUERIES)
      backward(told, back, sequence, head, query, k, v, dk, dv, space);
  give(dk, false, tokens, back.dk, back.dk.at(sequence, kv, 0), nullptr);
  give(dv, false, tokens, back.dv, back.dv.at(sequence, kv, 0), nullptr);
}

// Floats of as many matrices of a head's keys, and of a tile.
int64_t room(const Told& told, int64_t of_keys, int64_t of_queries, int64_t tiles) {
  int64_t width = told.q.width;
  return of_keys * told.k.tokens * width + QUERIES * (of_queries * width + tiles * KEYS + 2);
}

// As much for every thread, from the rank's working memory.
Tensor spaces(const Tensor& like, int64_t floats) {
  return at::empty({at::get_num_threads(), floats}, like.options().dtype(at::kFloat));
}

}  // namespace

extern "C" {

// q, out [batch, heads, queries, width], k, v [batch, key heads, keys, width], in fp32 or bf16; lse [batch, heads, queries].
bool gaps_cpu_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, const Tensor* mask,
                        const Tensor* out, const Tensor* lse) {
  return attempt([&] {
    Told told(*q, *k, *v, causal, mask);
    Heads to(*out);
    int64_t tokens = told.k.tokens, width = told.q.width, tiles = (told.q.tokens + QUERIES - 1) / QUERIES;
    Tensor memory = spaces(*q, room(told, 2, 2, 1));
    at::parallel_for(0, q->size(0) * told.q.count * tiles, 1, [&](int64_t first, int64_t last) {
      Space space{memory.mutable_data_ptr<float>() + at::get_thread_num() * memory.size(1)};
      float *of_keys = space.take(tokens * width), *of_values = space.take(tokens * width);
      Matrix keys, values;
      for (int64_t item = first, held = -1; item < last; ++item) {
        int64_t sequence = item / tiles / told.q.count, head = item / tiles % told.q.count, kv = head / told.group();
        if (std::exchange(held, sequence * told.k.count + kv) != sequence * told.k.count + kv) {
          keys = floats(told.k, sequence, kv, 0, tokens, of_keys);
          values = floats(told.v, sequence, kv, 0, tokens, of_values);
        }
        int64_t query = item % tiles * QUERIES;
        float* sums = lse->mutable_data_ptr<float>() + sequence * lse->stride(0) + head * lse->stride(1);
        forward(told, sequence, head, query, keys, values, to, sums + query * lse->stride(2), lse->stride(2), space);
      }
    });
  });
}

// Gradients; that of queries is added to what is there, if `adds`.
bool gaps_cpu_attention_grad(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* out, const Tensor* lse,
                             const Tensor* dout, bool causal, const Tensor* mask, bool adds, const Tensor* dq,
                             const Tensor* dk, const Tensor* dv) {
  return attempt([&] {
    Told told(*q, *k, *v, causal, mask);
    Back back{Heads(*out), Heads(*dout), Heads(*dq), Heads(*dk), Heads(*dv), *lse, adds};
    Tensor memory = spaces(*q, room(told, 4, 4, 2));
    at::parallel_for(0, q->size(0) * told.k.count, 1, [&](int64_t first, int64_t last) {
      Space space{memory.mutable_data_ptr<float>() + at::get_thread_num() * memory.size(1)};
      for (int64_t item = first; item < last; ++item)
        backward(told, back, item / told.k.count, item % told.k.count, space);
    });
  });
}

}  // extern "C"

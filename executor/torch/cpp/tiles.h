// Tiles of attention's scores, row by row: what products of matrices leave to do.
#pragma once

#include "blas.h"
#include "rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace meshwright {

// Queries and keys of a tile.
constexpr int64_t QUERIES = 64, KEYS = 512;

// Heads of a tensor [batch, heads, tokens, width].
struct Heads {
  Row start;
  int64_t batch, head, line, count, tokens, width;

  explicit Heads(const at::Tensor& t)
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

  Told(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal, const at::Tensor* mask)
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

// Rows of a head for products: where they lie, or widened where fp32 is no slower.
VECTORS static Matrix rows_of(const Heads& heads, int64_t sequence, int64_t head, int64_t first, int64_t rows,
                              float* space) {
  Row from = heads.at(sequence, head, first);
  if (!from.narrow || prefers_bf16()) return {from.start, heads.line, from.narrow};
  for (int64_t row = 0; row < rows; ++row) load(from.at(row * heads.line), space + row * heads.width, heads.width);
  return {space, heads.width};
}

// A tile for products with rows: as it is, or in bf16 with what rounding leaves of it, so that sums are as of floats.
VECTORS static Matrix like(const Matrix& rows, const float* tile, int64_t count, int64_t keys, float* space) {
  if (!rows.narrow) return {tile, KEYS};
  auto *near = reinterpret_cast<uint16_t*>(space), *rest = near + count * KEYS;
  for (int64_t row = 0; row < count; ++row)
    for (int64_t i = row * KEYS; i < row * KEYS + keys; ++i) {
      near[i] = narrowed(tile[i]);
      rest[i] = narrowed(tile[i] - widened(near[i]));
    }
  return {near, KEYS, true, rest};
}

INLINE float greatest_of(const float* values, int64_t n) {
  float lanes[LANES];
  std::fill_n(lanes, LANES, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) lanes[lane] = std::max(lanes[lane], values[i + lane]);
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
VECTORS static void soften(Tile t, bool causal, const float* mask, int64_t line, float* greatest, float* sums, float* made,
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
VECTORS static void spread(Tile t, bool causal, const float* mask, int64_t line, const float* lse, const float* shares,
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
VECTORS static void give(float* made, const float* sums, int64_t rows, int64_t width, Row to, int64_t line) {
  for (int64_t row = 0; row < rows; ++row) {
    float* values = made + row * width;
    for (int64_t i = 0; i < width; ++i) values[i] /= sums[row];
    store(values, to.at(row * line), width);
  }
}

// Results of rows, put or added.
VECTORS static void give(float* made, bool adds, int64_t rows, Heads to, Row place, float* space) {
  for (int64_t row = 0; row < rows; ++row) {
    float* values = made + row * to.width;
    if (adds) {
      load(place.at(row * to.line), space, to.width);
      add(space, values, to.width);
    }
    store(values, place.at(row * to.line), to.width);
  }
}

// Σ a · b of each row.
VECTORS static void shares_of(Row a, int64_t a_line, Row b, int64_t b_line, int64_t rows, int64_t width, float* shares,
                              float* space) {
  for (int64_t row = 0; row < rows; ++row) {
    load(a.at(row * a_line), space, width);
    load(b.at(row * b_line), space + width, width);
    shares[row] = dot(space, space + width, width);
  }
}

}  // namespace meshwright

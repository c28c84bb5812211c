// Attention on the CPU and its gradient, a tile of scores at a time, summed in fp32 and rounded once whatever elements are.
// Tiles above the diagonal are left out.
//
// How heads are cut into tiles depends on their sizes alone: the number of threads changes no bit.

#include "ffi.h"
#include "tiles.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <utility>

using at::Tensor;
using namespace meshwright;

namespace {

// Memory of a thread's own, handed out part by part.
struct Space {
  float* next;
  float* take(int64_t floats) { return std::exchange(next, next + floats); }
};

// Results of a tile of queries, and each one's log Σ e^score.
void forward(const Told& told, int64_t sequence, int64_t head, int64_t query, Matrix k, Matrix v, const Heads& out,
             float* lse, int64_t lse_line, Space space) {
  int64_t rows = std::min(QUERIES, told.q.tokens - query), width = told.q.width, seen = told.seen(query, rows);
  Matrix q = rows_of(told.q, sequence, head, query, rows, space.take(rows * width));
  float *made = space.take(rows * width), *scores = space.take(rows * KEYS), *halves = space.take(rows * KEYS);
  float *greatest = space.take(rows), *sums = space.take(rows);
  std::fill_n(greatest, rows, -std::numeric_limits<float>::infinity());
  for (int64_t key = 0; key < seen; key += KEYS) {
    Tile tile(told, scores, query, rows, key);
    product(false, q, true, k.from(key), told.scale, 0, scores, KEYS, rows, tile.keys, width);
    soften(tile, told.causal, told.masks(query, key), told.k.tokens, greatest, sums, made, width);
    Matrix weights = like(v, scores, rows, tile.keys, halves);
    product(false, weights, false, v.from(key), 1, key > 0, made, width, rows, width, tile.keys);
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
  Matrix q = rows_of(told.q, sequence, head, query, rows, space.take(rows * width));
  Matrix dout = rows_of(back.dout, sequence, head, query, rows, space.take(rows * width));
  float *dq = space.take(rows * width), *scores = space.take(rows * KEYS), *gradients = space.take(rows * KEYS);
  float *of_scores = space.take(rows * KEYS), *of_gradients = space.take(rows * KEYS);
  float *shares = space.take(rows), *lse = space.take(rows), *two_rows = space.take(2 * width);
  shares_of(back.out.at(sequence, head, query), back.out.line, back.dout.at(sequence, head, query), back.dout.line, rows,
            width, shares, two_rows);
  auto* from = back.lse.const_data_ptr<float>() + sequence * back.lse.stride(0) + head * back.lse.stride(1);
  for (int64_t row = 0; row < rows; ++row) lse[row] = from[(query + row) * back.lse.stride(2)];
  for (int64_t key = 0; key < seen; key += KEYS) {
    Tile tile(told, scores, query, rows, key);
    product(false, q, true, k.from(key), told.scale, 0, scores, KEYS, rows, tile.keys, width);
    product(false, dout, true, v.from(key), 1, 0, gradients, KEYS, rows, tile.keys, width);
    spread(tile, told.causal, told.masks(query, key), told.k.tokens, lse, shares, told.scale, gradients);
    Matrix weights = like(q, scores, rows, tile.keys, of_scores), d = like(q, gradients, rows, tile.keys, of_gradients);
    product(false, d, false, k.from(key), 1, key > 0, dq, width, rows, width, tile.keys);
    product(true, d, false, q, 1, 1, dk + key * width, width, tile.keys, width, rows);
    product(true, weights, false, dout, 1, 1, dv + key * width, width, tile.keys, width, rows);
  }
  give(dq, back.adds, rows, back.dq, back.dq.at(sequence, head, query), two_rows);
}

// Gradients of a head of keys and of the query heads that share it.
void backward(const Told& told, const Back& back, int64_t sequence, int64_t kv, Space space) {
  int64_t tokens = told.k.tokens, width = told.q.width;
  Matrix k = rows_of(told.k, sequence, kv, 0, tokens, space.take(tokens * width));
  Matrix v = rows_of(told.v, sequence, kv, 0, tokens, space.take(tokens * width));
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
  return of_keys * told.k.tokens * width + QUERIES * (of_queries * width + tiles * KEYS + 2) + 2 * width;
}

// As much for every thread, from the rank's working memory.
Tensor spaces(const Tensor& like, int64_t floats) {
  return at::empty({at::get_num_threads(), floats}, like.options().dtype(at::kFloat));
}

}  // namespace

extern "C" {

// q, out [batch, heads, queries, width], k, v [batch, key heads, keys, width], in fp32 or bf16; lse [batch, heads, queries].
bool ffi_cpu_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, const Tensor* mask,
                        const Tensor* out, const Tensor* lse) {
  return attempt([&] {
    Told told(*q, *k, *v, causal, mask);
    Heads to(*out);
    int64_t tokens = told.k.tokens, width = told.q.width, tiles = (told.q.tokens + QUERIES - 1) / QUERIES;
    Tensor memory = spaces(*q, room(told, 2, 2, 2));
    at::parallel_for(0, q->size(0) * told.q.count * tiles, 1, [&](int64_t first, int64_t last) {
      Space space{memory.mutable_data_ptr<float>() + at::get_thread_num() * memory.size(1)};
      float *of_keys = space.take(tokens * width), *of_values = space.take(tokens * width);
      Matrix keys, values;
      for (int64_t item = first, held = -1; item < last; ++item) {
        int64_t sequence = item / tiles / told.q.count, head = item / tiles % told.q.count, kv = head / told.group();
        if (std::exchange(held, sequence * told.k.count + kv) != sequence * told.k.count + kv) {
          keys = rows_of(told.k, sequence, kv, 0, tokens, of_keys);
          values = rows_of(told.v, sequence, kv, 0, tokens, of_values);
        }
        int64_t query = item % tiles * QUERIES;
        float* sums = lse->mutable_data_ptr<float>() + sequence * lse->stride(0) + head * lse->stride(1);
        forward(told, sequence, head, query, keys, values, to, sums + query * lse->stride(2), lse->stride(2), space);
      }
    });
  });
}

// Gradients; that of queries is added to what is there, if `adds`.
bool ffi_cpu_attention_grad(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* out, const Tensor* lse,
                             const Tensor* dout, bool causal, const Tensor* mask, bool adds, const Tensor* dq,
                             const Tensor* dk, const Tensor* dv) {
  return attempt([&] {
    Told told(*q, *k, *v, causal, mask);
    Back back{Heads(*out), Heads(*dout), Heads(*dq), Heads(*dk), Heads(*dv), *lse, adds};
    Tensor memory = spaces(*q, room(told, 4, 3, 4));
    at::parallel_for(0, q->size(0) * told.k.count, 1, [&](int64_t first, int64_t last) {
      Space space{memory.mutable_data_ptr<float>() + at::get_thread_num() * memory.size(1)};
      for (int64_t item = first; item < last; ++item)
        backward(told, back, item / told.k.count, item % told.k.count, space);
    });
  });
}

}  // extern "C"

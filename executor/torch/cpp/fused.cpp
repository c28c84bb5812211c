// The CPU's kernels that ATen has only in pieces: each op goes over its rows once, computes in fp32 and rounds once. Plain
// loops, which the compiler turns into vectors for the processors it knows.
//
// Sums over rows go by blocks of a fixed size, added in order: the number of threads changes no bit.

#include "ffi.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

using at::Tensor;
using namespace meshwright;

namespace {

// Rows of floats, one after another, in memory of the thread's own.
float* rows(int64_t count, int64_t cols) {
  thread_local std::vector<float> memory;
  if (memory.size() < static_cast<size_t>(count * cols)) memory.resize(count * cols);
  return memory.data();
}

VECTORS void swiglu(Row u, Row out, int64_t from, int64_t to, int64_t cols, float* space) {
  for (int64_t row = from; row < to; ++row) {
    const float* gate = seen(u.at(2 * row * cols), space, 2 * cols);
    const float* up = gate + cols;
    float* __restrict made = made_at(out.at(row * cols), space + 2 * cols);
    for (int64_t i = 0; i < cols; ++i) made[i] = up[i] * gate[i] / (1.0f + exponential(-gate[i]));
    keep(made, out.at(row * cols), cols);
  }
}

VECTORS void swiglu_grad(Row u, Row dout, Row du, int64_t from, int64_t to, int64_t cols, float* space) {
  for (int64_t row = from; row < to; ++row) {
    const float *gate = seen(u.at(2 * row * cols), space, 2 * cols), *up = gate + cols;
    const float* d = seen(dout.at(row * cols), space + 2 * cols, cols);
    float* __restrict made = made_at(du.at(2 * row * cols), space + 3 * cols);
    float* __restrict made_up = made + cols;
    for (int64_t i = 0; i < cols; ++i) {
      float share = 1.0f / (1.0f + exponential(-gate[i])), silu = gate[i] * share;
      made[i] = d[i] * up[i] * (share + silu * (1.0f - share));
      made_up[i] = d[i] * silu;
    }
    keep(made, du.at(2 * row * cols), 2 * cols);
  }
}

VECTORS void rms_norm(Row x, const float* gain, Row y, float* stats, float eps, int64_t from, int64_t to, int64_t cols,
                      float* space) {
  for (int64_t row = from; row < to; ++row) {
    const float* values = seen(x.at(row * cols), space, cols);
    float* __restrict made = made_at(y.at(row * cols), space + cols);
    float rstd = 1.0f / std::sqrt(dot(values, values, cols) / cols + eps);
    for (int64_t i = 0; i < cols; ++i) made[i] = values[i] * (rstd * gain[i]);
    keep(made, y.at(row * cols), cols);
    stats[2 * row] = 0;
    stats[2 * row + 1] = rstd;
  }
}

// With x̂ = x/σ: dgain += Σ dy·x̂, dx (+)= (gain·dy − x̂·mean(gain·dy·x̂))/σ.
VECTORS void rms_norm_grad(Row x, const float* gain, const float* stats, Row dy, Row dx, bool accumulate, float* dgain,
                           int64_t from, int64_t to, int64_t cols, float* space) {
  float *__restrict hat = space, *__restrict d = space + cols;
  for (int64_t row = from; row < to; ++row) {
    const float *values = seen(x.at(row * cols), hat, cols), *given = seen(dy.at(row * cols), d, cols);
    float* __restrict made = made_at(dx.at(row * cols), space + 2 * cols);
    if (accumulate && dx.narrow) load(dx.at(row * cols), made, cols);
    float rstd = stats[2 * row + 1];
    for (int64_t i = 0; i < cols; ++i) {
      float of_x = values[i] * rstd, of_y = given[i];
      hat[i] = of_x;
      dgain[i] += of_y * of_x;
      d[i] = of_y * gain[i];
    }
    float mean = dot(d, hat, cols) / cols;
    if (!accumulate) std::fill_n(made, cols, 0.0f);
    for (int64_t i = 0; i < cols; ++i) made[i] += (d[i] - hat[i] * mean) * rstd;
    keep(made, dx.at(row * cols), cols);
  }
}

VECTORS void rope(Row x, const float* cos, const float* sin, float sign, int64_t from, int64_t to, int64_t stride,
                  int64_t heads, int64_t half, float* space) {
  float *__restrict low = space, *__restrict high = space + half;
  for (int64_t row = from; row < to; ++row) {
    const float *c = cos + row * half, *s = sin + row * half;
    for (int64_t head = 0; head < heads; ++head) {
      Row place = x.at(row * stride + 2 * head * half);
      load(place, low, 2 * half);
      for (int64_t i = 0; i < half; ++i) {
        float turned = low[i] * c[i] - sign * high[i] * s[i];
        high[i] = high[i] * c[i] + sign * low[i] * s[i];
        low[i] = turned;
      }
      store(low, place, 2 * half);
    }
  }
}

// AdamW of `n` elements; `kept` is what decay leaves of a weight, `rate` and `root` have the bias corrections in them.
VECTORS void adamw(const float* g, Row narrow, float* w, float* m, float* v, int64_t n, float shrink, float beta1,
                   float beta2, float rate, float root, float kept, float eps) {
  for (int64_t i = 0; i < n; ++i) {
    float d = g[i] * shrink;
    m[i] = beta1 * m[i] + (1.0f - beta1) * d;
    v[i] = beta2 * v[i] + (1.0f - beta2) * d * d;
    w[i] = kept * w[i] - rate * m[i] / (std::sqrt(v[i]) * root + eps);
  }
  if (narrow.narrow) store(w, narrow, n);
}

// Rows that a thread takes at least: 16 Ki elements.
int64_t grain(int64_t cols) { return std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(cols, 1)); }

// Rows whose sums are made apart.
constexpr int64_t BLOCK = 64;

}  // namespace

extern "C" {

// u [rows, 2 · cols], rows of [gate | up]; out [rows, cols].
bool ffi_cpu_swiglu(const Tensor* u, const Tensor* out) {
  return attempt([&] {
    Row from(*u), to(*out);
    int64_t cols = out->size(1);
    at::parallel_for(0, out->size(0), grain(cols),
                     [=](int64_t first, int64_t last) { swiglu(from, to, first, last, cols, rows(3, cols)); });
  });
}

bool ffi_cpu_swiglu_grad(const Tensor* u, const Tensor* dout, const Tensor* du) {
  return attempt([&] {
    Row from(*u), d(*dout), to(*du);
    int64_t cols = dout->size(1);
    at::parallel_for(0, dout->size(0), grain(cols),
                     [=](int64_t first, int64_t last) { swiglu_grad(from, d, to, first, last, cols, rows(5, cols)); });
  });
}

// x, y [rows, cols], gain [cols] in fp32, stats [rows, 2] in fp32.
bool ffi_cpu_rms_norm(const Tensor* x, const Tensor* gain, double eps, const Tensor* y, const Tensor* stats) {
  return attempt([&] {
    Row from(*x), to(*y);
    auto* weights = gain->const_data_ptr<float>();
    auto* kept = stats->mutable_data_ptr<float>();
    int64_t cols = x->size(1);
    at::parallel_for(0, x->size(0), grain(cols), [=](int64_t first, int64_t last) {
      rms_norm(from, weights, to, kept, static_cast<float>(eps), first, last, cols, rows(2, cols));
    });
  });
}

// dgain [cols] in fp32 is added to, and so is dx, if `accumulate`.
bool ffi_cpu_rms_norm_grad(const Tensor* x, const Tensor* gain, const Tensor* stats, const Tensor* dy, bool accumulate,
                            const Tensor* dx, const Tensor* dgain) {
  return attempt([&] {
    Row from(*x), d(*dy), to(*dx);
    auto *weights = gain->const_data_ptr<float>(), *kept = stats->const_data_ptr<float>();
    int64_t all = x->size(0), cols = x->size(1), blocks = (all + BLOCK - 1) / BLOCK;
    Tensor sums = at::zeros({blocks, cols}, dgain->options());
    auto* parts = sums.mutable_data_ptr<float>();
    at::parallel_for(0, blocks, 1, [=](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block)
        rms_norm_grad(from, weights, kept, d, to, accumulate, parts + block * cols, block * BLOCK,
                      std::min(all, (block + 1) * BLOCK), cols, rows(3, cols));
    });
    auto* sum = dgain->mutable_data_ptr<float>();
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t i = 0; i < cols; ++i) sum[i] += parts[block * cols + i];
  });
}

// Turns heads of x [rows, heads, width], whose rows are `stride` apart, by cos and sin [rows, width / 2] in fp32; back, if
// `inverse`.
bool ffi_cpu_rope(const Tensor* x, const Tensor* cos, const Tensor* sin, bool inverse) {
  return attempt([&] {
    Row heads(*x);
    auto *c = cos->const_data_ptr<float>(), *s = sin->const_data_ptr<float>();
    int64_t stride = x->stride(0), count = x->size(1), half = x->size(2) / 2;
    float sign = inverse ? -1.0f : 1.0f;
    at::parallel_for(0, x->size(0), grain(2 * count * half), [=](int64_t first, int64_t last) {
      rope(heads, c, s, sign, first, last, stride, count, half, rows(2, half));
    });
  });
}

// One update of w by g, both in fp32, and of its copy in bf16 in `narrow`; without one that is w again. The first `decayed`
// elements decay. Settings as in AdamW; `shrink` is what gradients are multiplied by.
bool ffi_cpu_adamw(const Tensor* g, const Tensor* narrow, const Tensor* w, const Tensor* m, const Tensor* v,
                    int64_t decayed, double shrink, double lr, double beta1, double beta2, double bias1, double bias2,
                    double weight_decay, double eps) {
  return attempt([&] {
    // What a thread updates at once, so that what it stored is still there when it is narrowed.
    constexpr int64_t PART = 1 << 10;
    Row copy(*narrow);
    auto* from = g->const_data_ptr<float>();
    auto floats = [](const Tensor* tensor) { return tensor->mutable_data_ptr<float>(); };
    float *weights = floats(w), *mean = floats(m), *square = floats(v);
    float rate = lr / bias1, root = 1.0 / std::sqrt(bias2), kept = 1.0 - lr * weight_decay;
    at::parallel_for(0, g->numel(), 1 << 14, [=](int64_t first, int64_t last) {
      for (int64_t at = first, end; at < last; at = end) {
        end = std::min(last, at + PART);
        if (at < decayed) end = std::min(end, decayed);
        adamw(from + at, copy.at(at), weights + at, mean + at, square + at, end - at, shrink, beta1, beta2, rate, root,
              at < decayed ? kept : 1.0f, eps);
      }
    });
  });
}

}  // extern "C"

// Kernels of libtorch that write where they are told, and operators that tch does not wrap. ATen's public operators for norms
// allocate what they give; the kernels below them, which ATen dispatches by processor, take their outputs.

#include "blas.h"
#include "ffi.h"

#include <ATen/native/layer_norm.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_fused_rms_norm_backward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/zeros.h>

#include <cmath>

namespace meshwright {
thread_local std::string problem;
}

using at::Tensor;
using meshwright::attempt;

namespace {

double scale_of(int64_t width) { return 1.0 / std::sqrt(static_cast<double>(width)); }

// Heads `[batch, heads, tokens, width]` as CUTLASS's kernels take them, each row from a multiple of 16 bytes on: others are
// copied, with zeros behind, which add nothing to scores.
Tensor aligned(const Tensor& heads) {
  int64_t unit = 16 / heads.element_size(), width = heads.size(3);
  bool fits = width % unit == 0 && reinterpret_cast<uintptr_t>(heads.const_data_ptr()) % 16 == 0;
  for (int axis = 0; axis < 3; ++axis) fits &= heads.stride(axis) % unit == 0;
  if (fits) return heads;
  int64_t padded = (width + unit - 1) / unit * unit;
  Tensor rows = at::zeros({heads.size(0), heads.size(2), heads.size(1), padded}, heads.options());
  Tensor copy = rows.transpose(1, 2);
  copy.narrow(3, 0, width).copy_(heads);
  return copy;
}

// A mask `[queries, keys]` for all heads, each row from a multiple of 16 bytes on.
std::optional<Tensor> added(const Tensor* mask, const Tensor& q, const Tensor& k) {
  if (!mask) return std::nullopt;
  int64_t keys = k.size(2);
  Tensor rows = at::zeros({q.size(2), (keys + 7) / 8 * 8}, q.options());
  rows.narrow(1, 0, keys).copy_(*mask);
  return rows.narrow(1, 0, keys).expand({q.size(0), q.size(1), q.size(2), keys});
}

}  // namespace

extern "C" {

const char* ffi_problem() { return meshwright::problem.c_str(); }

// The CPU's c = a · b, or c += a · b, of matrices or batches of them. c may be in fp32 where a and b are not.
bool ffi_cpu_matmul(const Tensor* a, const Tensor* b, bool accumulate, Tensor* c) {
  return attempt([&] { meshwright::product(*a, *b, accumulate, *c); });
}

// x, y [rows, cols], mean, rstd [rows].
bool ffi_layer_norm(const Tensor* x, const Tensor* gain, const Tensor* bias, double eps, Tensor* y, Tensor* mean,
                     Tensor* rstd) {
  return attempt([&] {
    at::native::LayerNormKernel(x->device().type(), *x, *gain, *bias, x->size(0), x->size(1), eps, y, mean, rstd);
  });
}

bool ffi_layer_norm_grad(const Tensor* dy, const Tensor* x, const Tensor* mean, const Tensor* rstd, const Tensor* gain,
                          Tensor* dx, Tensor* dgain, Tensor* dbias) {
  return attempt([&] {
    at::native::LayerNormBackwardKernel(x->device().type(), *dy, *x, *mean, *rstd, *gain, x->size(0), x->size(1), dx,
                                        dgain, dbias);
  });
}

// CUDA's: dx [rows, cols] and dgain [cols] are put into `dx` and `dgain`, undefined before.
bool ffi_rms_norm_grad(const Tensor* dy, const Tensor* x, const Tensor* rstd, const Tensor* gain, Tensor* dx,
                        Tensor* dgain) {
  return attempt([&] {
    std::tie(*dx, *dgain) = at::_fused_rms_norm_backward(*dy, *x, {x->size(1)}, *rstd, *gain, {true, true});
  });
}

// CUDA's by cuDNN: q, k, v [batch, heads, tokens, width], of 2-byte elements; `out` and `lse` are undefined before.
bool ffi_cudnn_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, Tensor* out, Tensor* lse) {
  return attempt([&] {
    auto all = at::_scaled_dot_product_cudnn_attention(*q, *k, *v, std::nullopt, true, 0.0, causal, false);
    *out = std::get<0>(all);
    *lse = std::get<1>(all);
  });
}

// CUDA's by CUTLASS, of any floats, with a mask to add or none.
bool ffi_cutlass_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, const Tensor* mask,
                            Tensor* out, Tensor* lse) {
  return attempt([&] {
    int64_t width = q->size(3);
    auto all = at::_scaled_dot_product_efficient_attention(aligned(*q), aligned(*k), aligned(*v), added(mask, *q, *k), true,
                                                           0.0, causal, scale_of(width));
    *out = std::get<0>(all).narrow(3, 0, width);
    *lse = std::get<1>(all);
  });
}

bool ffi_cutlass_attention_grad(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* out,
                                 const Tensor* lse, const Tensor* dout, bool causal, const Tensor* mask, Tensor* dq,
                                 Tensor* dk, Tensor* dv) {
  return attempt([&] {
    int64_t width = q->size(3);
    auto rows = [](const Tensor& heads) { return aligned(heads).transpose(1, 2); };
    // Without dropout the state of the random numbers is not read. Keys that are split would be summed in any order.
    auto none = at::Tensor();
    auto all = at::_efficient_attention_backward(rows(*dout), rows(*q), rows(*k), rows(*v), added(mask, *q, *k),
                                                 rows(*out), std::nullopt, std::nullopt, q->size(2), k->size(2), *lse,
                                                 0.0, none, none, causal ? 1 : 0, false, scale_of(width), 1);
    auto heads = [&](const Tensor& made) { return made.transpose(1, 2).narrow(3, 0, width); };
    *dq = heads(std::get<0>(all));
    *dk = heads(std::get<1>(all));
    *dv = heads(std::get<2>(all));
  });
}

}  // extern "C"

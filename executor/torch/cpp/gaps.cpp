// Kernels of libtorch that write where they are told, and operators that tch does not wrap. ATen's public operators for norms
// allocate what they give; the kernels below them, which ATen dispatches by processor, take their outputs.

#include "blas.h"
#include "gaps.h"

#include <ATen/native/layer_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_rms_norm_backward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>

namespace meshwright {
thread_local std::string problem;
}

using at::Tensor;
using meshwright::attempt;

namespace {

std::optional<Tensor> maybe(const Tensor* tensor) {
  return tensor ? std::optional<Tensor>(*tensor) : std::nullopt;
}

}  // namespace

extern "C" {

const char* gaps_problem() { return meshwright::problem.c_str(); }

// The CPU's c = a · b, or c += a · b, of matrices or batches of them. c may be in fp32 where a and b are not.
bool gaps_cpu_matmul(const Tensor* a, const Tensor* b, bool accumulate, Tensor* c) {
  return attempt([&] { meshwright::product(*a, *b, accumulate, *c); });
}

// x, y [rows, cols], mean, rstd [rows].
bool gaps_layer_norm(const Tensor* x, const Tensor* gain, const Tensor* bias, double eps, Tensor* y, Tensor* mean,
                     Tensor* rstd) {
  return attempt([&] {
    at::native::LayerNormKernel(x->device().type(), *x, *gain, *bias, x->size(0), x->size(1), eps, y, mean, rstd);
  });
}

bool gaps_layer_norm_grad(const Tensor* dy, const Tensor* x, const Tensor* mean, const Tensor* rstd, const Tensor* gain,
                          Tensor* dx, Tensor* dgain, Tensor* dbias) {
  return attempt([&] {
    at::native::LayerNormBackwardKernel(x->device().type(), *dy, *x, *mean, *rstd, *gain, x->size(0), x->size(1), dx,
                                        dgain, dbias);
  });
}

// CUDA's: dx [rows, cols] and dgain [cols] are put into `dx` and `dgain`, undefined before.
bool gaps_rms_norm_grad(const Tensor* dy, const Tensor* x, const Tensor* rstd, const Tensor* gain, Tensor* dx,
                        Tensor* dgain) {
  return attempt([&] {
    std::tie(*dx, *dgain) = at::_fused_rms_norm_backward(*dy, *x, {x->size(1)}, *rstd, *gain, {true, true});
  });
}

// CUDA's by cuDNN: q, k, v [batch, heads, tokens, width], of 2-byte elements; `out` and `lse` are undefined before.
bool gaps_cudnn_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, Tensor* out, Tensor* lse) {
  return attempt([&] {
    auto all = at::_scaled_dot_product_cudnn_attention(*q, *k, *v, std::nullopt, true, 0.0, causal, false);
    *out = std::get<0>(all);
    *lse = std::get<1>(all);
  });
}

// CUDA's by CUTLASS, of any floats, with a mask to add or none.
bool gaps_cutlass_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, const Tensor* mask,
                            Tensor* out, Tensor* lse) {
  return attempt([&] {
    auto all = at::_scaled_dot_product_efficient_attention(*q, *k, *v, maybe(mask), true, 0.0, causal);
    *out = std::get<0>(all);
    *lse = std::get<1>(all);
  });
}

bool gaps_cutlass_attention_grad(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* out,
                                 const Tensor* lse, const Tensor* dout, bool causal, const Tensor* mask, Tensor* dq,
                                 Tensor* dk, Tensor* dv) {
  return attempt([&] {
    // Without dropout the state of the random numbers is not read.
    auto none = at::Tensor();
    auto all = at::_scaled_dot_product_efficient_attention_backward(
        *dout, *q, *k, *v, mask ? *mask : none, *out, *lse, none, none, 0.0, {true, true, true, false}, causal);
    std::tie(*dq, *dk, *dv, std::ignore) = all;
  });
}

// CUDA's update of one vector. `steps` and `rate` hold one number each. If `overflow` holds a one, nothing is updated.
bool gaps_cuda_adamw(Tensor* w, const Tensor* g, Tensor* m, Tensor* v, const Tensor* steps, const Tensor* rate,
                     const Tensor* overflow, double beta1, double beta2, double weight_decay, double eps) {
  return attempt([&] {
    at::_fused_adamw_({*w}, {*g}, {*m}, {*v}, {}, {*steps}, *rate, beta1, beta2, weight_decay, eps, false, false,
                      std::nullopt, *overflow);
  });
}

}  // extern "C"

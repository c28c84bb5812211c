// Kernels that write where they are told. ATen's public operators for norms and attention allocate what they give; the
// kernels below them, which ATen dispatches by processor, take their outputs, and their layouts are the vocabulary's.

#include "gaps.h"

#include <ATen/native/layer_norm.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_rms_norm_backward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/empty_like.h>

namespace meshwright {
thread_local std::string problem;
}

using at::Tensor;
using meshwright::attempt;

namespace at::native {
// oneDNN's product, result = beta · result + alpha · a · b; libtorch has it without a header.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result, float beta, float alpha);
}

// MKL's products of two bytes into fp32, which ATen has no operator for on the CPU; absent where torch is built without MKL.
// Layout and transposition as in CBLAS.
extern "C" {
using NarrowProduct = void(int layout, int turn_a, int turn_b, int m, int n, int k, float alpha, const void* a, int lda,
                           const void* b, int ldb, float beta, float* c, int ldc);
__attribute__((weak)) NarrowProduct cblas_gemm_bf16bf16f32;
__attribute__((weak)) NarrowProduct cblas_gemm_f16f16f32;
}

namespace {

// Distance between rows of a row-major matrix, or of the one it is the transpose of, and whether it is that.
struct Lines {
  int distance;
  bool turned;
};

std::optional<Lines> lines(const Tensor& matrix) {
  int64_t rows = matrix.stride(-2), columns = matrix.stride(-1);
  if (columns == 1 && rows >= matrix.size(-1)) return Lines{static_cast<int>(rows), false};
  if (rows == 1 && columns >= matrix.size(-2)) return Lines{static_cast<int>(columns), true};
  return std::nullopt;
}

// c (+)= a · b, of matrices in bf16 or fp16, c in fp32. Whether it could be done.
bool narrow_product(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  auto* product = a.scalar_type() == at::kHalf ? cblas_gemm_f16f16f32 : cblas_gemm_bf16bf16f32;
  auto of_a = lines(a), of_b = lines(b), of_c = lines(c);
  if (!product || !of_a || !of_b || !of_c || of_c->turned) return false;
  constexpr int row_major = 101, as_is = 111, transposed = 112;
  auto turn = [](Lines lines) { return lines.turned ? transposed : as_is; };
  product(row_major, turn(*of_a), turn(*of_b), c.size(0), c.size(1), a.size(1), 1.0f, a.const_data_ptr(), of_a->distance,
          b.const_data_ptr(), of_b->distance, accumulate ? 1.0f : 0.0f, c.mutable_data_ptr<float>(), of_c->distance);
  return true;
}

// c (+)= a · b of widened copies, rounded once.
void wide_product(const Tensor& a, const Tensor& b, float beta, const Tensor& c) {
  Tensor wide = beta == 0 ? at::empty_like(c, at::kFloat) : c.to(at::kFloat);
  at::native::mkldnn_matmul(a.to(at::kFloat), b.to(at::kFloat), wide, beta, 1.0f);
  if (!wide.is_same(c)) c.copy_(wide);
}

// c (+)= a · b in whatever formats. oneDNN takes two bytes in and two out, on processors that have instructions for them.
void product(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  float beta = accumulate ? 1.0f : 0.0f;
  if (a.scalar_type() == c.scalar_type()) {
    try {
      return at::native::mkldnn_matmul(a, b, c, beta, 1.0f);
    } catch (const c10::Error&) {
      // It checks before it begins.
      if (a.scalar_type() == at::kFloat) throw;
    }
  } else if (a.dim() == 2 && narrow_product(a, b, accumulate, c)) {
    return;
  } else if (a.dim() == 3) {
    for (int64_t i = 0; i < a.size(0); ++i) product(a[i], b[i], accumulate, c[i]);
    return;
  }
  wide_product(a, b, beta, c);
}

std::optional<Tensor> maybe(const Tensor* tensor) {
  return tensor ? std::optional<Tensor>(*tensor) : std::nullopt;
}

}  // namespace

extern "C" {

const char* gaps_problem() { return meshwright::problem.c_str(); }

// The CPU's c = a · b, or c += a · b, of matrices or batches of them. c may be in fp32 where a and b are not.
bool gaps_cpu_matmul(const Tensor* a, const Tensor* b, bool accumulate, Tensor* c) {
  return attempt([&] { product(*a, *b, accumulate, *c); });
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

// The CPU's: q, k, v [batch, heads, tokens, width], out [batch, tokens, heads, width], lse [batch, tokens, heads].
bool gaps_cpu_attention(const Tensor* q, const Tensor* k, const Tensor* v, bool causal, const Tensor* mask, Tensor* out,
                        Tensor* lse) {
  return attempt([&] {
    at::native::flash_attention_kernel(at::kCPU, *out, *lse, *q, *k, *v, 0.0, causal, maybe(mask), std::nullopt);
  });
}

// All [batch, tokens, heads, width]; gradients are added to.
bool gaps_cpu_attention_grad(const Tensor* q, const Tensor* k, const Tensor* v, const Tensor* out, const Tensor* lse,
                             const Tensor* dout, bool causal, const Tensor* mask, Tensor* dq, Tensor* dk, Tensor* dv) {
  return attempt([&] {
    at::native::flash_attention_backward_kernel(at::kCPU, *dq, *dk, *dv, *dout, *q, *k, *v, *out, *lse, 0.0, causal,
                                                maybe(mask), std::nullopt);
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

// One update of one vector. `steps` holds one number, as `rate` does on CUDA; elsewhere the rate is `lr`. If `overflow`
// holds a one, nothing is updated.
bool gaps_adamw(Tensor* w, const Tensor* g, Tensor* m, Tensor* v, const Tensor* steps, const Tensor* rate,
                const Tensor* overflow, double lr, double beta1, double beta2, double weight_decay, double eps) {
  return attempt([&] {
    auto update = [&](auto lr) {
      at::_fused_adamw_({*w}, {*g}, {*m}, {*v}, {}, {*steps}, lr, beta1, beta2, weight_decay, eps, false, false,
                        std::nullopt, *overflow);
    };
    if (w->is_cuda()) {
      update(*rate);
    } else {
      update(lr);
    }
  });
}

}  // extern "C"

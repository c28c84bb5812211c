#include "blas.h"

#include <ATen/cpu/Utils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <exception>
#include <optional>

using at::Tensor;

namespace at::native {
// oneDNN's product, result = beta · result + alpha · a · b; libtorch has it without a header.
TORCH_API void mkldnn_matmul(const Tensor& a, const Tensor& b, const Tensor& result, float beta, float alpha);
}

// BLAS, as Fortran calls it. And MKL's products of two bytes into fp32, which ATen has no operator for on the CPU; absent where
// torch is built without MKL. Layout and transposition as in CBLAS.
extern "C" {
__attribute__((weak)) void sgemm_(const char* turn_a, const char* turn_b, const int* m, const int* n, const int* k,
                                  const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
                                  const float* beta, float* c, const int* ldc);
using NarrowProduct = void(int layout, int turn_a, int turn_b, int m, int n, int k, float alpha, const void* a, int lda,
                           const void* b, int ldb, float beta, float* c, int ldc);
__attribute__((weak)) NarrowProduct cblas_gemm_bf16bf16f32;
__attribute__((weak)) NarrowProduct cblas_gemm_f16f16f32;
}

namespace {

// Elements of a copy in fp32 of a part of a result, about.
constexpr int64_t COPIED = 1 << 20;

// As CBLAS says it.
constexpr int ROW_MAJOR = 101;
int cblas(bool turned) { return turned ? 112 : 111; }

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

// Whether oneDNN's product takes elements of a format on this processor: without AVX-512 ATen lets it take none.
bool onednn_takes(at::ScalarType format) {
  auto takes = [](at::ScalarType format) {
    try {
      Tensor one = at::zeros({1, 1}, format);
      at::native::mkldnn_matmul(one, one, at::empty_like(one), 0.0f, 1.0f);
      return true;
    } catch (const std::exception&) {
      return false;
    }
  };
  static const bool full = takes(at::kFloat), bf16 = takes(at::kBFloat16), fp16 = takes(at::kHalf);
  return format == at::kFloat ? full : format == at::kBFloat16 ? bf16 : fp16;
}

// Whether the BLAS multiplies floats faster than oneDNN: MKL does on Intel's processors, by a tenth to three quarters, and not on
// others. By name, not by the clock, so that a machine always sums in one order.
bool blas_is_faster() {
#ifdef __x86_64__
  return sgemm_ && __builtin_cpu_is("intel");
#else
  return false;
#endif
}

// c (+)= a · b, of matrices of one format, c in fp32. Whether the BLAS could do it.
bool into_floats(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  auto of_a = lines(a), of_b = lines(b), of_c = lines(c);
  if (!of_a || !of_b || !of_c || of_c->turned) return false;
  int64_t m = c.size(0), n = c.size(1), k = a.size(1);
  float keep = accumulate ? 1.0f : 0.0f;
  auto* to = c.mutable_data_ptr<float>();
  if (a.scalar_type() == at::kHalf) {
    if (!cblas_gemm_f16f16f32) return false;
    cblas_gemm_f16f16f32(ROW_MAJOR, cblas(of_a->turned), cblas(of_b->turned), m, n, k, 1.0f, a.const_data_ptr(),
                         of_a->distance, b.const_data_ptr(), of_b->distance, keep, to, of_c->distance);
    return true;
  }
  bool narrow = a.scalar_type() == at::kBFloat16;
  meshwright::Matrix left{a.const_data_ptr(), of_a->distance, narrow}, right{b.const_data_ptr(), of_b->distance, narrow};
  if (narrow && meshwright::pairs_are_faster()) {
    meshwright::product_of_pairs(of_a->turned, left, of_b->turned, right, accumulate, to, of_c->distance, m, n, k);
    return true;
  }
  if (narrow && !cblas_gemm_bf16bf16f32) return false;
  meshwright::product(of_a->turned, left, of_b->turned, right, 1.0f, keep, to, of_c->distance, m, n, k);
  return true;
}

// c (+)= a · b, c in fp32, whatever the BLAS can do: of copies that it takes.
void summed(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  if (into_floats(a, b, accumulate, c)) return;
  Tensor wide_a = a.to(at::kFloat).contiguous(), wide_b = b.to(at::kFloat).contiguous();
  Tensor made = c.is_contiguous() ? c : c.contiguous();
  TORCH_CHECK(into_floats(wide_a, wide_b, accumulate, made), "a product of matrices that lie in no order");
  if (!made.is_same(c)) c.copy_(made);
}

// c (+)= a · b, summed in fp32 and rounded once, some rows at a time.
void rounded(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  int64_t rows = std::max<int64_t>(256, COPIED / std::max<int64_t>(c.size(1), 1));
  for (int64_t first = 0; first < c.size(0); first += rows) {
    int64_t count = std::min(rows, c.size(0) - first);
    Tensor part = c.narrow(0, first, count);
    Tensor sums = accumulate ? part.to(at::kFloat) : at::empty({count, c.size(1)}, c.options().dtype(at::kFloat));
    summed(a.narrow(0, first, count), b, accumulate, sums);
    part.copy_(sums);
  }
}

}  // namespace

namespace meshwright {

bool prefers_bf16() {
  static const bool prefers = cblas_gemm_bf16bf16f32 && at::cpu::init_amx();
  return prefers;
}

void product(bool turn_a, Matrix a, bool turn_b, Matrix b, float scale, float keep, float* c, int64_t line, int64_t m,
             int64_t n, int64_t k) {
  if (a.narrow) {
    auto add = [&](const void* start, float keep) {
      cblas_gemm_bf16bf16f32(ROW_MAJOR, cblas(turn_a), cblas(turn_b), m, n, k, scale, start, a.line, b.start, b.line, keep,
                             c, line);
    };
    add(a.start, keep);
    if (a.rest) add(a.rest, 1.0f);
    return;
  }
  TORCH_CHECK(sgemm_, "this libtorch has no BLAS");
  // What is row-major to us is its transpose to Fortran, and (a · b)ᵀ = bᵀ · aᵀ.
  int rows = m, columns = n, inner = k, of_a = a.line, of_b = b.line, of_c = line;
  sgemm_(turn_b ? "T" : "N", turn_a ? "T" : "N", &columns, &rows, &inner, &scale, static_cast<const float*>(b.start),
         &of_b, static_cast<const float*>(a.start), &of_a, &keep, c, &of_c);
}

void product(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& c) {
  bool full = a.scalar_type() == at::kFloat && blas_is_faster();
  if (a.scalar_type() == c.scalar_type() && !full && onednn_takes(c.scalar_type()))
    return at::native::mkldnn_matmul(a, b, c, accumulate ? 1.0f : 0.0f, 1.0f);
  if (a.dim() == 3) {
    for (int64_t i = 0; i < a.size(0); ++i) product(a[i], b[i], accumulate, c[i]);
    return;
  }
  if (c.scalar_type() == at::kFloat) return summed(a, b, accumulate, c);
  rounded(a, b, accumulate, c);
}

}  // namespace meshwright

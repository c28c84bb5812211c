// Products of matrices by the libraries inside libtorch: oneDNN where it takes the elements on this processor and is not slower,
// else its BLAS.
#pragma once

#include <ATen/Tensor.h>

#include <cstdint>

namespace meshwright {

// A row-major matrix whose rows are `line` apart, in fp32 or bf16; in bf16 it may come with what rounding left of it, alike.
struct Matrix {
  const void* start;
  int64_t line;
  bool narrow = false;
  const void* rest = nullptr;

  // From a row on.
  Matrix from(int64_t row) const {
    return {static_cast<const char*>(start) + row * line * (narrow ? 2 : 4), line, narrow};
  }
};

// Whether products of bf16 are much faster here than those of fp32: where the processor has AMX.
bool prefers_bf16();

// c [m, n] = scale · a · b + keep · c, summed in fp32, on the calling thread where others run beside it. `a` lies as [m, k], or
// as [k, m] if it is turned; `b` as [k, n], or as [n, k]. Both are in one format; `a` alone may have a rest.
void product(bool turn_a, Matrix a, bool turn_b, Matrix b, float scale, float keep, float* c, int64_t line, int64_t m,
             int64_t n, int64_t k);

// Whether products of bf16 into fp32 are faster by pairs than by the BLAS (`pairs.cpp`). By what the processor is, not by the
// clock, so that a machine always sums in one order.
bool pairs_are_faster();

// c = a · b, or c += a · b, of bf16 into fp32, on all threads. Matrices lie as above, without rests.
void product_of_pairs(bool turn_a, Matrix a, bool turn_b, Matrix b, bool adds, float* c, int64_t line, int64_t m, int64_t n,
                      int64_t k);

// c = a · b, or c += a · b, of matrices or batches of them, in whatever formats; c may be in fp32 where a and b are not.
void product(const at::Tensor& a, const at::Tensor& b, bool accumulate, const at::Tensor& c);

}  // namespace meshwright

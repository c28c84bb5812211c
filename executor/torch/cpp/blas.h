// Products of matrices by the libraries inside libtorch: oneDNN where it takes the elements on this processor, else its BLAS.
#pragma once

#include <ATen/Tensor.h>

#include <cstdint>

namespace meshwright {

// A row-major matrix of floats whose rows are `line` apart.
struct Matrix {
  const float* start;
  int64_t line;
};

// c [m, n] = scale · a · b + keep · c, on the calling thread where others run beside it. `a` lies as [m, k], or as [k, m] if
// it is turned; `b` as [k, n], or as [n, k].
void product(bool turn_a, Matrix a, bool turn_b, Matrix b, float scale, float keep, float* c, int64_t line, int64_t m,
             int64_t n, int64_t k);

// c = a · b, or c += a · b, of matrices or batches of them, in whatever formats; c may be in fp32 where a and b are not.
void product(const at::Tensor& a, const at::Tensor& b, bool accumulate, const at::Tensor& c);

}  // namespace meshwright

// Products of bf16 into fp32 by oneDNN's kernels for blocks of matrices, which multiply a pair of bf16 by another in each lane
// (VDPBF16PS). MKL has such products too, but on processors not of Intel's they are no faster than those of fp32.
//
// How a product is cut depends on its sizes alone: the number of threads changes no bit.

#include "blas.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <exception>
#include <utility>

#ifdef __x86_64__
#include <emmintrin.h>
#endif

using at::Tensor;
using meshwright::Matrix;

#ifdef __x86_64__
namespace {

// A task makes ROWS × COLUMNS of a result, PANEL columns and DEPTH products at once: the kernels take no wider panels.
constexpr int64_t ROWS = 64, COLUMNS = 512, PANEL = 64, DEPTH = 1024;

int64_t even(int64_t n) { return n + n % 2; }

// An element of a matrix that may lie turned.
const uint16_t* place(Matrix matrix, bool turned, int64_t row, int64_t column) {
  if (turned) std::swap(row, column);
  return static_cast<const uint16_t*>(matrix.start) + row * matrix.line + column;
}

__m128i eight(const uint16_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
void keep(__m128i words, uint16_t* to) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), words); }

// Turns eight rows of eight: three perfect shuffles of all words.
void turn_eight(const uint16_t* from, int64_t line, uint16_t* to, int64_t to_line) {
  __m128i rows[8], mixed[8];
  for (int i = 0; i < 8; ++i) rows[i] = eight(from + i * line);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) {
      mixed[2 * i] = _mm_unpacklo_epi16(rows[i], rows[i + 4]);
      mixed[2 * i + 1] = _mm_unpackhi_epi16(rows[i], rows[i + 4]);
    }
    std::copy_n(mixed, 8, rows);
  }
  for (int i = 0; i < 8; ++i) keep(rows[i], to + i * to_line);
}

// A block's rows, each with its products side by side and a zero where their number is odd. `from` is the block's first
// element.
void pack_rows(const uint16_t* from, int64_t line, bool turned, int64_t rows, int64_t depth, uint16_t* to) {
  int64_t to_line = even(depth);
  for (int64_t row = 0; row < rows && !turned; ++row) std::copy_n(from + row * line, depth, to + row * to_line);
  for (int64_t p = 0; p < depth && turned; p += 8)
    for (int64_t row = 0; row < rows; row += 8) {
      if (p + 8 <= depth && row + 8 <= rows) {
        turn_eight(from + p * line + row, line, to + row * to_line + p, to_line);
        continue;
      }
      for (int64_t r = row; r < std::min(row + 8, rows); ++r)
        for (int64_t q = p; q < std::min(p + 8, depth); ++q) to[r * to_line + q] = from[q * line + r];
    }
  for (int64_t row = 0; row < rows && to_line > depth; ++row) to[row * to_line + depth] = 0;
}

// A panel's columns, pairs of products side by side: [pairs, PANEL, 2].
void pack_panel(const uint16_t* from, int64_t line, bool turned, int64_t columns, int64_t depth, uint16_t* to) {
  for (int64_t p = 0; p < depth; p += 2, to += 2 * PANEL) {
    int64_t column = 0;
    const uint16_t *first = from + p * line, *second = first + line;
    for (; !turned && p + 1 < depth && column + 8 <= columns; column += 8) {
      __m128i a = eight(first + column), b = eight(second + column);
      keep(_mm_unpacklo_epi16(a, b), to + 2 * column);
      keep(_mm_unpackhi_epi16(a, b), to + 2 * column + 8);
    }
    for (; column < columns; ++column)
      for (int64_t i = 0; i < 2; ++i) {
        int64_t at = turned ? column * line + p + i : (p + i) * line + column;
        to[2 * column + i] = p + i < depth ? from[at] : 0;
      }
  }
}

// c (+)= a · b over DEPTH products at most, `panels` being b's.
void add_up(Matrix a, bool turn_a, const at::BFloat16* panels, bool adds, float* c, int64_t line, int64_t m, int64_t n,
            int64_t depth) {
  int64_t across = at::divup(n, COLUMNS);
  at::parallel_for(0, at::divup(m, ROWS) * across, 1, [&](int64_t first, int64_t last) {
    alignas(64) uint16_t block[ROWS * DEPTH];
    for (int64_t task = first, packed = -1; task < last; ++task) {
      int64_t row = task / across * ROWS, rows = std::min(ROWS, m - row), column = task % across * COLUMNS;
      if (std::exchange(packed, row) != row)
        pack_rows(place(a, turn_a, row, 0), a.line, turn_a, rows, depth, block);
      for (int64_t to = std::min(column + COLUMNS, n); column < to; column += PANEL)
        at::native::cpublas::brgemm(rows, std::min(PANEL, n - column), even(depth), even(depth), PANEL, line, adds,
                                    reinterpret_cast<at::BFloat16*>(block), panels + column * even(depth),
                                    c + row * line + column);
    }
  });
}

}  // namespace
#endif

namespace meshwright {

bool pairs_are_faster() {
#ifdef __x86_64__
  static const bool faster = [] {
    if (__builtin_cpu_is("intel") || !__builtin_cpu_supports("avx512bf16")) return false;
    at::BFloat16 one[2] = {1, 1}, panel[2 * PANEL] = {};
    float sum;
    try {
      at::native::cpublas::brgemm(1, 1, 2, 2, PANEL, 1, false, one, panel, &sum);
    } catch (const std::exception&) {
      // oneDNN is told to do without AVX-512, or absent.
      return false;
    }
    return true;
  }();
  return faster;
#else
  return false;
#endif
}

void product_of_pairs(bool turn_a, Matrix a, bool turn_b, Matrix b, bool adds, float* c, int64_t line, int64_t m, int64_t n,
                      int64_t k) {
#ifdef __x86_64__
  int64_t across = at::divup(n, PANEL);
  Tensor memory = at::empty({across * PANEL * even(std::min(k, DEPTH))}, at::kBFloat16);
  auto* panels = memory.mutable_data_ptr<at::BFloat16>();
  for (int64_t p = 0; p < k; p += DEPTH) {
    int64_t depth = std::min(DEPTH, k - p);
    at::parallel_for(0, across, 1, [&](int64_t first, int64_t last) {
      for (int64_t column = first * PANEL; column < last * PANEL; column += PANEL)
        pack_panel(place(b, turn_b, p, column), b.line, turn_b, std::min(PANEL, n - column), depth,
                   reinterpret_cast<uint16_t*>(panels) + column * even(depth));
    });
    add_up({place(a, turn_a, 0, p), a.line}, turn_a, panels, adds || p > 0, c, line, m, n, depth);
  }
#else
  TORCH_CHECK(false, "a product of pairs on a processor that has none");
#endif
}

}  // namespace meshwright

// What kernels of one pass share: rows of fp32 or bf16, loaded as floats and stored rounded once; an exponential; sums by
// lanes.
//
// Everything is inline in its caller, so that it becomes vectors for the processors that the caller is compiled for.
#pragma once

#include <ATen/Tensor.h>

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define VECTORS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORS
#endif
#define INLINE static inline __attribute__((always_inline))

namespace meshwright {

// Sums that are made side by side.
constexpr int64_t LANES = 32;

// Elements of a buffer: fp32 or bf16.
struct Row {
  char* start;
  bool narrow;

  explicit Row(const at::Tensor& tensor)
      : start(static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()))),
        narrow(tensor.scalar_type() == at::kBFloat16) {
    TORCH_CHECK(narrow || tensor.scalar_type() == at::kFloat, "a kernel of fp32 and bf16");
  }

  Row at(int64_t elem) const {
    Row part = *this;
    part.start += elem * (narrow ? 2 : 4);
    return part;
  }
};

// To nearest, the even one of two; what is not a number stays so.
INLINE uint16_t narrowed(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}

INLINE float widened(uint16_t value) {
  uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

INLINE void load(Row row, float* to, int64_t n) {
  if (!row.narrow) return void(std::memcpy(to, row.start, n * sizeof(float)));
  auto* from = reinterpret_cast<const uint16_t*>(row.start);
  for (int64_t i = 0; i < n; ++i) to[i] = widened(from[i]);
}

INLINE void store(const float* from, Row row, int64_t n) {
  if (!row.narrow) return void(std::memcpy(row.start, from, n * sizeof(float)));
  auto* to = reinterpret_cast<uint16_t*>(row.start);
  for (int64_t i = 0; i < n; ++i) to[i] = narrowed(from[i]);
}

// A row as floats: where it lies, or a copy.
INLINE const float* seen(Row row, float* space, int64_t n) {
  if (!row.narrow) return reinterpret_cast<const float*>(row.start);
  load(row, space, n);
  return space;
}

// Where a row's floats are made: where it lies, or beside, from where `keep` rounds them.
INLINE float* made_at(Row row, float* space) { return row.narrow ? space : reinterpret_cast<float*>(row.start); }

INLINE void keep(const float* made, Row row, int64_t n) {
  if (row.narrow) store(made, row, n);
}

// e^x within two units in the last place, by Cody and Waite's reduction and a polynomial of degree six.
INLINE float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  // Adding and taking away 1.5 · 2^23 rounds to a whole number.
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  float r = x - n * 0.693145752f - n * 1.42860677e-6f;
  float p = 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof bits);
  return p * scale;
}

// Σ a·b, by lanes that the compiler may add side by side.
INLINE float dot(const float* a, const float* b, int64_t n) {
  float lanes[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  float sum = 0;
  for (float lane : lanes) sum += lane;
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace meshwright

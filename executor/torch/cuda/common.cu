// What all kernels of this folder share. NVRTC compiles the folder's files as one text, once for each format of weights and
// activations: FORMAT is 0 for fp32, 1 for bf16, 2 for fp16.
//
// Kernels compute in fp32 and round what they write once, to nearest even. Each comes in two widths: `_w` moves 16 bytes at a
// time, where rows and addresses allow it, `_1` an element. Sums have a fixed order: the same operands give the same bits.

#if FORMAT == 0
typedef float T;
#define WIDE 4
__device__ float wide(T x) { return x; }
__device__ T narrow(float x) { return x; }
#elif FORMAT == 1
typedef unsigned short T;
#define WIDE 8
__device__ float wide(T x) { return __uint_as_float((unsigned)x << 16); }
__device__ T narrow(float x) {
  unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (T)(bits >> 16 | 0x40u);
  return (T)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
#else
typedef unsigned short T;
#define WIDE 8
__device__ float wide(T x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}
__device__ T narrow(float x) {
  T y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
#endif

// Threads of a block at most, and elements of a row that a thread keeps in registers, in vectors.
#define THREADS 512
#define HELD 3

typedef long long i64;

#define INFINITY __int_as_float(0x7f800000)

// Elements that lie side by side, moved at most 16 bytes at a time.
template <typename E, int V>
struct alignas(sizeof(E) * V > 16 ? 16 : sizeof(E) * V) Pack {
  E at[V];
};

template <int V, typename E>
__device__ Pack<E, V> get(const E* from) {
  return *reinterpret_cast<const Pack<E, V>*>(from);
}

template <int V, typename E>
__device__ void put(E* to, const Pack<E, V>& pack) {
  *reinterpret_cast<Pack<E, V>*>(to) = pack;
}

template <int V>
__device__ void load(const T* from, float (&to)[V]) {
  Pack<T, V> pack = get<V>(from);
#pragma unroll
  for (int i = 0; i < V; ++i) to[i] = wide(pack.at[i]);
}

template <int V>
__device__ void store(T* to, const float (&from)[V]) {
  Pack<T, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) pack.at[i] = narrow(from[i]);
  put(to, pack);
}

// Two sums over the threads of a row of a block, which all of them get: of a warp, or of the whole block.
__device__ float2 row_sums(float a, float b) {
  __shared__ float2 parts[32];
#pragma unroll
  for (int far = 16; far > 0; far /= 2) {
    a += __shfl_xor_sync(0xffffffffu, a, far);
    b += __shfl_xor_sync(0xffffffffu, b, far);
  }
  if (blockDim.x == 32) return make_float2(a, b);
  // Parts of an earlier sum may still be read.
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = make_float2(a, b);
  __syncthreads();
  float2 sums = parts[0];
  for (int warp = 1; warp < blockDim.x / 32; ++warp) {
    sums.x += parts[warp].x;
    sums.y += parts[warp].y;
  }
  return sums;
}

// A kernel that the host finds by its name.
#define KERNEL(name, parameters, body) \
  extern "C" __global__ void __launch_bounds__(THREADS) name parameters { body; }

// A kernel's two widths: its template, its parameters, its arguments.
#define BOTH(name, parameters, arguments)            \
  KERNEL(name##_w, parameters, name<WIDE> arguments) \
  KERNEL(name##_1, parameters, name<1> arguments)

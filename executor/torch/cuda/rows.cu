// LayerNorm and RMSNorm, each row by a warp of several or by a block, and column sums. Statistics of a row are its mean and
// 1/σ, side by side.

template <int V, bool LAYER>
__device__ void norm(int rows, int cols, float eps, const T* x, const T* gain, const T* bias, T* y, float* stats) {
  i64 row = (i64)blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  x += row * cols;
  y += row * cols;
  float held[HELD][V], sum = 0.0f;
#pragma unroll
  for (int j = 0; j < HELD; ++j) {
    int i = (j * blockDim.x + threadIdx.x) * V;
    if (i >= cols) break;
    load(x + i, held[j]);
#pragma unroll
    for (int e = 0; e < V; ++e) sum += held[j][e];
  }
  float mean = LAYER ? row_sums(sum, 0.0f).x / cols : 0.0f, squares = 0.0f;
#pragma unroll
  for (int j = 0; j < HELD; ++j) {
    if ((j * blockDim.x + threadIdx.x) * V >= cols) break;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      held[j][e] -= mean;
      squares += held[j][e] * held[j][e];
    }
  }
  float scale = 1.0f / sqrtf(row_sums(squares, 0.0f).x / cols + eps);
  if (threadIdx.x == 0) stats[2 * row] = mean, stats[2 * row + 1] = scale;
#pragma unroll
  for (int j = 0; j < HELD; ++j) {
    int i = (j * blockDim.x + threadIdx.x) * V;
    if (i >= cols) break;
    float by[V], more[V];
    load(gain + i, by);
    if (LAYER) load(bias + i, more);
#pragma unroll
    for (int e = 0; e < V; ++e) held[j][e] = held[j][e] * scale * by[e] + (LAYER ? more[e] : 0.0f);
    store(y + i, held[j]);
  }
}

template <int V>
__device__ void layer_norm(int rows, int cols, float eps, const T* x, const T* gain, const T* bias, T* y, float* stats) {
  norm<V, true>(rows, cols, eps, x, gain, bias, y, stats);
}
BOTH(layer_norm, (int rows, int cols, float eps, const T* x, const T* gain, const T* bias, T* y, float* stats),
     (rows, cols, eps, x, gain, bias, y, stats))

template <int V>
__device__ void rms_norm(int rows, int cols, float eps, const T* x, const T* gain, T* y, float* stats) {
  norm<V, false>(rows, cols, eps, x, gain, nullptr, y, stats);
}
BOTH(rms_norm, (int rows, int cols, float eps, const T* x, const T* gain, T* y, float* stats), (rows, cols, eps, x, gain, y, stats))

// The sum over a block's rows of threads, for those of its first; they are 1 or 4, of a warp each.
template <int V>
__device__ void add_warps(float (&sums)[V]) {
  __shared__ float space[4][32 * V];
  if (blockDim.y == 1) return;
  __syncthreads();
#pragma unroll
  for (int e = 0; e < V; ++e) space[threadIdx.y][e * 32 + threadIdx.x] = sums[e];
  __syncthreads();
#pragma unroll
  for (int e = 0; e < V; ++e) {
    sums[e] = 0.0f;
    for (int y = 0; y < blockDim.y; ++y) sums[e] += space[y][e * 32 + threadIdx.x];
  }
}

// A block's rows of threads take every so many-th row. What a block adds to the gradients of gain and bias are rows of
// `parts`, one after the other: `[blocks, 2, cols]` or `[blocks, cols]`.
template <int V, bool LAYER>
__device__ void norm_grad(int rows, int cols, bool accumulate, const T* x, const T* gain, const float* stats, const T* dy,
                          T* dx, float* parts) {
  float dgain[HELD][V] = {}, dbias[HELD][V] = {};
  for (int row = blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += gridDim.x * blockDim.y) {
    i64 first = (i64)row * cols;
    float middle = LAYER ? stats[2 * row] : 0.0f, scale = stats[2 * row + 1];
    float shape[HELD][V], of_shape[HELD][V], sum = 0.0f, product = 0.0f;
    Pack<T, V> before[HELD];
#pragma unroll
    for (int j = 0; j < HELD; ++j) {
      int i = (j * blockDim.x + threadIdx.x) * V;
      if (i >= cols) break;
      float given[V], by[V];
      load(x + first + i, shape[j]);
      load(dy + first + i, given);
      if (accumulate) before[j] = get<V>(dx + first + i);
      load(gain + i, by);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        shape[j][e] = (shape[j][e] - middle) * scale;
        of_shape[j][e] = given[e] * by[e];
        sum += of_shape[j][e];
        product += of_shape[j][e] * shape[j][e];
        dgain[j][e] += given[e] * shape[j][e];
        if (LAYER) dbias[j][e] += given[e];
      }
    }
    float2 sums = row_sums(sum, product);
    float mean = LAYER ? sums.x / cols : 0.0f, tilt = sums.y / cols;
#pragma unroll
    for (int j = 0; j < HELD; ++j) {
      int i = (j * blockDim.x + threadIdx.x) * V;
      if (i >= cols) break;
      float made[V];
#pragma unroll
      for (int e = 0; e < V; ++e) {
        made[e] = scale * (of_shape[j][e] - mean - shape[j][e] * tilt) + (accumulate ? wide(before[j].at[e]) : 0.0f);
      }
      store(dx + first + i, made);
    }
  }
  parts += (i64)blockIdx.x * (LAYER ? 2 : 1) * cols;
#pragma unroll
  for (int j = 0; j < HELD; ++j) {
    int i = (j * blockDim.x + threadIdx.x) * V;
    add_warps(dgain[j]);
    if (LAYER) add_warps(dbias[j]);
    if (threadIdx.y > 0 || i >= cols) continue;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      parts[i + e] = dgain[j][e];
      if (LAYER) parts[cols + i + e] = dbias[j][e];
    }
  }
}

#define NORM_GRAD(name, V, LAYER)                                                                                      \
  KERNEL(name,                                                                                                         \
         (int rows, int cols, int accumulate, const T* x, const T* gain, const float* stats, const T* dy, T* dx,       \
          float* parts),                                                                                               \
         (norm_grad<V, LAYER>(rows, cols, accumulate, x, gain, stats, dy, dx, parts)))
NORM_GRAD(layer_norm_grad_w, WIDE, true)
NORM_GRAD(layer_norm_grad_1, 1, true)
NORM_GRAD(rms_norm_grad_w, WIDE, false)
NORM_GRAD(rms_norm_grad_1, 1, false)

// Sums of every `gridDim.y`-th group of 8 rows, by blocks of 32 × 8 threads: rows of `parts`, `[gridDim.y, cols]`.
template <int V>
__device__ void column_sums(int rows, int cols, const T* x, float* parts) {
  __shared__ float space[8][32 * V + 1];
  int column = (blockIdx.x * 32 + threadIdx.x) * V;
  float sums[V] = {};
  if (column < cols) {
    i64 row = blockIdx.y * 8 + threadIdx.y, step = gridDim.y * 8;
    // Four rows are on their way at once.
    for (; row + 3 * step < rows; row += 4 * step) {
      Pack<T, V> given[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) given[i] = get<V>(x + (row + i * step) * cols + column);
#pragma unroll
      for (int e = 0; e < 4 * V; ++e) sums[e % V] += wide(given[e / V].at[e % V]);
    }
    for (; row < rows; row += step) {
      float given[V];
      load(x + row * cols + column, given);
#pragma unroll
      for (int e = 0; e < V; ++e) sums[e] += given[e];
    }
  }
#pragma unroll
  for (int e = 0; e < V; ++e) space[threadIdx.y][threadIdx.x * V + e] = sums[e];
  __syncthreads();
  for (int i = threadIdx.y * 32 + threadIdx.x; i < 32 * V; i += 256) {
    if (blockIdx.x * 32 * V + i >= cols) break;
    float sum = 0.0f;
    for (int y = 0; y < 8; ++y) sum += space[y][i];
    parts[(i64)blockIdx.y * cols + blockIdx.x * 32 * V + i] = sum;
  }
}
BOTH(column_sums, (int rows, int cols, const T* x, float* parts), (rows, cols, x, parts))

// out[column] += Σ of a column of `parts`, `[count, stride]`, by blocks of 32 × 16 threads; the second row of blocks does so
// from `cols` on, for `more`.
extern "C" __global__ void add_parts(int count, int stride, int cols, const float* parts, float* out, float* more) {
  __shared__ float space[16][33];
  int column = blockIdx.x * 32 + threadIdx.x;
  const float* from = parts + blockIdx.y * cols + column;
  float sum = 0.0f;
  if (column < cols) {
#pragma unroll 4
    for (int part = threadIdx.y; part < count; part += 16) sum += from[(i64)part * stride];
  }
  space[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < cols) {
    for (int y = 1; y < 16; ++y) sum += space[y][threadIdx.x];
    (blockIdx.y == 0 ? out : more)[column] += sum;
  }
}

// The residual, SwiGLU, rotary positions, rows copied between strides.

// A row is cut into chunks of a block each.
template <int V>
struct Place {
  i64 row;
  int column;
  __device__ Place(int cols) {
    int chunks = (cols + blockDim.x * V - 1) / (blockDim.x * V);
    row = blockIdx.x / chunks;
    column = (blockIdx.x % chunks * blockDim.x + threadIdx.x) * V;
  }
};

// out = a + b (+ bias); `out` may be `a` or `b`.
template <int V>
__device__ void add(int cols, const T* a, const T* b, const T* bias, T* out) {
  Place<V> at(cols);
  if (at.column >= cols) return;
  i64 first = at.row * cols + at.column;
  float sum[V], more[V];
  load(a + first, sum);
  load(b + first, more);
#pragma unroll
  for (int e = 0; e < V; ++e) sum[e] += more[e];
  if (bias) {
    load(bias + at.column, more);
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] += more[e];
  }
  store(out + first, sum);
}
BOTH(add, (int cols, const T* a, const T* b, const T* bias, T* out), (cols, a, b, bias, out))

__device__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// u is `[rows, gate | up]`.
template <int V>
__device__ void swiglu(int cols, const T* u, T* out) {
  Place<V> at(cols);
  if (at.column >= cols) return;
  float gate[V], up[V];
  load(u + at.row * 2 * cols + at.column, gate);
  load(u + at.row * 2 * cols + cols + at.column, up);
#pragma unroll
  for (int e = 0; e < V; ++e) up[e] *= gate[e] * sigmoid(gate[e]);
  store(out + at.row * cols + at.column, up);
}
BOTH(swiglu, (int cols, const T* u, T* out), (cols, u, out))

template <int V>
__device__ void swiglu_grad(int cols, const T* u, const T* dout, T* du) {
  Place<V> at(cols);
  if (at.column >= cols) return;
  i64 first = at.row * 2 * cols + at.column;
  float gate[V], up[V], given[V];
  load(u + first, gate);
  load(u + first + cols, up);
  load(dout + at.row * cols + at.column, given);
#pragma unroll
  for (int e = 0; e < V; ++e) {
    float share = sigmoid(gate[e]), of_up = given[e] * gate[e] * share;
    gate[e] = given[e] * up[e] * share * (1.0f + gate[e] * (1.0f - share));
    up[e] = of_up;
  }
  store(du + first, gate);
  store(du + first + cols, up);
}
BOTH(swiglu_grad, (int cols, const T* u, const T* dout, T* du), (cols, u, dout, du))

// Pairs (i, i + half) of heads turn by the angles of a token's place, one block a token; `sign` is −1 to turn back.
template <int V>
__device__ void rope(int seq, int stride, int heads, int half, float sign, T* x, const float* cos, const float* sin) {
  i64 row = blockIdx.x, place = row % seq * half;
  int vectors = half / V;
  for (int k = threadIdx.x; k < heads * vectors; k += blockDim.x) {
    int i = k % vectors * V;
    T* head = x + row * stride + k / vectors * 2 * half + i;
    float low[V], high[V];
    load(head, low);
    load(head + half, high);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      float c = cos[place + i + e], s = sign * sin[place + i + e], before = low[e];
      low[e] = before * c - high[e] * s;
      high[e] = high[e] * c + before * s;
    }
    store(head, low);
    store(head + half, high);
  }
}
BOTH(rope, (int seq, int stride, int heads, int half, float sign, T* x, const float* cos, const float* sin),
     (seq, stride, heads, half, sign, x, cos, sin))

template <int V>
__device__ void copy_rows(int cols, const T* from, i64 from_stride, T* to, i64 to_stride) {
  Place<V> at(cols);
  if (at.column < cols) put(to + at.row * to_stride + at.column, get<V>(from + at.row * from_stride + at.column));
}
BOTH(copy_rows, (int cols, const T* from, i64 from_stride, T* to, i64 to_stride), (cols, from, from_stride, to, to_stride))

// Rows of a table by id, and the sums of rows that go back there. A table may be one shard of several: ids outside of it have
// no row.

template <int V>
__device__ void embed(int cols, int vocab, int first, const int* ids, const T* table, T* out) {
  Place<V> at(cols);
  if (at.column >= cols) return;
  int id = ids[at.row] - first;
  Pack<T, V> pack = {};
  if (id >= 0 && id < vocab) pack = get<V>(table + (i64)id * cols + at.column);
  put(out + at.row * cols + at.column, pack);
}
BOTH(embed, (int cols, int vocab, int first, const int* ids, const T* table, T* out),
     (cols, vocab, first, ids, table, out))

// So many rows, by their ids' order, make a part.
#define PART 16

// table[ids[i] − first] += dy[order[i]], for ids in order. A part adds runs of equal ids that begin in it to the table; what it
// has of one that began before goes to its row of `heads`, as another part adds to that row of the table at the same time.
template <int V>
__device__ void embed_grad(int rows, int cols, int vocab, int first, const int* ids, const i64* order, const T* dy,
                           float* heads, float* table) {
  int column = (blockIdx.y * blockDim.x + threadIdx.x) * V;
  if (column >= cols) return;
  int from = blockIdx.x * PART, to = min(rows, from + PART), id = ids[from];
  bool began = from > 0 && ids[from - 1] == id;
  float sums[V] = {};
  for (int i = from; i < to; ++i) {
    float given[V];
    load(dy + order[i] * cols + column, given);
#pragma unroll
    for (int e = 0; e < V; ++e) sums[e] += given[e];
    if (i + 1 < to && ids[i + 1] == id) continue;
    int row = id - first;
    float* into = began ? heads + (i64)blockIdx.x * cols + column : table + (i64)row * cols + column;
#pragma unroll
    for (int e = 0; e < V; ++e) {
      if (began) into[e] = sums[e];
      else if (row >= 0 && row < vocab) into[e] += sums[e];
      sums[e] = 0.0f;
    }
    began = false;
    if (i + 1 < to) id = ids[i + 1];
  }
}
BOTH(embed_grad,
     (int rows, int cols, int vocab, int first, const int* ids, const i64* order, const T* dy, float* heads, float* table),
     (rows, cols, vocab, first, ids, order, dy, heads, table))

// Adds what later parts have of the run that begins last in a part.
extern "C" __global__ void embed_heads(int rows, int cols, int vocab, int first, const int* ids, const float* heads,
                                       float* table) {
  int column = blockIdx.y * blockDim.x + threadIdx.x;
  int from = blockIdx.x * PART, to = min(rows, from + PART), id = ids[to - 1], row = id - first;
  bool began = from > 0 && ids[from - 1] == id;
  if (column >= cols || began || to == rows || ids[to] != id || row < 0 || row >= vocab) return;
  int parts = 1;
  while (to + parts * PART < rows && ids[to + parts * PART] == id) ++parts;
  float sum = 0.0f;
#pragma unroll 8
  for (int part = 1; part <= parts; ++part) sum += heads[(i64)(blockIdx.x + part) * cols + column];
  table[(i64)row * cols + column] += sum;
}

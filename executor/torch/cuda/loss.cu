// Cross-entropy over a vocabulary that may be split, one block a row.

// The greatest of a row so far, and Σ exp(x − greatest).
struct Line {
  float greatest, sum;

  __device__ void add(Line other) {
    float both = fmaxf(greatest, other.greatest);
    // Nothing yet, on both sides.
    if (both == -INFINITY) {
      sum += other.sum;
      return;
    }
    sum = sum * __expf(greatest - both) + other.sum * __expf(other.greatest - both);
    greatest = both;
  }
};

// The column of a target in this shard, or −1.
__device__ int local(int target, int first, int own) {
  int column = target - first;
  return target >= 0 && column >= 0 && column < own ? column : -1;
}

// Of each row: the greatest logit, Σ exp(x − greatest), the target's logit or zero: `[3, rows]`. Of a row's `vocab`
// columns the first `own` are words, the others padding.
template <int V>
__device__ void loss_stats(int rows, int vocab, int own, int first, const T* logits, const int* targets, float* stats) {
  __shared__ Line lines[32];
  i64 row = blockIdx.x;
  logits += row * vocab;
  Line line{-INFINITY, 0.0f};
  for (int i = threadIdx.x * V; i < own; i += blockDim.x * V) {
    float x[V];
    load(logits + i, x);
#pragma unroll
    for (int e = 0; e < V; ++e)
      if (i + e >= own) x[e] = -INFINITY;
    float most = x[0], sum = 0.0f;
#pragma unroll
    for (int e = 1; e < V; ++e) most = fmaxf(most, x[e]);
    float greatest = fmaxf(line.greatest, most);
    // All of them −∞ so far.
    if (greatest == -INFINITY) continue;
#pragma unroll
    for (int e = 0; e < V; ++e) sum += __expf(x[e] - greatest);
    line.sum = line.sum * __expf(line.greatest - greatest) + sum;
    line.greatest = greatest;
  }
#pragma unroll
  for (int far = 16; far > 0; far /= 2) {
    float greatest = __shfl_xor_sync(0xffffffffu, line.greatest, far);
    float sum = __shfl_xor_sync(0xffffffffu, line.sum, far);
    line.add(Line{greatest, sum});
  }
  if (threadIdx.x % 32 == 0) lines[threadIdx.x / 32] = line;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int warp = 1; warp < blockDim.x / 32; ++warp) line.add(lines[warp]);
  int column = local(targets[row], first, own);
  stats[row] = line.greatest;
  stats[rows + row] = line.sum;
  stats[2 * rows + row] = column < 0 ? 0.0f : wide(logits[column]);
}
BOTH(loss_stats, (int rows, int vocab, int own, int first, const T* logits, const int* targets, float* stats),
     (rows, vocab, own, first, logits, targets, stats))

// Logits become `(softmax − onehot) · scale · *loss_scale`, zeros where there is no target and in padding; each row's
// loss goes to `losses`. `stats` is `[shards, 3, rows]`.
template <int V>
__device__ void loss(int rows, int vocab, int own, int shards, int first, float scale, const float* loss_scale,
                     const int* targets, const float* stats, T* logits, float* losses) {
  i64 row = blockIdx.x;
  logits += row * vocab;
  int target = targets[row], column = local(target, first, own);
  float greatest = -INFINITY, sum = 0.0f, of_target = 0.0f;
  for (int shard = 0; shard < shards; ++shard) greatest = fmaxf(greatest, stats[shard * 3ll * rows + row]);
  for (int shard = 0; shard < shards; ++shard) {
    const float* own = stats + shard * 3ll * rows + row;
    sum += own[rows] * expf(own[0] - greatest);
    of_target += own[2ll * rows];
  }
  float by = scale * *loss_scale;
  if (threadIdx.x == 0) losses[row] = target < 0 ? 0.0f : greatest + logf(sum) - of_target;
  float each = by / sum;
  for (int i = threadIdx.x * V; i < vocab; i += blockDim.x * V) {
    float x[V];
    load(logits + i, x);
#pragma unroll
    for (int e = 0; e < V; ++e) {
      x[e] = __expf(x[e] - greatest) * each - (i + e == column ? by : 0.0f);
      if (target < 0 || i + e >= own) x[e] = 0.0f;
    }
    store(logits + i, x);
  }
}
BOTH(loss,
     (int rows, int vocab, int own, int shards, int first, float scale, const float* loss_scale, const int* targets,
      const float* stats, T* logits, float* losses),
     (rows, vocab, own, shards, first, scale, loss_scale, targets, stats, logits, losses))

// sum += scale · Σ losses, by one block.
extern "C" __global__ void add_losses(int rows, float scale, const float* losses, float* sum) {
  float mine = 0.0f;
  for (int row = threadIdx.x; row < rows; row += blockDim.x) mine += losses[row];
  float all = row_sums(mine, 0.0f).x;
  if (threadIdx.x == 0) *sum += scale * all;
}

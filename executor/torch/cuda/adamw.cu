// AdamW, with clipping to a norm whose square lies on the device.

// What changes from step to step, and so lies on the device.
struct Settings {
  float loss_scale, lr, bias1, bias2;
};

// What does not.
struct Fixed {
  float beta1, beta2, eps, weight_decay, clip;
};

// The first `decayed` of `n` weights decay. Where the norm is not finite nothing is updated. `copy`, if any, gets the weights
// rounded.
template <int V>
__device__ void adamw(i64 n, i64 decayed, Fixed h, const Settings* now, const float* square, const float* g, float* w,
                      float* m, float* v, T* copy) {
  Settings s = *now;
  float norm = sqrtf(*square) / s.loss_scale;
  bool update = isfinite(*square);
  float shrink = (h.clip > 0.0f ? fminf(1.0f, h.clip / (norm + 1e-6f)) : 1.0f) / s.loss_scale;
  float rate = s.lr / s.bias1, root = 1.0f / sqrtf(s.bias2), kept = 1.0f - s.lr * h.weight_decay;
  for (i64 i = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * V; i < n; i += (i64)gridDim.x * blockDim.x * V) {
    Pack<float, V> to_w = get<V>(w + i);
    if (update) {
      Pack<float, V> to_m = get<V>(m + i), to_v = get<V>(v + i), of_g = get<V>(g + i);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        float grad = of_g.at[e] * shrink;
        to_m.at[e] = h.beta1 * to_m.at[e] + (1.0f - h.beta1) * grad;
        to_v.at[e] = h.beta2 * to_v.at[e] + (1.0f - h.beta2) * grad * grad;
        float by = rate * to_m.at[e] / (sqrtf(to_v.at[e]) * root + h.eps);
        to_w.at[e] = to_w.at[e] * (i + e < decayed ? kept : 1.0f) - by;
      }
      put(m + i, to_m);
      put(v + i, to_v);
      put(w + i, to_w);
    }
    if (copy) {
      Pack<T, V> rounded;
#pragma unroll
      for (int e = 0; e < V; ++e) rounded.at[e] = narrow(to_w.at[e]);
      put(copy + i, rounded);
    }
  }
}
extern "C" __global__ void adamw_w(i64 n, i64 decayed, Fixed h, const Settings* now, const float* square, const float* g,
                                   float* w, float* m, float* v, T* copy) {
  adamw<4>(n, decayed, h, now, square, g, w, m, v, copy);
}
extern "C" __global__ void adamw_1(i64 n, i64 decayed, Fixed h, const Settings* now, const float* square, const float* g,
                                   float* w, float* m, float* v, T* copy) {
  adamw<1>(n, decayed, h, now, square, g, w, m, v, copy);
}

// The kernels of ../cuda on the host, by emulator.h, in the format that FORMAT says, beside plain code in double. Prints what is
// off; the exit status is how many kernels are.

#include "emulator.h"

#include "all.cu"

#include <random>

using Doubles = std::vector<double>;
using Floats = std::vector<float>;
using Elems = std::vector<T>;

static std::mt19937 random_bits(1);
static int off = 0;

static float number(float most) { return std::uniform_real_distribution<float>(-most, most)(random_bits); }
static Floats floats(size_t n) {
  Floats all(n);
  for (float& x : all) x = number(1);
  return all;
}
static Elems elems(size_t n, float most = 1) {
  Elems all(n);
  for (T& x : all) x = narrow(number(most));
  return all;
}
static Doubles doubles(const Elems& x) {
  Doubles all;
  for (T e : x) all.push_back(wide(e));
  return all;
}
static Doubles of_floats(const Floats& x) { return Doubles(x.begin(), x.end()); }

// Of an element against its own size or the mean one, whichever is greater.
static void check(const char* kernel, const Doubles& got, const Doubles& want, double tolerance) {
  double mean = 0, worst = 0;
  for (double x : want) mean += std::fabs(x) / want.size();
  for (size_t i = 0; i < want.size(); ++i) {
    double error = std::fabs(got[i] - want[i]) / std::max({std::fabs(want[i]), mean, 1e-9});
    // Not `max`: a NaN must stay.
    if (!(error <= worst)) worst = error;
  }
  if (worst <= tolerance) return;
  std::printf("%s in format %d is off by %g\n", kernel, FORMAT, worst);
  ++off;
}
static const double SUM = 2e-5, ROUNDED = SUM + (FORMAT == 0 ? 0 : 1.0 / 256);
static void check(const char* kernel, const Elems& got, const Doubles& want) { check(kernel, doubles(got), want, ROUNDED); }
static void check_sums(const char* kernel, const Floats& got, const Doubles& want) {
  check(kernel, of_floats(got), want, SUM);
}

// Sizes of a case, and which of a kernel's two widths runs.
struct Case {
  int rows, cols;
  bool vectors;
  int width() const { return vectors ? WIDE : 1; }
  Shape elementwise(int of_rows) const { return {of_rows * unsigned((cols + 256 * width() - 1) / (256 * width()))}; }
};
#define RUN(name) (c.vectors ? name##_w : name##_1)

static void norms(Case c, bool layer) {
  unsigned vectors = (c.cols + c.width() - 1) / c.width(), each = (vectors + HELD - 1) / HELD;
  Shape threads{std::max(32u, (each + 31) / 32 * 32)};
  threads.y = threads.x == 32 ? 4 : 1;
  Elems x = elems(c.rows * c.cols), gain = elems(c.cols), bias = elems(c.cols), dy = elems(x.size()), y(x.size());
  Elems before = elems(x.size()), dx = before;
  Floats stats(2 * c.rows), dgain = floats(c.cols), dbias = floats(c.cols);
  Doubles want(x.size()), want_dx(x.size()), want_gain = of_floats(dgain), want_bias = of_floats(dbias);
  for (int row = 0; row < c.rows; ++row) {
    auto at = [&](const Elems& all, int i) { return (double)wide(all[row * c.cols + i]); };
    double mean = 0, square = 0, sum = 0, product = 0;
    for (int i = 0; layer && i < c.cols; ++i) mean += at(x, i) / c.cols;
    for (int i = 0; i < c.cols; ++i) square += std::pow(at(x, i) - mean, 2) / c.cols;
    double scale = 1 / std::sqrt(square + 1e-5);
    auto shape = [&](int i) { return (at(x, i) - mean) * scale; };
    for (int i = 0; i < c.cols; ++i) {
      want[row * c.cols + i] = shape(i) * wide(gain[i]) + (layer ? wide(bias[i]) : 0);
      sum += layer ? at(dy, i) * wide(gain[i]) / c.cols : 0;
      product += at(dy, i) * wide(gain[i]) * shape(i) / c.cols;
      want_gain[i] += at(dy, i) * shape(i);
      want_bias[i] += at(dy, i);
    }
    for (int i = 0; i < c.cols; ++i)
      want_dx[row * c.cols + i] = at(before, i) + scale * (at(dy, i) * wide(gain[i]) - sum - shape(i) * product);
  }
  launch({(c.rows + threads.y - 1) / threads.y}, threads, [&] {
    if (layer) RUN(layer_norm)(c.rows, c.cols, 1e-5f, x.data(), gain.data(), bias.data(), y.data(), stats.data());
    else RUN(rms_norm)(c.rows, c.cols, 1e-5f, x.data(), gain.data(), y.data(), stats.data());
  });
  check("norm", y, want);
  unsigned blocks = 3, sums = layer ? 2 : 1;
  Floats parts(blocks * sums * c.cols);
  launch({blocks}, threads, [&] {
    auto grad = layer ? RUN(layer_norm_grad) : RUN(rms_norm_grad);
    grad(c.rows, c.cols, 1, x.data(), gain.data(), stats.data(), dy.data(), dx.data(), parts.data());
  });
  launch({(c.cols + 31u) / 32, sums}, {32, 16},
         [&] { add_parts(blocks, sums * c.cols, c.cols, parts.data(), dgain.data(), dbias.data()); });
  check("norm_grad's dx", dx, want_dx);
  check_sums("norm_grad's gain", dgain, want_gain);
  if (layer) check_sums("norm_grad's bias", dbias, want_bias);
}

static void sums(Case c) {
  Elems x = elems(c.rows * c.cols);
  Floats db = floats(c.cols), parts(3 * c.cols);
  Doubles want = of_floats(db);
  for (size_t i = 0; i < x.size(); ++i) want[i % c.cols] += wide(x[i]);
  unsigned across = (c.cols + 32 * c.width() - 1) / (32 * c.width());
  launch({across, 3}, {32, 8}, [&] { RUN(column_sums)(c.rows, c.cols, x.data(), parts.data()); });
  launch({(c.cols + 31u) / 32}, {32, 16},
         [&] { add_parts(3, c.cols, c.cols, parts.data(), db.data(), nullptr); });
  check_sums("column_sums", db, want);
}

static void pointwise(Case c) {
  Elems u = elems(2 * c.rows * c.cols, 5), dout = elems(c.rows * c.cols), bias = elems(c.cols), out(dout.size()), du(u.size());
  Elems rows(3 * c.rows * c.cols, narrow(7));
  Doubles gated(dout.size()), want_du(u.size()), sum(dout.size()), copied(rows.size(), 7);
  for (int i = 0; i < c.rows * c.cols; ++i) {
    int row = i / c.cols, col = i % c.cols, gate_at = row * 2 * c.cols + col;
    double gate = wide(u[gate_at]), up = wide(u[gate_at + c.cols]), share = 1 / (1 + std::exp(-gate)), d = wide(dout[i]);
    gated[i] = gate * share * up;
    want_du[gate_at] = d * up * share * (1 + gate * (1 - share));
    want_du[gate_at + c.cols] = d * gate * share;
    sum[i] = d + wide(u[i]) + wide(bias[col]);
    copied[row * 3 * c.cols + c.cols + col] = up;
  }
  Shape blocks = c.elementwise(c.rows), threads{256};
  launch(blocks, threads, [&] { RUN(swiglu)(c.cols, u.data(), out.data()); });
  check("swiglu", out, gated);
  launch(blocks, threads, [&] { RUN(swiglu_grad)(c.cols, u.data(), dout.data(), du.data()); });
  check("swiglu_grad", du, want_du);
  launch(blocks, threads, [&] {
    RUN(copy_rows)(c.cols, u.data() + c.cols, 2 * c.cols, rows.data() + c.cols, 3 * c.cols);
  });
  check("copy_rows", rows, copied);
  // Over its operand.
  launch(blocks, threads, [&] { RUN(add)(c.cols, dout.data(), u.data(), bias.data(), dout.data()); });
  check("add", dout, sum);
}

static void rotations(Case c, float sign) {
  int seq = 3, heads = 2, half = c.vectors ? 2 * WIDE : 3, stride = heads * 2 * half + c.width();
  Elems x = elems(c.rows * stride);
  Doubles want = doubles(x);
  Floats cos(seq * half), sin(seq * half);
  for (int i = 0; i < seq * half; ++i) cos[i] = std::cos(i), sin[i] = std::sin(i);
  for (int row = 0; row < c.rows; ++row)
    for (int pair = 0; pair < heads * half; ++pair) {
      int low = row * stride + pair / half * 2 * half + pair % half, place = row % seq * half + pair % half;
      double a = want[low], b = want[low + half], s = sign * sin[place];
      want[low] = a * cos[place] - b * s;
      want[low + half] = b * cos[place] + a * s;
    }
  launch({unsigned(c.rows)}, {64}, [&] { RUN(rope)(seq, stride, heads, half, sign, x.data(), cos.data(), sin.data()); });
  check("rope", x, want);
}

static void embeddings(Case c) {
  // Runs of equal ids over several parts, ids of other shards, one that is none.
  int vocab = 5, first = 3, n = 97;
  std::vector<int> ids(n), sorted(n);
  for (int& id : ids) id = random_bits() % 3 ? 4 : random_bits() % 12;
  ids[3] = -1;
  std::vector<i64> order(n);
  for (int i = 0; i < n; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](i64 a, i64 b) { return ids[a] < ids[b]; });
  for (int i = 0; i < n; ++i) sorted[i] = ids[order[i]];
  Elems table = elems(vocab * c.cols), out(n * c.cols), dy = elems(n * c.cols);
  Floats sums = floats(vocab * c.cols), heads((n + PART - 1) / PART * c.cols, 1e9f);
  Doubles want(out.size()), want_sums = of_floats(sums);
  for (int i = 0; i < n * c.cols; ++i) {
    int row = ids[i / c.cols] - first, at = row * c.cols + i % c.cols;
    if (row < 0 || row >= vocab) continue;
    want[i] = wide(table[at]);
    want_sums[at] += wide(dy[i]);
  }
  launch(c.elementwise(n), {256}, [&] { RUN(embed)(c.cols, vocab, first, ids.data(), table.data(), out.data()); });
  check("embed", out, want);
  unsigned parts = (n + PART - 1) / PART, tile = 64 * c.width();
  launch({parts, (c.cols + tile - 1) / tile}, {64}, [&] {
    RUN(embed_grad)(n, c.cols, vocab, first, sorted.data(), order.data(), dy.data(), heads.data(), sums.data());
  });
  launch({parts, (c.cols + 63u) / 64}, {64},
         [&] { embed_heads(n, c.cols, vocab, first, sorted.data(), heads.data(), sums.data()); });
  check_sums("embed_grad", sums, want_sums);
}

static void losses(Case c) {
  // Two shards of a vocabulary, of which the second has its gradient made, and padding at its end.
  int vocab = c.cols, own[2] = {vocab, vocab - vocab / 3};
  Elems shards[2] = {elems(c.rows * vocab, 10), elems(c.rows * vocab, 10)};
  std::vector<int> targets(c.rows);
  for (int& target : targets) target = random_bits() % (vocab + own[1]);
  targets[c.rows / 2] = -1;
  Floats stats(2 * 3 * c.rows), rows(c.rows), sum = {1};
  Shape blocks{unsigned(c.rows)}, threads{128};
  for (int shard = 0; shard < 2; ++shard)
    launch(blocks, threads, [&] {
      RUN(loss_stats)(c.rows, vocab, own[shard], shard * vocab, shards[shard].data(), targets.data(), stats.data() + shard * 3 * c.rows);
    });
  Doubles want_stats(2 * 3 * c.rows), want(c.rows * vocab), want_sum = {1};
  float loss_scale = 4;
  for (int row = 0; row < c.rows; ++row) {
    double all = 0, of_target = 0;
    for (int shard = 0; shard < 2; ++shard) {
      auto at = [&](int i) { return (double)wide(shards[shard][row * vocab + i]); };
      double *want_own = &want_stats[shard * 3 * c.rows + row], most = at(0);
      for (int i = 1; i < own[shard]; ++i) most = std::max(most, at(i));
      for (int i = 0; i < own[shard]; ++i) want_own[c.rows] += std::exp(at(i) - most), all += std::exp(at(i));
      want_own[0] = most;
      if (targets[row] >= 0 && targets[row] / vocab == shard) want_own[2 * c.rows] = of_target = at(targets[row] % vocab);
    }
    if (targets[row] < 0) continue;
    want_sum[0] += 0.25 * (std::log(all) - of_target);
    for (int i = 0; i < own[1]; ++i)
      want[row * vocab + i] = std::exp(wide(shards[1][row * vocab + i])) / all - (targets[row] == vocab + i);
  }
  check_sums("loss_stats", stats, want_stats);
  launch(blocks, threads, [&] {
    RUN(loss)(c.rows, vocab, own[1], 2, vocab, 0.25f, &loss_scale, targets.data(), stats.data(), shards[1].data(), rows.data());
  });
  check("loss", shards[1], want);
  launch({1}, {512}, [&] { add_losses(c.rows, 0.25f, rows.data(), sum.data()); });
  check_sums("add_losses", sum, want_sum);
}

static void updates(Case c) {
  i64 n = c.rows * c.cols;
  Floats g = floats(n), w = floats(n), m = floats(n), v = floats(n);
  for (float& x : v) x = std::fabs(x);
  Settings now{4, 0.01f, 0.271f, 0.0975f};
  Fixed fixed{0.9f, 0.95f, 1e-8f, 0.1f, 0.5f};
  float square = 7.3f, infinite = INFINITY;
  Elems copy(n);
  Doubles want_w(n), want_m(n), want_v(n);
  double shrink = 0.5 / (std::sqrt(7.3) / 4 + 1e-6) / 4;
  for (i64 i = 0; i < n; ++i) {
    double grad = g[i] * shrink;
    want_m[i] = 0.9 * m[i] + 0.1 * grad;
    want_v[i] = 0.95 * v[i] + 0.05 * grad * grad;
    want_w[i] = w[i] * (i < n / 2 ? 0.999 : 1) - 0.01 / 0.271 * want_m[i] / (std::sqrt(want_v[i] / 0.0975) + 1e-8);
  }
  // The second changes nothing.
  for (const float* norm : {&square, &infinite}) {
    launch({2}, {64}, [&] {
      RUN(adamw)(n, n / 2, fixed, &now, norm, g.data(), w.data(), m.data(), v.data(), copy.data());
    });
    check_sums("adamw's weights", w, want_w);
    check_sums("adamw's first moment", m, want_m);
    check_sums("adamw's second moment", v, want_v);
    check("adamw's copy", copy, want_w);
  }
}

int main() {
  for (Case c : {Case{5, 768, true}, {7, 67, false}, {2, 4096, true}, {40, 64, true}, {2, 1000, false}}) {
    norms(c, true), norms(c, false), sums(c), pointwise(c), rotations(c, 1), rotations(c, -1);
    embeddings(c), losses(c), updates(c);
  }
  return off;
}

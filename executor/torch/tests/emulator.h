// As much of CUDA as the kernels of ../cuda use, on one thread of the host: a block's threads are fibers that take turns from
// one barrier to the next. Blocks run one after another.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)

struct float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

template <typename To, typename From>
To same_bits(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline float __int_as_float(int bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline float __expf(float x) { return std::exp(x); }
using std::isfinite;
using std::min;

struct Shape {
  unsigned x = 1, y = 1;
};
static Shape threadIdx, blockIdx, blockDim, gridDim;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done = false;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static size_t running;
static std::function<void()> kernel;

static void enter() {
  kernel();
  fibers[running].done = true;
  swapcontext(&fibers[running].context, &scheduler);
}

// All of a block's threads come here before any goes on.
inline void __syncthreads() { swapcontext(&fibers[running].context, &scheduler); }

inline float __shfl_xor_sync(unsigned, float x, int far) {
  static float given[1024];
  size_t me = running;
  given[me] = x;
  __syncthreads();
  float got = given[me ^ far];
  __syncthreads();
  return got;
}

// Runs a kernel, as a closure, on blocks of threads.
inline void launch(Shape blocks, Shape threads, std::function<void()> body) {
  gridDim = blocks, blockDim = threads, kernel = body;
  for (unsigned block = 0; block < blocks.x * blocks.y; ++block) {
    blockIdx = {block % blocks.x, block / blocks.x};
    fibers = std::vector<Fiber>(threads.x * threads.y);
    for (Fiber& fiber : fibers) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      makecontext(&fiber.context, enter, 0);
    }
    for (bool left = true; left;) {
      left = false;
      for (running = 0; running < fibers.size(); ++running) {
        if (fibers[running].done) continue;
        threadIdx = {unsigned(running % threads.x), unsigned(running / threads.x)};
        swapcontext(&scheduler, &fibers[running].context);
        left |= !fibers[running].done;
      }
    }
  }
}

// Working memory of a rank's kernels on the CPU: blocks that are kept and given again, so that their sum is known and
// their pages are touched once. And the mode in which ops run: without autograd's book-keeping.

#include "gaps.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

using meshwright::attempt;

namespace {

struct Pool : std::enable_shared_from_this<Pool> {
  c10::Allocator* below;
  std::mutex mutex;
  // Free blocks by size.
  std::map<size_t, std::vector<c10::DataPtr>> free;
  std::atomic<uint64_t> bytes{0};
};

struct Block {
  std::shared_ptr<Pool> pool;
  size_t size;
  c10::DataPtr memory;
};

void give_back(void* context) {
  std::unique_ptr<Block> block(static_cast<Block*>(context));
  std::lock_guard<std::mutex> lock(block->pool->mutex);
  block->pool->free[block->size].push_back(std::move(block->memory));
}

thread_local std::shared_ptr<Pool> current;

// Sizes come in eighths of powers of two, so that one block serves ops of nearly the same size.
size_t rounded(size_t bytes) {
  size_t step = 64;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

struct Pools : c10::Allocator {
  c10::Allocator* below;

  c10::DataPtr allocate(size_t bytes) override {
    if (!current || bytes == 0) return below->allocate(bytes);
    size_t size = rounded(bytes);
    auto block = std::make_unique<Block>(Block{current, size, {}});
    {
      std::lock_guard<std::mutex> lock(current->mutex);
      auto& free = current->free[size];
      if (!free.empty()) {
        block->memory = std::move(free.back());
        free.pop_back();
      }
    }
    if (!block->memory) {
      block->memory = below->allocate(size);
      current->bytes += size;
    }
    void* data = block->memory.get();
    return {data, block.release(), &give_back, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// Puts the pools above libtorch's own allocator, once.
void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    static Pools pools;
    pools.below = c10::GetCPUAllocator();
    c10::SetCPUAllocator(&pools, 1);
  });
}

thread_local std::optional<c10::InferenceMode> mode;

}  // namespace

extern "C" {

void* gaps_pool() {
  install();
  return new std::shared_ptr<Pool>(std::make_shared<Pool>());
}

void gaps_free_pool(void* pool) { delete static_cast<std::shared_ptr<Pool>*>(pool); }

uint64_t gaps_pool_bytes(void* pool) { return (*static_cast<std::shared_ptr<Pool>*>(pool))->bytes; }

// What this thread asks for until `gaps_leave` comes from the pool, if one is given.
void gaps_enter(void* pool) {
  if (pool) current = *static_cast<std::shared_ptr<Pool>*>(pool);
  mode.emplace();
}

void gaps_leave() {
  mode.reset();
  current.reset();
}

// Bytes that CUDA's caching allocator has handed out: now, and at most so far; and that the device has.
bool gaps_cuda_bytes(int32_t device, uint64_t* now, uint64_t* most, uint64_t* all) {
  return attempt([&] {
    auto* allocator = at::getDeviceAllocator(c10::kCUDA);
    auto stats = allocator->getDeviceStats(device);
    *now = stats.allocated_bytes[0].current;
    *most = stats.allocated_bytes[0].peak;
    *all = allocator->getMemoryInfo(device).second;
  });
}

}  // extern "C"

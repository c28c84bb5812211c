// Working memory of a rank's kernels on the CPU: blocks that are kept and given again, so that their sum is known and
// their pages are touched once. And the mode in which ops run: without autograd's book-keeping.

#include "ffi.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

using meshwright::attempt;

namespace {

// What stands before a block's memory, which begins on a cache line.
struct Pool;
struct alignas(64) Head {
  // None for memory that no pool keeps.
  std::shared_ptr<Pool> pool;
  size_t size;
};

struct Pool {
  std::mutex mutex;
  // Free blocks by size.
  std::map<size_t, std::vector<Head*>> free;
  std::atomic<uint64_t> bytes{0};

  ~Pool() {
    for (auto& [size, blocks] : free)
      for (Head* block : blocks) c10::free_cpu(block);
  }
};

thread_local std::shared_ptr<Pool> current;

Head* allocate(size_t size) { return new (c10::alloc_cpu(sizeof(Head) + size)) Head{nullptr, size}; }

void give_back(void* memory) {
  if (!memory) return;
  Head* head = static_cast<Head*>(memory) - 1;
  // A free block does not keep its pool alive.
  std::shared_ptr<Pool> pool = std::move(head->pool);
  if (!pool) return c10::free_cpu(head);
  std::lock_guard<std::mutex> lock(pool->mutex);
  pool->free[head->size].push_back(head);
}

// Sizes come in eighths of powers of two, so that one block serves ops of nearly the same size.
size_t rounded(size_t bytes) {
  size_t step = 64;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

Head* from(const std::shared_ptr<Pool>& pool, size_t size) {
  Head* head = nullptr;
  {
    std::lock_guard<std::mutex> lock(pool->mutex);
    auto& free = pool->free[size];
    if (!free.empty()) {
      head = free.back();
      free.pop_back();
    }
  }
  if (!head) {
    head = allocate(size);
    pool->bytes += size;
  }
  head->pool = pool;
  return head;
}

struct Pools : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &give_back, c10::Device(c10::kCPU)};
    Head* head = current ? from(current, rounded(bytes)) : ::allocate(bytes);
    return {head + 1, head + 1, &give_back, c10::Device(c10::kCPU)};
  }

  // oneDNN asks for memory without a tensor.
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

// Puts the pools above libtorch's own allocator, once.
void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    static Pools pools;
    c10::SetCPUAllocator(&pools, 1);
  });
}

thread_local std::optional<c10::InferenceMode> mode;

}  // namespace

extern "C" {

void* ffi_pool() {
  install();
  return new std::shared_ptr<Pool>(std::make_shared<Pool>());
}

void ffi_free_pool(void* pool) { delete static_cast<std::shared_ptr<Pool>*>(pool); }

uint64_t ffi_pool_bytes(void* pool) { return (*static_cast<std::shared_ptr<Pool>*>(pool))->bytes; }

// What this thread asks for until `ffi_leave` comes from the pool, if one is given.
void ffi_enter(void* pool) {
  if (pool) current = *static_cast<std::shared_ptr<Pool>*>(pool);
  mode.emplace();
}

void ffi_leave() {
  mode.reset();
  current.reset();
}

// Bytes that CUDA's caching allocator has handed out: now, and at most so far; and that the device has.
bool ffi_cuda_bytes(int32_t device, uint64_t* now, uint64_t* most, uint64_t* all) {
  return attempt([&] {
    auto* allocator = at::getDeviceAllocator(c10::kCUDA);
    auto stats = allocator->getDeviceStats(device);
    *now = stats.allocated_bytes[0].current;
    *most = stats.allocated_bytes[0].peak;
    *all = allocator->getMemoryInfo(device).second;
  });
}

}  // extern "C"

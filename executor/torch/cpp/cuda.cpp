// What links CUDA's libraries: graphs, and what a device is called. A library of its own, opened only where CUDA is used.

#include "ffi.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <mutex>

namespace meshwright {
thread_local std::string problem;
}

using at::cuda::CUDAGraph;
using meshwright::attempt;

extern "C" {

const char* ffi_cuda_problem() { return meshwright::problem.c_str(); }

// How many there are; the allocator knows them from here on.
uint32_t ffi_cuda_devices() {
  auto devices = static_cast<uint32_t>(c10::cuda::device_count());
  bool ready = devices > 0 && attempt([] { at::globalContext().lazyInitDevice(c10::kCUDA); });
  return ready ? devices : 0;
}

// Name and compute capability, into `text` of `room` bytes; driver's and runtime's versions.
bool ffi_cuda_describe(int32_t device, char* text, size_t room, int32_t* driver, int32_t* runtime) {
  return attempt([&] {
    cudaDeviceProp properties;
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    std::snprintf(text, room, "%s, compute capability %d.%d", properties.name, properties.major, properties.minor);
    C10_CUDA_CHECK(cudaDriverGetVersion(driver));
    C10_CUDA_CHECK(cudaRuntimeGetVersion(runtime));
  });
}

// A stream for a rank, as graphs cannot be captured on the default one, and a pool of memory for its graphs.
bool ffi_cuda_rank(int32_t device, int64_t* stream, uint64_t* pool) {
  return attempt([&] {
    C10_CUDA_CHECK(cudaSetDevice(device));
    // Products are summed in fp32, also where a sum is split.
    at::globalContext().setAllowBF16ReductionCuBLAS(false);
    at::globalContext().setAllowFP16ReductionCuBLAS(false);
    *stream = c10::cuda::getStreamFromPool(false, device).id();
    std::tie(pool[0], pool[1]) = at::cuda::graph_pool_handle();
  });
}

// Makes a rank's stream this thread's.
bool ffi_cuda_stream(int32_t device, int64_t stream) {
  return attempt([&] {
    C10_CUDA_CHECK(cudaSetDevice(device));
    auto of_device = c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
    c10::Stream rank(c10::Stream::UNSAFE, of_device, stream);
    c10::cuda::setCurrentCUDAStream(c10::cuda::CUDAStream(rank));
  });
}

bool ffi_cuda_sync() {
  return attempt([] { c10::cuda::getCurrentCUDAStream().synchronize(); });
}

// libtorch books all of a device's graphs with its generator of random numbers, which nothing guards, and which lets none be
// replayed while another is captured: from a graph's begin to its end, what other ranks do with theirs waits.
static std::mutex booking;

// Graphs of a rank share a pool: they run one after another, and keep nothing from one to the next. `ffi_graph_end` has to
// follow on the same thread if a graph is given.
void* ffi_graph_begin(const uint64_t* pool) {
  std::unique_lock<std::mutex> lock(booking);
  CUDAGraph* graph = nullptr;
  bool begun = attempt([&] {
    graph = new CUDAGraph();
    // Other threads' allocations, of other ranks, must not end the capture.
    graph->capture_begin({pool[0], pool[1]}, cudaStreamCaptureModeThreadLocal);
  });
  if (!begun) {
    delete graph;
    return nullptr;
  }
  lock.release();
  return graph;
}

bool ffi_graph_end(void* graph) {
  std::lock_guard<std::mutex> lock(booking, std::adopt_lock);
  return attempt([&] { static_cast<CUDAGraph*>(graph)->capture_end(); });
}

bool ffi_graph_replay(void* graph) {
  std::lock_guard<std::mutex> lock(booking);
  return attempt([&] { static_cast<CUDAGraph*>(graph)->replay(); });
}

// Events that keep time.
void* ffi_event() {
  cudaEvent_t event = nullptr;
  bool made = attempt([&] { C10_CUDA_CHECK(cudaEventCreate(&event)); });
  return made ? event : nullptr;
}

// In a graph an event has to be an outside one, so that it can be asked for its moment.
bool ffi_event_record(void* event) {
  return attempt([&] {
    auto stream = c10::cuda::getCurrentCUDAStream();
    cudaStreamCaptureStatus capturing;
    C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &capturing));
    auto how = capturing == cudaStreamCaptureStatusActive ? cudaEventRecordExternal : cudaEventRecordDefault;
    C10_CUDA_CHECK(cudaEventRecordWithFlags(static_cast<cudaEvent_t>(event), stream, how));
  });
}

bool ffi_event_elapsed(void* from, void* to, float* ms) {
  return attempt([&] {
    C10_CUDA_CHECK(cudaEventElapsedTime(ms, static_cast<cudaEvent_t>(from), static_cast<cudaEvent_t>(to)));
  });
}

void ffi_event_free(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

void ffi_graph_free(void* graph) {
  std::lock_guard<std::mutex> lock(booking);
  delete static_cast<CUDAGraph*>(graph);
}

}  // extern "C"

// Kernels of our own on CUDA, from their text: compiled by NVRTC, which comes with torch, when they are first asked for.

#include "ffi.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <map>
#include <mutex>
#include <tuple>
#include <vector>

using meshwright::attempt;

namespace {

// NVRTC's functions, by name: its header is in none of torch's packages.
struct Compiler {
  using Program = void*;
  int (*create)(Program*, const char* source, const char* name, int, const char* const*, const char* const*);
  int (*compile)(Program, int, const char* const*);
  int (*code_size)(Program, size_t*);
  int (*code)(Program, char*);
  int (*log_size)(Program, size_t*);
  int (*log)(Program, char*);
  int (*destroy)(Program*);

  explicit Compiler(void* library) {
    auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      TORCH_CHECK(function, "NVRTC has no ", name);
    };
    find(create, "nvrtcCreateProgram");
    find(compile, "nvrtcCompileProgram");
    find(code_size, "nvrtcGetCUBINSize");
    find(code, "nvrtcGetCUBIN");
    find(log_size, "nvrtcGetProgramLogSize");
    find(log, "nvrtcGetProgramLog");
    find(destroy, "nvrtcDestroyProgram");
  }
};

// Where libtorch's own loader would look: beside it, and in the package that its wheel asks for.
void* open_nvrtc() {
  std::string name = "libnvrtc.so." + std::to_string(CUDART_VERSION / 1000), folder;
  Dl_info torch;
  if (dladdr(reinterpret_cast<void*>(&c10::cuda::device_count), &torch) && torch.dli_fname)
    folder = torch.dli_fname, folder.resize(folder.rfind('/') + 1);
  std::string package = "../../nvidia/cu" + std::to_string(CUDART_VERSION / 1000) + "/lib/";
  for (const std::string& path : {folder + package + name, folder + name, name})
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  TORCH_CHECK(false, name, " is neither beside libtorch nor in ", folder + package, " nor where the loader looks");
}

// The machine code of all kernels, for an architecture as CUDA writes it.
std::vector<char> compiled(const char* source, int32_t format, const std::string& architecture) {
  static const Compiler nvrtc(open_nvrtc());
  Compiler::Program program;
  TORCH_CHECK(nvrtc.create(&program, source, "meshwright.cu", 0, nullptr, nullptr) == 0, "NVRTC does not start");
  std::string target = "--gpu-architecture=sm_" + architecture, formats = "-DFORMAT=" + std::to_string(format);
  const char* options[] = {target.c_str(), formats.c_str(), "-std=c++17"};
  bool done = nvrtc.compile(program, std::size(options), options) == 0;
  size_t size = 0;
  std::vector<char> text;
  (done ? nvrtc.code_size : nvrtc.log_size)(program, &size);
  text.resize(size + 1);
  (done ? nvrtc.code : nvrtc.log)(program, text.data());
  nvrtc.destroy(&program);
  TORCH_CHECK(done, "NVRTC does not compile kernels for sm_", architecture, ": ", text.data());
  return text;
}

// A kernel for the current device.
cudaKernel_t find(const char* source, int32_t format, const char* name) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, int32_t>, cudaLibrary_t> libraries;
  static std::map<std::tuple<std::string, int32_t, std::string>, cudaKernel_t> kernels;
  int device = c10::cuda::current_device(), major, minor;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  std::string architecture = std::to_string(major) + std::to_string(minor);
  std::lock_guard<std::mutex> lock(mutex);
  auto [kernel, fresh] = kernels.try_emplace({architecture, format, name}, nullptr);
  if (fresh || !kernel->second) {
    auto& library = libraries[{architecture, format}];
    if (!library) {
      auto code = compiled(source, format, architecture);
      C10_CUDA_CHECK(cudaLibraryLoadData(&library, code.data(), nullptr, nullptr, 0, nullptr, nullptr, 0));
    }
    C10_CUDA_CHECK(cudaLibraryGetKernel(&kernel->second, library, name));
  }
  return kernel->second;
}

}  // namespace

extern "C" {

// Runs a kernel of `source` in a format on this thread's stream: `shape` is blocks by x and y, and threads of each;
// `arguments` point to values.
bool ffi_cuda_launch(const char* source, int32_t format, const char* name, const uint32_t* shape, void** arguments) {
  return attempt([&] {
    const void* kernel = find(source, format, name);
    dim3 blocks(shape[0], shape[1]), threads(shape[2], shape[3]);
    C10_CUDA_CHECK(cudaLaunchKernel(kernel, blocks, threads, arguments, 0, c10::cuda::getCurrentCUDAStream()));
  });
}

}  // extern "C"

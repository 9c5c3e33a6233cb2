#include <cuda_runtime.h>

#include <cstring>

#include "kernels.cuh"
#include "launch.h"

namespace reg4rec {

namespace {

constexpr size_t kUsualShared = 44 << 10;

struct Kernel {
  const char* name;
  const void* function;
  size_t num_bytes;
};

template <typename Arguments>
constexpr size_t size_of_arguments(void (*)(Arguments)) {
  return sizeof(Arguments);
}

#define REG4REC_ENTRY(kernel) {#kernel, reinterpret_cast<const void*>(kernel), size_of_arguments(kernel)},
const Kernel kKernels[] = {REG4REC_KERNELS(REG4REC_ENTRY)};
#undef REG4REC_ENTRY

}  // namespace

const char* launch_cuda(const Launch& launch) {
  for (const Kernel& kernel : kKernels) {
    if (std::strcmp(kernel.name, launch.kernel) != 0) continue;
    if (kernel.num_bytes != launch.num_bytes) return "the arguments are not those of the kernel";
    if (launch.shared > kUsualShared) {  // the least that every GPU has, less what the kernels declare
      const cudaError_t refused = cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                       static_cast<int>(launch.shared));
      if (refused != cudaSuccess) return cudaGetErrorString(refused);
    }
    void* arguments[] = {const_cast<void*>(launch.arguments)};
    const cudaError_t error = cudaLaunchKernel(kernel.function, dim3(launch.grid), dim3(launch.block), arguments,
                                               launch.shared, static_cast<cudaStream_t>(launch.stream));
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
  return "there is no such kernel";
}

}  // namespace reg4rec

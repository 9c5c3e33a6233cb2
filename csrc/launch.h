// Launches a CUDA kernel of kernels.cuh by its name.
#pragma once

#include <cstddef>

namespace reg4rec {

struct Launch {
  const char* kernel;
  unsigned grid, block;   // blocks, and threads of each
  size_t shared;          // bytes
  const void* arguments;  // the kernel's struct
  size_t num_bytes;
  void* stream;  // a cudaStream_t
};

// Returns an error message, or null.
const char* launch_cuda(const Launch& launch);

}  // namespace reg4rec

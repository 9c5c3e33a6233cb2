#include <cuda_runtime.h>

#include "js_divergence.cuh"
#include "js_divergence.h"

namespace reg4rec {

const char* js_divergence_cuda(const JsDivergence& args, void* stream) {
  if (args.num_rows == 0) return nullptr;
  const dim3 block(REG4REC_WARP, REG4REC_ROWS_PER_BLOCK);
  const dim3 grid(static_cast<unsigned>((args.num_rows + REG4REC_ROWS_PER_BLOCK - 1) / REG4REC_ROWS_PER_BLOCK));
  const auto launch = [&](auto kernel, auto* element) {
    using In = decltype(element);
    kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(
        static_cast<In>(args.p_logits), static_cast<In>(args.q_logits), args.stride_pn, args.stride_pc, args.stride_qn,
        args.stride_qc, args.num_rows, args.num_classes, args.js, args.keep, args.threshold);
  };
  if (args.is_bf16) {
    launch(js_divergence_bf16, static_cast<const unsigned short*>(nullptr));
  } else {
    launch(js_divergence_f32, static_cast<const float*>(nullptr));
  }
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace reg4rec

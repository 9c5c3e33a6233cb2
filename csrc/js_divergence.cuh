// Device code of js_divergence, for nvcc and for NVRTC (definition: kernels/js_divergence).
// One warp per row, three passes over it: maximum, sum of exponentials, terms.
#pragma once

#include "device.cuh"
#include "js_divergence_call.h"

namespace reg4rec_device {

using reg4rec::JsDivergence;

template <typename T>
struct SoftmaxParts {
  T largest, sum;
};

__device__ inline float ln1p(float x) { return log1pf(x); }
__device__ inline double ln1p(double x) { return log1p(x); }
__device__ inline float e_to(float x) { return expf(x); }
__device__ inline double e_to(double x) { return exp(x); }

// NaN in the row makes the sum NaN; so does a row of -inf only, because -inf - -inf is NaN.
template <typename T, typename In>
__device__ inline SoftmaxParts<T> softmax_parts(const In* row, int64_t stride, int64_t size, int lane) {
  float largest = -infinity();
  for (int64_t c = lane; c < size; c += kWarp) {
    const float x = to_float(row[c * stride]);
    largest = x > largest ? x : largest;
  }
  largest = warp_max(largest);
  T sum = 0;
  for (int64_t c = lane; c < size; c += kWarp) sum += e_to(T(to_float(row[c * stride])) - largest);
  return {largest, warp_sum(sum)};
}

template <typename T, typename In>
__device__ inline T divergence(const In* p_row, int64_t stride_pc, const In* q_row, int64_t stride_qc, int64_t size,
                               int lane) {
  const SoftmaxParts<T> p_parts = softmax_parts<T>(p_row, stride_pc, size, lane);
  const SoftmaxParts<T> q_parts = softmax_parts<T>(q_row, stride_qc, size, lane);
  T total = 0;
  for (int64_t c = lane; c < size; c += kWarp) {
    const T p = e_to(T(to_float(p_row[c * stride_pc])) - p_parts.largest) / p_parts.sum;
    const T q = e_to(T(to_float(q_row[c * stride_qc])) - q_parts.largest) / q_parts.sum;
    const T s = p + q;
    const T t = s == T(0) ? T(0) : (p - q) / s;
    const T up = t == T(-1) ? T(0) : (1 + t) * ln1p(t);
    const T down = t == T(1) ? T(0) : (1 - t) * ln1p(-t);
    const T both = up + down;
    total += s * (both < T(0) ? T(0) : both);
  }
  return T(0.25) * warp_sum(total);
}

template <typename In>
__device__ inline void rows(const JsDivergence& args) {
  const int64_t n = (int64_t)blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (n >= args.num_rows) return;
  const int lane = threadIdx.x % kWarp;
  const In* p_row = (const In*)args.p_logits.data + args.p_logits.offset(n);
  const In* q_row = (const In*)args.q_logits.data + args.q_logits.offset(n);
  const int64_t stride_pc = args.p_logits.strides[1], stride_qc = args.q_logits.strides[1];
  const float found = divergence<float>(p_row, stride_pc, q_row, stride_qc, args.num_classes, lane);
  double decided = found;
  if (args.keep != nullptr && fabs(decided - args.threshold) < 1e-5) {
    decided = divergence<double>(p_row, stride_pc, q_row, stride_qc, args.num_classes, lane);
  }
  if (lane != 0) return;
  args.js[n] = found;
  if (args.keep != nullptr) args.keep[n] = decided <= args.threshold;
}

}  // namespace reg4rec_device

extern "C" __global__ void js_divergence_f32(reg4rec_device::JsDivergence args) { reg4rec_device::rows<float>(args); }

extern "C" __global__ void js_divergence_bf16(reg4rec_device::JsDivergence args) {
  reg4rec_device::rows<unsigned short>(args);
}

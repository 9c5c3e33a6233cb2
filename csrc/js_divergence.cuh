// Device code of js_divergence, for nvcc and for NVRTC: no host headers, extern "C" entry points.
// One warp per row, three passes over it: maximum, sum of exponentials, terms.
#pragma once

#ifndef REG4REC_WARP
#define REG4REC_WARP 32
#endif
#define REG4REC_ROWS_PER_BLOCK 4

namespace reg4rec_device {

template <typename T>
struct SoftmaxParts {
  T largest, sum;
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(unsigned short bf16) { return __uint_as_float((unsigned int)bf16 << 16); }

__device__ inline float ln1p(float x) { return log1pf(x); }
__device__ inline double ln1p(double x) { return log1p(x); }
__device__ inline float e_to(float x) { return expf(x); }
__device__ inline double e_to(double x) { return exp(x); }

template <typename T>
__device__ inline T warp_sum(T x) {
  for (int lane = REG4REC_WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

// NaN in the row makes the sum NaN; so does a row of -inf only, because -inf - -inf is NaN.
template <typename T, typename In>
__device__ inline SoftmaxParts<T> softmax_parts(const In* row, long long stride, long long size, int lane) {
  T largest = -__uint_as_float(0x7f800000u);
  for (long long c = lane; c < size; c += REG4REC_WARP) {
    const T x = to_float(row[c * stride]);
    largest = x > largest ? x : largest;
  }
  for (int other = REG4REC_WARP / 2; other > 0; other /= 2) {
    const T x = __shfl_xor_sync(0xffffffffu, largest, other);
    largest = x > largest ? x : largest;
  }
  T sum = 0;
  for (long long c = lane; c < size; c += REG4REC_WARP) sum += e_to(T(to_float(row[c * stride])) - largest);
  return {largest, warp_sum(sum)};
}

template <typename T, typename In>
__device__ inline T divergence(const In* p_row, long long stride_pc, const In* q_row, long long stride_qc,
                               long long size, int lane) {
  const SoftmaxParts<T> p_parts = softmax_parts<T>(p_row, stride_pc, size, lane);
  const SoftmaxParts<T> q_parts = softmax_parts<T>(q_row, stride_qc, size, lane);
  T total = 0;
  for (long long c = lane; c < size; c += REG4REC_WARP) {
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
__device__ inline void rows(const In* p_logits, const In* q_logits, long long stride_pn, long long stride_pc,
                            long long stride_qn, long long stride_qc, long long num_rows, long long num_classes,
                            float* js, bool* keep, double threshold) {
  const long long n = (long long)blockIdx.x * REG4REC_ROWS_PER_BLOCK + threadIdx.y;
  if (n >= num_rows) return;
  const int lane = threadIdx.x;
  const In* p_row = p_logits + n * stride_pn;
  const In* q_row = q_logits + n * stride_qn;
  const float found = divergence<float>(p_row, stride_pc, q_row, stride_qc, num_classes, lane);
  double decided = found;
  if (keep != nullptr && fabs(decided - threshold) < 1e-5) {
    decided = divergence<double>(p_row, stride_pc, q_row, stride_qc, num_classes, lane);
  }
  if (lane != 0) return;
  js[n] = found;
  if (keep != nullptr) keep[n] = decided <= threshold;
}

}  // namespace reg4rec_device

extern "C" __global__ void js_divergence_f32(const float* p_logits, const float* q_logits, long long stride_pn,
                                             long long stride_pc, long long stride_qn, long long stride_qc,
                                             long long num_rows, long long num_classes, float* js, bool* keep,
                                             double threshold) {
  reg4rec_device::rows(p_logits, q_logits, stride_pn, stride_pc, stride_qn, stride_qc, num_rows, num_classes, js, keep,
                       threshold);
}

extern "C" __global__ void js_divergence_bf16(const unsigned short* p_logits, const unsigned short* q_logits,
                                              long long stride_pn, long long stride_pc, long long stride_qn,
                                              long long stride_qc, long long num_rows, long long num_classes, float* js,
                                              bool* keep, double threshold) {
  reg4rec_device::rows(p_logits, q_logits, stride_pn, stride_pc, stride_qn, stride_qc, num_rows, num_classes, js, keep,
                       threshold);
}

// Python sees pointers, sizes and strides as integers: the extension needs no libtorch.
#include <pybind11/pybind11.h>

#include <stdexcept>

#include "isa.h"
#include "js_divergence.h"

namespace py = pybind11;
using reg4rec::JsDivergence;

namespace {

JsDivergence js_arguments(uintptr_t p_logits, int64_t stride_pn, int64_t stride_pc, uintptr_t q_logits,
                          int64_t stride_qn, int64_t stride_qc, int64_t num_rows, int64_t num_classes, bool is_bf16,
                          uintptr_t js, uintptr_t keep, double threshold) {
  return {reinterpret_cast<const void*>(p_logits),
          reinterpret_cast<const void*>(q_logits),
          stride_pn,
          stride_pc,
          stride_qn,
          stride_qc,
          num_rows,
          num_classes,
          is_bf16,
          reinterpret_cast<float*>(js),
          reinterpret_cast<bool*>(keep),
          threshold};
}

#ifdef REG4REC_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of reg4rec";
  m.attr("has_cuda") = kHasCuda;
  m.def("isa", [] { return reg4rec::isa_name(reg4rec::current_isa()); }, "The instruction set of the CPU kernels");
  m.def("select_isa", &reg4rec::select_isa, "Use base, avx2 or avx512; an empty name selects the best one");
  m.def("js_divergence_cpu",
        [](uintptr_t p, int64_t pn, int64_t pc, uintptr_t q, int64_t qn, int64_t qc, int64_t rows, int64_t classes,
           bool is_bf16, uintptr_t js, uintptr_t keep, double threshold, int num_threads) {
          const JsDivergence args = js_arguments(p, pn, pc, q, qn, qc, rows, classes, is_bf16, js, keep, threshold);
          py::gil_scoped_release release;
          reg4rec::js_divergence_cpu(args, num_threads);
        });
#ifdef REG4REC_CUDA
  m.def("js_divergence_cuda",
        [](uintptr_t p, int64_t pn, int64_t pc, uintptr_t q, int64_t qn, int64_t qc, int64_t rows, int64_t classes,
           bool is_bf16, uintptr_t js, uintptr_t keep, double threshold, uintptr_t stream) {
          const JsDivergence args = js_arguments(p, pn, pc, q, qn, qc, rows, classes, is_bf16, js, keep, threshold);
          const char* error = reg4rec::js_divergence_cuda(args, reinterpret_cast<void*>(stream));
          if (error != nullptr) throw std::runtime_error(std::string("js_divergence on CUDA: ") + error);
        });
#endif
}

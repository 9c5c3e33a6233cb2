// Python sees pointers, sizes and strides as integers: the extension needs no libtorch.
#include <pybind11/pybind11.h>

#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "beam_step.h"
#include "bf16_linear.h"
#include "decoder_step.h"
#include "encode_histories.h"
#include "isa.h"
#include "item_topk.h"
#include "js_divergence.h"
#include "launch.h"
#include "mpq_quantize.h"
#include "path_attention.h"
#include "path_topk.h"
#include "score_topk.h"

namespace py = pybind11;

namespace {

// An op whose arguments are one struct (csrc/call.h).
struct Entry {
  std::string name;
  size_t size;
  std::vector<reg4rec::Field> fields;
  void (*run)(const char* args, int num_threads);
};

template <typename Args, void (*op)(const Args&, int)>
void run_op(const char* bytes, int num_threads) {
  Args args;
  std::memcpy(&args, bytes, sizeof args);
  op(args, num_threads);
}

#define REG4REC_ENTRY(name, Name)                                              \
  {#name,                                                                      \
   sizeof(reg4rec::Name),                                                      \
   {std::begin(reg4rec::k##Name##Fields), std::end(reg4rec::k##Name##Fields)}, \
   run_op<reg4rec::Name, reg4rec::name##_cpu>},
const Entry kEntries[] = {REG4REC_ENTRY(js_divergence, JsDivergence) REG4REC_ENTRY(beam_step, BeamStep) REG4REC_ENTRY(
    decoder_step, DecoderStep) REG4REC_ENTRY(encode_histories, EncodeHistories) REG4REC_ENTRY(item_topk, ItemTopk)
                              REG4REC_ENTRY(mpq_quantize, MpqQuantize) REG4REC_ENTRY(path_attention, PathAttention)
                                  REG4REC_ENTRY(path_topk, PathTopk) REG4REC_ENTRY(score_topk, ScoreTopk)};
#undef REG4REC_ENTRY

const Entry& find_entry(const std::string& name) {
  for (const Entry& entry : kEntries) {
    if (entry.name == name) return entry;
  }
  throw std::invalid_argument("there is no op " + name);
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
  m.def("select_isa", &reg4rec::select_isa, "Use base, avx2, avx512 or amx; an empty name selects the best one");
  m.def("multiplies_bf16", &reg4rec::multiplies_bf16, "Whether that instruction set has products of bfloat16");
  m.def(
      "fields",
      [](const std::string& name) {
        py::list fields;
        for (const reg4rec::Field& field : find_entry(name).fields)
          fields.append(py::make_tuple(field.name, field.type));
        return fields;
      },
      "Name and type in C++ of each field of an op's struct");
  m.def(
      "call",
      [](const std::string& name, const py::bytes& args, int num_threads) {
        const Entry& entry = find_entry(name);
        const std::string_view bytes = args;
        if (bytes.size() != entry.size) {
          throw std::invalid_argument("the struct of " + name + " has " + std::to_string(entry.size) +
                                      " bytes, found " + std::to_string(bytes.size()));
        }
        py::gil_scoped_release release;
        entry.run(bytes.data(), num_threads);
      },
      "Run an op on a struct of addresses, sizes and numbers");
#ifdef REG4REC_CUDA
  m.def("launch_cuda", [](const std::string& kernel, unsigned grid, unsigned block, size_t shared,
                          const std::string& arguments, uintptr_t stream) {
    const char* error = reg4rec::launch_cuda(
        {kernel.c_str(), grid, block, shared, arguments.data(), arguments.size(), reinterpret_cast<void*>(stream)});
    if (error != nullptr) throw std::runtime_error(kernel + " on CUDA: " + error);
  });
#endif
}

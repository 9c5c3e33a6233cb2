// Python sees pointers, sizes and strides as integers: the extension needs no libtorch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
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

// An address and the strides behind it.
template <typename T, size_t N>
reg4rec::View<T, N - 1> view(const std::array<int64_t, N>& where) {
  reg4rec::View<T, N - 1> tensor{reinterpret_cast<T*>(where[0]), {}};
  std::copy(where.begin() + 1, where.end(), tensor.strides.begin());
  return tensor;
}

// Codes, offsets, postings, offsets of pairs and their postings.
reg4rec::TokenIndex token_index(int64_t num_codebooks, int64_t codebook_size, const std::array<uintptr_t, 5>& parts) {
  return {num_codebooks,
          codebook_size,
          reinterpret_cast<const int32_t*>(parts[0]),
          reinterpret_cast<const int64_t*>(parts[1]),
          reinterpret_cast<const int32_t*>(parts[2]),
          reinterpret_cast<const int64_t*>(parts[3]),
          reinterpret_cast<const int32_t*>(parts[4])};
}

// (pointer, strides, whether it is bfloat16), or None.
reg4rec::Floats floats(const py::object& tensor) {
  reg4rec::Floats view{};
  if (tensor.is_none()) return view;
  const auto parts = tensor.cast<py::tuple>();
  const auto strides = parts[1].cast<py::tuple>();
  view.data = reinterpret_cast<const void*>(parts[0].cast<uintptr_t>());
  for (size_t axis = 0; axis < strides.size(); ++axis) view.stride[axis] = strides[axis].cast<int64_t>();
  view.is_bf16 = parts[2].cast<bool>();
  return view;
}

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

const Entry kEntries[] = {
    {"score_topk",
     sizeof(reg4rec::ScoreTopk),
     {std::begin(reg4rec::kScoreTopkFields), std::end(reg4rec::kScoreTopkFields)},
     run_op<reg4rec::ScoreTopk, reg4rec::score_topk_cpu>},
};

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
          fields.append(py::make_tuple(field.name, field.is_float));
        return fields;
      },
      "Name of each field of an op's struct, and whether it is a number of floating point");
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
  m.def("js_divergence_cpu",
        [](uintptr_t p, int64_t pn, int64_t pc, uintptr_t q, int64_t qn, int64_t qc, int64_t rows, int64_t classes,
           bool is_bf16, uintptr_t js, uintptr_t keep, double threshold, int num_threads) {
          const reg4rec::JsDivergence args{reinterpret_cast<const void*>(p),
                                           reinterpret_cast<const void*>(q),
                                           pn,
                                           pc,
                                           qn,
                                           qc,
                                           rows,
                                           classes,
                                           is_bf16,
                                           reinterpret_cast<float*>(js),
                                           reinterpret_cast<bool*>(keep),
                                           threshold};
          py::gil_scoped_release release;
          reg4rec::js_divergence_cpu(args, num_threads);
        });
  m.def("beam_step_cpu",
        [](std::array<int64_t, 5> shape, int64_t num_beams, int64_t width, std::array<int64_t, 5> logits, bool is_bf16,
           std::array<int64_t, 3> scores, std::array<int64_t, 4> tokens, std::array<int64_t, 3> js, double threshold,
           int64_t num_excluded, std::array<int64_t, 3> exclude, bool renormalize, std::array<uintptr_t, 5> index,
           uintptr_t counts, uintptr_t parent, uintptr_t token, uintptr_t best_scores, uintptr_t fallback,
           int num_threads) {
          const reg4rec::BeamStep args{shape[0],
                                       shape[1],
                                       shape[2],
                                       shape[3],
                                       shape[4],
                                       num_excluded,
                                       num_beams,
                                       width,
                                       view<const void>(logits),
                                       is_bf16,
                                       view<const float>(scores),
                                       view<const int64_t>(tokens),
                                       view<const float>(js),
                                       static_cast<float>(threshold),
                                       view<const int64_t>(exclude),
                                       renormalize,
                                       token_index(shape[2], shape[3], index),
                                       reinterpret_cast<const int32_t*>(counts),
                                       reinterpret_cast<int64_t*>(parent),
                                       reinterpret_cast<int64_t*>(token),
                                       reinterpret_cast<float*>(best_scores),
                                       reinterpret_cast<bool*>(fallback)};
          py::gil_scoped_release release;
          reg4rec::beam_step_cpu(args, num_threads);
        });
  m.def("decoder_step_cpu",
        [](std::array<int64_t, 12> shape, bool refines, bool writes_logits, uintptr_t inputs, uintptr_t input_rows,
           float input_scale, uintptr_t position, uintptr_t states, std::array<int64_t, 6> kept, uintptr_t rows,
           std::array<int64_t, 5> memory, uintptr_t visible, uintptr_t weights, bool is_bf16, uintptr_t logits,
           uintptr_t category_logits, int num_threads) {
          const reg4rec::DecoderStep args{shape[0],
                                          shape[1],
                                          shape[2],
                                          shape[3],
                                          shape[4],
                                          shape[5],
                                          shape[6],
                                          shape[7],
                                          shape[8],
                                          shape[9],
                                          refines,
                                          writes_logits,
                                          shape[10],
                                          shape[11],
                                          reinterpret_cast<const float*>(inputs),
                                          reinterpret_cast<const int64_t*>(input_rows),
                                          input_scale,
                                          reinterpret_cast<const float*>(position),
                                          reinterpret_cast<const float*>(states),
                                          reinterpret_cast<float*>(kept[0]),
                                          {kept[1], kept[2], kept[3], kept[4], kept[5]},
                                          reinterpret_cast<const int64_t*>(rows),
                                          reinterpret_cast<const float*>(memory[0]),
                                          {memory[1], memory[2], memory[3], memory[4]},
                                          reinterpret_cast<const bool*>(visible),
                                          reinterpret_cast<const void*>(weights),
                                          is_bf16,
                                          reinterpret_cast<float*>(logits),
                                          reinterpret_cast<float*>(category_logits)};
          py::gil_scoped_release release;
          reg4rec::decoder_step_cpu(args, num_threads);
        });
  m.def("encode_histories_cpu",
        [](std::array<int64_t, 9> shape, uintptr_t x, uintptr_t lengths, uintptr_t cos, uintptr_t sin,
           uintptr_t weights, bool is_bf16, uintptr_t states, uintptr_t memory, int num_threads) {
          const reg4rec::EncodeHistories args{shape[0],
                                              shape[1],
                                              shape[2],
                                              shape[3],
                                              shape[4],
                                              shape[5],
                                              shape[6],
                                              shape[7],
                                              shape[8],
                                              reinterpret_cast<const float*>(x),
                                              reinterpret_cast<const int64_t*>(lengths),
                                              reinterpret_cast<const float*>(cos),
                                              reinterpret_cast<const float*>(sin),
                                              reinterpret_cast<const void*>(weights),
                                              is_bf16,
                                              reinterpret_cast<float*>(states),
                                              reinterpret_cast<float*>(memory)};
          py::gil_scoped_release release;
          reg4rec::encode_histories_cpu(args, num_threads);
        });
  m.def("item_topk_cpu",
        [](uintptr_t log_probs, int64_t pb, int64_t pm, int64_t pk, uintptr_t ids, int64_t ii, int64_t im, int id_bytes,
           uintptr_t exclude, int64_t xb, int64_t xx, int exclude_bytes, int64_t users, int64_t books, int64_t codes,
           int64_t items, int64_t excluded, int64_t k, uintptr_t scores, uintptr_t best, int num_threads) {
          const reg4rec::ItemTopk args{reinterpret_cast<const float*>(log_probs),
                                       pb,
                                       pm,
                                       pk,
                                       {reinterpret_cast<const void*>(ids), ii, im, id_bytes},
                                       {reinterpret_cast<const void*>(exclude), xb, xx, exclude_bytes},
                                       users,
                                       books,
                                       codes,
                                       items,
                                       excluded,
                                       k,
                                       reinterpret_cast<float*>(scores),
                                       reinterpret_cast<int64_t*>(best)};
          py::gil_scoped_release release;
          reg4rec::item_topk_cpu(args, num_threads);
        });
  m.def("mpq_quantize_cpu",
        [](const py::object& latents, const py::object& codebooks, const py::object& gate, const py::object& error,
           const py::object& hidden, const py::object& weight, const py::object& bias, int64_t rows, int64_t books,
           int64_t codes, int64_t width, int64_t hidden_width, uintptr_t ids, uintptr_t mixed, int num_threads) {
          const reg4rec::MpqQuantize args{floats(latents),
                                          floats(codebooks),
                                          floats(gate),
                                          floats(error),
                                          floats(hidden),
                                          floats(weight),
                                          floats(bias),
                                          rows,
                                          books,
                                          codes,
                                          width,
                                          hidden_width,
                                          reinterpret_cast<int64_t*>(ids),
                                          reinterpret_cast<void*>(mixed)};
          py::gil_scoped_release release;
          reg4rec::mpq_quantize_cpu(args, num_threads);
        });
  m.def("path_topk_cpu",
        [](std::array<int64_t, 4> shape, std::array<int64_t, 2> books, std::array<int64_t, 4> tokens,
           std::array<int64_t, 3> scores, std::array<uintptr_t, 5> index, uintptr_t rank,
           std::array<int64_t, 3> exclude, int64_t num_excluded, uintptr_t logits, uintptr_t states, int64_t width,
           uintptr_t residual, std::array<int64_t, 3> repeated, int64_t num_repeated, double repeat_bias,
           uintptr_t best_scores, uintptr_t items, uintptr_t paths, int num_threads) {
          const reg4rec::ItemScoring scoring{
              reinterpret_cast<const float*>(logits),   reinterpret_cast<const float*>(states), width,
              reinterpret_cast<const float*>(residual), view<const int64_t>(repeated),          num_repeated,
              static_cast<float>(repeat_bias)};
          const reg4rec::PathTopk args{shape[0],
                                       shape[1],
                                       shape[2],
                                       shape[3],
                                       view<const int64_t>(tokens),
                                       view<const float>(scores),
                                       token_index(books[0], books[1], index),
                                       reinterpret_cast<const int64_t*>(rank),
                                       view<const int64_t>(exclude),
                                       num_excluded,
                                       scoring,
                                       reinterpret_cast<float*>(best_scores),
                                       reinterpret_cast<int64_t*>(items),
                                       reinterpret_cast<int64_t*>(paths)};
          py::gil_scoped_release release;
          reg4rec::path_topk_cpu(args, num_threads);
        });
  m.def("path_attention_cpu",
        [](std::array<int64_t, 6> shape, std::array<int64_t, 5> q, std::array<int64_t, 6> keys,
           std::array<int64_t, 6> values, bool is_bf16, uintptr_t rows, uintptr_t mixed, int num_threads) {
          if (shape[4] > reg4rec::kMostSteps) throw std::invalid_argument("paths have too many steps");
          const reg4rec::PathAttention args{shape[0],
                                            shape[1],
                                            shape[2],
                                            shape[3],
                                            shape[4],
                                            shape[5],
                                            reinterpret_cast<const void*>(q[0]),
                                            {q[1], q[2], q[3]},
                                            reinterpret_cast<const void*>(keys[0]),
                                            {keys[1], keys[2], keys[3], keys[4]},
                                            reinterpret_cast<const void*>(values[0]),
                                            {values[1], values[2], values[3], values[4]},
                                            is_bf16,
                                            reinterpret_cast<const int64_t*>(rows),
                                            reinterpret_cast<void*>(mixed)};
          py::gil_scoped_release release;
          reg4rec::path_attention_cpu(args, num_threads);
        });
#ifdef REG4REC_CUDA
  m.def("launch_cuda", [](const std::string& kernel, unsigned grid, unsigned block, size_t shared,
                          const std::string& arguments, uintptr_t stream) {
    const char* error = reg4rec::launch_cuda(
        {kernel.c_str(), grid, block, shared, arguments.data(), arguments.size(), reinterpret_cast<void*>(stream)});
    if (error != nullptr) throw std::runtime_error(kernel + " on CUDA: " + error);
  });
#endif
}

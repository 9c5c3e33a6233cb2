#include "mpq_quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aligned.h"
#include "bf16.h"
#include "isa.h"
#include "threads.h"

namespace reg4rec {

using namespace mpq;

DECLARE_FOR_ISAS(Kernels search_kernels();)

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Search {
  const MpqQuantize& args;
  Kernels kernels;
  int64_t num_tiles;
  AlignedFloats codes, minus_half;  // of all codebooks
  std::vector<double> squares;      // of the codewords' lengths
  std::vector<float> longest;       // codeword of each codebook

  Book book(int64_t m) const {
    const int64_t num_codes = num_tiles * kernels.codes_at_once;
    return {codes.data() + m * num_codes * args.width, minus_half.data() + m * num_codes, num_tiles, args.width};
  }
};

// Packs the tiles begin..end-1 of all codebooks, one codebook after another.
void pack_tiles(Search& search, int64_t begin, int64_t end) {
  const MpqQuantize& args = search.args;
  const int64_t codes_at_once = search.kernels.codes_at_once;
  std::vector<float> codeword(args.width);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t m = tile / search.num_tiles, first = tile % search.num_tiles * codes_at_once;
    float* to = search.codes.data() + tile * codes_at_once * args.width;
    float* minus_half = search.minus_half.data() + tile * codes_at_once;
    std::fill(minus_half, minus_half + codes_at_once, -kInfinity);
    for (int64_t j = 0; j < std::min(codes_at_once, args.num_codes - first); ++j) {
      const int64_t from = args.codebooks.offset(m, first + j);
      search.kernels.load_floats(args.codebooks, from, args.codebooks.strides[2], args.width, codeword.data());
      double square = 0;
      for (int64_t d = 0; d < args.width; ++d) {
        to[d * codes_at_once + j] = codeword[d];
        square += static_cast<double>(codeword[d]) * codeword[d];
      }
      search.squares[tile * codes_at_once + j] = square;
      minus_half[j] = static_cast<float>(-0.5 * square);
    }
  }
}

Search make_search(const MpqQuantize& args, int num_threads) {
  Search search{args, FOR_ISA(current_isa(), search_kernels)(), 0, AlignedFloats(), AlignedFloats(), {}, {}};
  const int64_t codes_at_once = search.kernels.codes_at_once;
  search.num_tiles = (args.num_codes + codes_at_once - 1) / codes_at_once;
  const int64_t padded_codes = search.num_tiles * codes_at_once;
  search.codes = AlignedFloats(args.num_books * padded_codes * args.width);
  search.minus_half = AlignedFloats(args.num_books * padded_codes);
  search.squares.resize(args.num_books * padded_codes);
  parallel_for(num_threads, args.num_books * search.num_tiles, 1,
               [&](int64_t begin, int64_t end) { pack_tiles(search, begin, end); });
  for (auto book = search.squares.begin(); book != search.squares.end(); book += padded_codes) {
    search.longest.push_back(static_cast<float>(std::sqrt(*std::max_element(book, book + padded_codes))));
  }
  return search;
}

// Two scores further apart than this are in the right order despite rounding (twice the error of a sum).
float slack(const Search& search, int64_t row, int64_t m, float squared_length) {
  using Limits = std::numeric_limits<float>;
  const MpqQuantize& args = search.args;
  const float longest = search.longest[m], largest = longest * (std::sqrt(squared_length) + 0.5f * longest);
  if (!(largest < 0.5f * Limits::max())) return kInfinity;  // a score may overflow
  const float slack = 2 * static_cast<float>(args.width + 4) * Limits::epsilon() * largest + Limits::min();
  if (args.error.data == nullptr) return slack;
  return slack + 2 * longest * args.error(row, m);
}

// Adds the second half to the first, and so on: the same bits as in kernels/folding.py.
double folded_sum(std::vector<double>& terms) {
  const auto size = static_cast<int64_t>(terms.size());
  int64_t half = 1;
  while (2 * half < size) half *= 2;
  for (int64_t left = size; half > 0; left = half, half /= 2) {
    for (int64_t c = 0; c + half < left; ++c) terms[c] += terms[c + half];
  }
  return terms.empty() ? 0 : terms[0];
}

// The latents of one row in fp64.
std::vector<double> exact_latents(const Search& search, int64_t row, int64_t m) {
  const MpqQuantize& args = search.args;
  const auto load = search.kernels.load_floats;
  std::vector<float> values(args.width);
  if (args.error.data == nullptr) {
    load(args.latents, args.latents.offset(row, m), args.latents.strides[2], args.width, values.data());
    return {values.begin(), values.end()};
  }
  load(args.bias, args.bias.offset(m), args.bias.strides[1], args.width, values.data());
  std::vector<double> latents(values.begin(), values.end());
  std::vector<float> hidden(args.hidden_width), weight(args.hidden_width);
  std::vector<double> terms(args.hidden_width);
  load(args.hidden, args.hidden.offset(row, m), args.hidden.strides[2], args.hidden_width, hidden.data());
  for (int64_t d = 0; d < args.width; ++d) {
    load(args.weight, args.weight.offset(m, d), args.weight.strides[2], args.hidden_width, weight.data());
    for (int64_t h = 0; h < args.hidden_width; ++h) terms[h] = static_cast<double>(hidden[h]) * weight[h];
    latents[d] += folded_sum(terms);
  }
  return latents;
}

// The nearest, in fp64, of the codes whose scores are within the slack of the best; ties go to the lowest index.
// |c|^2 - 2 x.c orders codes as their distances do.
int64_t decide(const Search& search, int64_t row, int64_t m, const float* latents, float slack) {
  const MpqQuantize& args = search.args;
  std::vector<float> scores(search.num_tiles * search.kernels.codes_at_once), codeword(args.width);
  search.kernels.score_row(search.book(m), latents, scores.data());
  float best = -kInfinity;
  for (float score : scores) best = score > best ? score : best;
  const std::vector<double> exact = exact_latents(search, row, m);
  std::vector<double> terms(args.width);
  double shortest = std::numeric_limits<double>::infinity();
  int64_t id = 0;
  for (int64_t k = 0; k < args.num_codes; ++k) {
    if (scores[k] < best - slack) continue;
    const int64_t from = args.codebooks.offset(m, k);
    search.kernels.load_floats(args.codebooks, from, args.codebooks.strides[2], args.width, codeword.data());
    for (int64_t d = 0; d < args.width; ++d) terms[d] = codeword[d] * (codeword[d] - 2 * exact[d]);
    const double distance = folded_sum(terms);
    if (distance < shortest) {
      shortest = distance;
      id = k;
    }
  }
  return id;
}

// The gated sum of a row's codewords, added in the order of the codebooks.
void mix(const Search& search, int64_t row, float* codeword, float* mixed) {
  const MpqQuantize& args = search.args;
  const int64_t width = args.width;
  std::fill(mixed, mixed + width, 0.0f);
  for (int64_t m = 0; m < args.num_books; ++m) {
    const int64_t from = args.codebooks.offset(m, args.ids[row * args.num_books + m]);
    float gate = 1;
    if (args.gate.data != nullptr) search.kernels.load_floats(args.gate, args.gate.offset(row, m), 1, 1, &gate);
    search.kernels.load_floats(args.codebooks, from, args.codebooks.strides[2], width, codeword);
    search.kernels.add_scaled(codeword, gate, width, mixed);
  }
  if (args.codebooks.is_bf16()) {
    uint16_t* to = static_cast<uint16_t*>(args.mixed) + row * width;
    for (int64_t d = 0; d < width; ++d) to[d] = bf16_of_float(mixed[d]);
  } else {
    std::copy(mixed, mixed + width, static_cast<float*>(args.mixed) + row * width);
  }
}

void quantize_rows(const Search& search, int64_t begin, int64_t end) {
  const MpqQuantize& args = search.args;
  std::vector<float> latents(args.num_books * kChunk * args.width), slacks(args.num_books * kChunk);
  std::vector<float> codeword(args.width), mixed(args.width);
  int32_t ids[kChunk];
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t num_rows = std::min(kChunk, end - first);
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t m = 0; m < args.num_books; ++m) {
        float* row = latents.data() + (m * kChunk + r) * args.width;
        const int64_t from = args.latents.offset(first + r, m);
        search.kernels.load_floats(args.latents, from, args.latents.strides[2], args.width, row);
        slacks[m * kChunk + r] = slack(search, first + r, m, search.kernels.squared_length(row, args.width));
      }
    }
    for (int64_t m = 0; m < args.num_books; ++m) {
      const float* rows = latents.data() + m * kChunk * args.width;
      const float* slack = slacks.data() + m * kChunk;
      search.kernels.nearest_codes(search.book(m), rows, num_rows, slack, ids);
      for (int64_t r = 0; r < num_rows; ++r) {
        args.ids[(first + r) * args.num_books + m] =
            ids[r] >= 0 ? ids[r] : decide(search, first + r, m, rows + r * args.width, slack[r]);
      }
    }
    for (int64_t r = 0; r < num_rows; ++r) mix(search, first + r, codeword.data(), mixed.data());
  }
}

}  // namespace

void mpq_quantize_cpu(const MpqQuantize& args, int num_threads) {
  if (args.num_rows == 0) return;
  const Search search = make_search(args, num_threads);
  parallel_for(num_threads, args.num_rows, kChunk,
               [&](int64_t begin, int64_t end) { quantize_rows(search, begin, end); });
}

}  // namespace reg4rec

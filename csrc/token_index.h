// Which items carry which tokens (kernels/token_index.py).
#pragma once

#include <cstdint>

namespace reg4rec {

struct Token {
  int64_t codebook, code;
};

// A list of items, ascending.
struct Postings {
  const int32_t *first, *last;

  int64_t size() const { return last - first; }
  bool empty() const { return first == last; }
};

struct TokenIndex {
  int64_t num_codebooks, codebook_size;
  const int32_t* codes;  // items x codebooks
  const int64_t* offsets;
  const int32_t* postings;
  const int64_t* pair_offsets;  // null if pairs are not listed
  const int32_t* pair_postings;

  Postings posting_list(const Token& token) const {
    const int64_t* offset = offsets + token.codebook * codebook_size + token.code;
    return {postings + offset[0], postings + offset[1]};
  }

  Postings pair_list(const Token& a, const Token& b) const {
    if (a.codebook > b.codebook) return pair_list(b, a);
    const int64_t books = a.codebook * (2 * num_codebooks - a.codebook - 1) / 2 + b.codebook - a.codebook - 1;
    const int64_t* offset = pair_offsets + (books * codebook_size + a.code) * codebook_size + b.code;
    return {pair_postings + offset[0], pair_postings + offset[1]};
  }

  // The shortest list of one or more tokens, or of their pairs if these are listed.
  Postings shortest_list(const Token* tokens, int64_t count) const {
    const bool by_pairs = count > 1 && pair_offsets != nullptr;
    Postings shortest = by_pairs ? pair_list(tokens[0], tokens[1]) : posting_list(tokens[0]);
    for (int64_t i = 1; i < count; ++i) {
      for (int64_t other = 0; other < (by_pairs ? i : 1); ++other) {
        const Postings list = by_pairs ? pair_list(tokens[other], tokens[i]) : posting_list(tokens[i]);
        if (list.size() < shortest.size()) shortest = list;
      }
    }
    return shortest;
  }

  bool carries(int64_t item, const Token* tokens, int64_t count) const {
    const int32_t* own = codes + item * num_codebooks;
    for (int64_t i = 0; i < count; ++i) {
      if (own[tokens[i].codebook] != tokens[i].code) return false;
    }
    return true;
  }
};

// The index in an op's arguments.
template <typename Args>
TokenIndex token_index(const Args& args) {
  return {args.num_codebooks, args.codebook_size, args.codes,        args.offsets,
          args.postings,      args.pair_offsets,  args.pair_postings};
}

}  // namespace reg4rec

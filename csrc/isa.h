// Which instruction set the CPU ops run on.
#pragma once

#include <string>

namespace reg4rec {

enum class Isa { kBase, kAvx2, kAvx512, kAmx };  // the last one is AVX-512 with tiles (amx.h)

// The best one of this machine, or the one that REG4REC_ISA or select_isa names.
Isa current_isa();
std::string isa_name(Isa isa);
// The same for score_topk, but kAvx2 if the machine has AVX-512 without the 8-bit products (VNNI) that its unit needs.
Isa score_topk_isa();
// Throws std::invalid_argument if the name is unknown or the machine lacks it; "" selects the best again.
void select_isa(const std::string& name);

}  // namespace reg4rec

// Declares functions in the namespace of every instruction set; the unit compiled for it defines them.
#define DECLARE_FOR_ISAS(...) \
  namespace base {            \
  __VA_ARGS__                 \
  }                           \
  namespace avx2 {            \
  __VA_ARGS__                 \
  }                           \
  namespace avx512 {          \
  __VA_ARGS__                 \
  }

// The function of that name for the instruction set `isa`.
#ifdef REG4REC_X86
#define FOR_ISA(isa, name) ((isa) >= Isa::kAvx512 ? avx512::name : (isa) == Isa::kAvx2 ? avx2::name : base::name)
#else
#define FOR_ISA(isa, name) base::name
#endif

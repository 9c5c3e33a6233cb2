#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "amx.h"

namespace reg4rec {
namespace {

constexpr Isa kAll[] = {Isa::kAmx, Isa::kAvx512, Isa::kAvx2, Isa::kBase};
constexpr const char* kNames[] = {"base", "avx2", "avx512", "amx"};
std::atomic<int> selected{-1};

bool supported(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kAmx:
      return supported(Isa::kAvx512) && may_use_tiles();
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kBase:
      return true;
  }
#endif
  return isa == Isa::kBase;
}

Isa find(const std::string& name) {
  for (Isa isa : kAll) {
    if (name.empty() ? supported(isa) : name == isa_name(isa)) {
      if (supported(isa)) return isa;
      throw std::invalid_argument("this machine has no " + name + ", asked for by REG4REC_ISA or select_isa");
    }
  }
  throw std::invalid_argument("instruction set " + name + " is unknown; there are base, avx2, avx512 and amx");
}

}  // namespace

std::string isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

Isa current_isa() {
  int isa = selected.load(std::memory_order_relaxed);
  if (isa < 0) {
    const char* name = std::getenv("REG4REC_ISA");
    select_isa(name ? name : "");
    isa = selected.load(std::memory_order_relaxed);
  }
  return static_cast<Isa>(isa);
}

Isa score_topk_isa() {
#if defined(__x86_64__)
  if (current_isa() >= Isa::kAvx512 && !__builtin_cpu_supports("avx512vnni")) return Isa::kAvx2;
#endif
  return current_isa();
}

void select_isa(const std::string& name) { selected.store(static_cast<int>(find(name))); }

}  // namespace reg4rec

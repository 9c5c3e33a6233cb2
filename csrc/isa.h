// Which instruction set the CPU ops run on.
#pragma once

#include <string>

namespace reg4rec {

enum class Isa { kBase, kAvx2, kAvx512 };

// The best one of this machine, or the one that REG4REC_ISA or select_isa names.
Isa current_isa();
std::string isa_name(Isa isa);
// Throws std::invalid_argument if the name is unknown or the machine lacks it; "" selects the best again.
void select_isa(const std::string& name);

}  // namespace reg4rec

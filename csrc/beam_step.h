// One step of beam search over unordered tokens: arguments and entry point (definition: kernels/beam_step).
#pragma once

#include "beam_step_call.h"

namespace reg4rec {

void beam_step_cpu(const BeamStep& args, int num_threads);

}  // namespace reg4rec

// All kernels by name, for the code that launches them.
#pragma once

#include "beam_step.cuh"
#include "item_topk.cuh"
#include "js_divergence.cuh"

#define REG4REC_KERNELS(use)                                                                                          \
  use(js_divergence_f32) use(js_divergence_bf16) use(beam_step_path_f32) use(beam_step_path_bf16) use(beam_step_user) \
      use(item_topk_tables) use(item_topk_direct) use(item_topk_merge)

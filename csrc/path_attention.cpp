#include "path_attention.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "isa.h"
#include "ranges.h"
#include "threads.h"

namespace reg4rec {

DECLARE_FOR_ISAS(void path_attention_paths(const PathAttention& args, int64_t begin, int64_t end, float scale);)

namespace {

constexpr int64_t kGrain = 1 << 15;  // products per range

}  // namespace

void path_attention_cpu(const PathAttention& args, int num_threads) {
  if (args.num_steps > kMostSteps) throw std::invalid_argument("paths have too many steps");
  check_dense<3>("path_attention: rows_BPS", args.rows, {args.num_users, args.num_paths, args.num_steps}, 0,
                 args.num_rows - 1);
  const auto attend = FOR_ISA(current_isa(), path_attention_paths);
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(args.width)));
  const int64_t products = std::max<int64_t>(1, args.num_heads * args.width * args.num_steps);
  const int64_t grain = std::max<int64_t>(1, kGrain / products);
  parallel_for(num_threads, args.num_users * args.num_paths, grain,
               [&](int64_t begin, int64_t end) { attend(args, begin, end, scale); });
}

}  // namespace reg4rec

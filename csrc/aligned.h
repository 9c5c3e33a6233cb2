// Scratch that starts on a cache line, so that no aligned vector in it straddles two.
#pragma once

#include <cstdint>
#include <vector>

namespace reg4rec {

struct alignas(64) CacheLine {
  float floats[16];
};

class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t size = 0) : lines_((size + 15) / 16) {}
  float* data() { return lines_.data()->floats; }
  const float* data() const { return lines_.data()->floats; }

 private:
  std::vector<CacheLine> lines_;
};

}  // namespace reg4rec

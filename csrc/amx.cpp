#include "amx.h"

#ifdef REG4REC_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace reg4rec {

#ifdef REG4REC_AMX

namespace {

constexpr int64_t kTileInputs = 32, kTileFours = 16;

// A tile has 16 rows of 64 bytes. A row holds 32 rounded inputs, or the weights of a pair of inputs for 16 outputs, or
// 16 sums.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// tmm0 and 1: sums of the upper rows, for the two halves of the outputs; tmm2 and 3: the same for the lower rows; tmm4
// and 5: inputs of the upper and the lower rows; tmm6 and 7: weights of the two halves. All statements are volatile,
// because the compiler knows neither tiles nor the memory that they read and write.
#define TILE_LOAD(tile, from, stride) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(from), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_STORE(tile, to, stride) \
  asm volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"(static_cast<int64_t>(stride)) : "memory")
#define TILE_ADD_PRODUCT(sums, inputs, weights) \
  asm volatile("tdpbf16ps %%tmm" #weights ", %%tmm" #inputs ", %%tmm" #sums:::)

#define TILE_ZERO(tile) asm volatile("tilezero %%tmm" #tile:::)
#define TILE_ADD_BYTES(sums, rows, columns) asm volatile("tdpbsud %%tmm" #columns ", %%tmm" #rows ", %%tmm" #sums:::)

void load_config(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }

void configure(int64_t upper, int64_t lower) {
  TileConfig config;
  config.rows[0] = config.rows[1] = config.rows[4] = upper;
  config.rows[2] = config.rows[3] = config.rows[5] = lower;
  config.rows[6] = config.rows[7] = kTileInputs / 2;
  for (int tile = 0; tile < 8; ++tile) config.bytes[tile] = config.rows[tile] > 0 ? kTileBytes : 0;
  load_config(config);
}

// Outputs of one panel for the configured rows, including the lower ones if `has_lower`.
template <bool has_lower>
void panel_rows(const uint16_t* x, int64_t in, const uint16_t* panel, const float* bias, float* y, int64_t y_stride) {
  const int64_t x_bytes = in * sizeof(uint16_t), y_bytes = y_stride * sizeof(float), panel_bytes = 2 * kTileBytes;
  TILE_LOAD(0, bias, 0);
  TILE_LOAD(1, bias + kTileRows, 0);
  if (has_lower) {
    TILE_LOAD(2, bias, 0);
    TILE_LOAD(3, bias + kTileRows, 0);
  }
  for (int64_t c = 0; c < in; c += kTileInputs, panel += kTileInputs * kPanel) {
    TILE_LOAD(6, panel, panel_bytes);
    TILE_LOAD(7, panel + 2 * kTileRows, panel_bytes);
    TILE_LOAD(4, x + c, x_bytes);
    TILE_ADD_PRODUCT(0, 4, 6);
    TILE_ADD_PRODUCT(1, 4, 7);
    if (has_lower) {
      TILE_LOAD(5, x + kTileRows * in + c, x_bytes);
      TILE_ADD_PRODUCT(2, 5, 6);
      TILE_ADD_PRODUCT(3, 5, 7);
    }
  }
  TILE_STORE(0, y, y_bytes);
  TILE_STORE(1, y + kTileRows, y_bytes);
  if (has_lower) {
    TILE_STORE(2, y + kTileRows * y_stride, y_bytes);
    TILE_STORE(3, y + kTileRows * y_stride + kTileRows, y_bytes);
  }
}

}  // namespace

bool may_use_tiles() {
  // Linux lets a process use tiles only after it asked: ARCH_REQ_XCOMP_PERM (0x1023) for XTILEDATA (18)
  static const bool granted = __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") &&
                              __builtin_cpu_supports("avx512bf16") && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return granted;
}

void linear_by_tiles(const Layer& layer, const uint16_t* rounded, int64_t rows, float* y, int64_t y_stride) {
  if (rows == 0) return;
  const int64_t in = whole_panels(layer.in);
  // equal groups need one tile configuration; if they do not divide the rows, the last overlaps the one before
  const int64_t num_groups = (rows + 2 * kTileRows - 1) / (2 * kTileRows), size = (rows + num_groups - 1) / num_groups;
  const bool has_lower = size > kTileRows;
  configure(has_lower ? kTileRows : size, has_lower ? size - kTileRows : 0);
  for (int64_t first = 0; first < layer.out; first += kPanel) {
    const uint16_t* panel = layer.pairs + first * in;
    for (int64_t group = 0; group < num_groups; ++group) {
      const int64_t begin = group * size < rows - size ? group * size : rows - size;
      const auto run = has_lower ? panel_rows<true> : panel_rows<false>;
      run(rounded + begin * in, in, panel, layer.bias + first, y + begin * y_stride + first, y_stride);
    }
  }
  asm volatile("tilerelease");
}

// tmm0 and 1: sums for the two halves of the columns; tmm4: rows; tmm6 and 7: the two halves.
void begin_products(int64_t rows) {
  TileConfig config;
  config.rows[0] = config.rows[1] = config.rows[4] = rows;
  config.rows[6] = config.rows[7] = kTileFours;
  for (int tile = 0; tile < 8; ++tile) config.bytes[tile] = config.rows[tile] > 0 ? kTileBytes : 0;
  load_config(config);
}

void add_up_products(const int32_t* rows, const uint8_t* columns, int64_t fours, int32_t* sums) {
  const int64_t row_bytes = fours * sizeof(int32_t), columns_bytes = 2 * kTileBytes;
  TILE_ZERO(0);
  TILE_ZERO(1);
  for (int64_t c = 0; c < fours; c += kTileFours, columns += kTileFours * columns_bytes) {
    TILE_LOAD(4, rows + c, row_bytes);
    TILE_LOAD(6, columns, columns_bytes);
    TILE_LOAD(7, columns + kTileBytes, columns_bytes);
    TILE_ADD_BYTES(0, 4, 6);
    TILE_ADD_BYTES(1, 4, 7);
  }
  TILE_STORE(0, sums, columns_bytes);
  TILE_STORE(1, sums + kTileRows, columns_bytes);
}

void end_products() { asm volatile("tilerelease"); }

#else

bool may_use_tiles() { return false; }

void begin_products(int64_t) {}

void add_up_products(const int32_t*, const uint8_t*, int64_t, int32_t*) {}

void end_products() {}

void linear_by_tiles(const Layer&, const uint16_t*, int64_t, float*, int64_t) {}

#endif

}  // namespace reg4rec

#include "pack_quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace octavo {
namespace {

constexpr int kLongestBlock = 256;

// fp16, as its 16 bits, to float and back (to nearest even).
float from_half(uint16_t half) {
  const uint32_t bits = uint32_t(half & 0x7fff) << 13;
  float magnitude;
  memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;  // the difference of the exponents' biases
  return half & 0x8000 ? -magnitude : magnitude;
}
uint16_t to_half(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (!(magnitude < 65520.0f)) return sign | 0x7c00;
  float shifted = magnitude + 0.5f;  // the last bit of numbers from 0.5 on is that of fp16's subnormal numbers
  uint32_t bits;
  if (magnitude < 0x1p-14f) {
    memcpy(&bits, &shifted, 4);
    return uint16_t(sign | (bits - 0x3f000000));
  }
  memcpy(&bits, &magnitude, 4);
  bits += 0xfff + ((bits >> 13) & 1);
  return uint16_t(sign | ((bits >> 13) - (112 << 10)));
}
float half_at(const uint8_t* p) {
  uint16_t half;
  memcpy(&half, p, 2);
  return from_half(half);
}

// A block of a GGUF file: weight i is scale * (code - offset) + min, with the scale and min of its group.
struct Block {
  uint8_t codes[kLongestBlock];
  float scales[kLongestBlock / 16];
  float mins[kLongestBlock / 16];
};

void low_and_high(const uint8_t* bytes, int count, uint8_t* codes) {
  for (int i = 0; i < count; i++) {
    codes[i] = bytes[i] & 15;
    codes[i + count] = bytes[i] >> 4;
  }
}

void read_q8_0(const uint8_t* p, Block& block) {
  block.scales[0] = half_at(p);
  for (int i = 0; i < 32; i++) block.codes[i] = p[2 + i] ^ 0x80;  // int8 + 128
}
void read_q4_0(const uint8_t* p, Block& block) {
  block.scales[0] = half_at(p);
  low_and_high(p + 2, 16, block.codes);
}
void read_q4_1(const uint8_t* p, Block& block) {
  block.scales[0] = half_at(p);
  block.mins[0] = half_at(p + 2);
  low_and_high(p + 4, 16, block.codes);
}

// Eight scales and minimums of 6 bits in 12 bytes: the first four in the low bits of bytes 0-3 and 4-7; of the last four,
// the low halves in bytes 8-11 and the high bits above those of the first.
void read_k_scales(const uint8_t* p, Block& block) {
  const float d = half_at(p), dmin = half_at(p + 2);
  const uint8_t* packed = p + 4;
  for (int i = 0; i < 4; i++) {
    const int low = packed[8 + i];
    block.scales[i] = d * (packed[i] & 63);
    block.mins[i] = -dmin * (packed[4 + i] & 63);
    block.scales[4 + i] = d * ((low & 15) | packed[i] >> 6 << 4);
    block.mins[4 + i] = -dmin * (low >> 4 | packed[4 + i] >> 6 << 4);
  }
}
void read_q4_k(const uint8_t* p, Block& block) {
  read_k_scales(p, block);
  for (int i = 0; i < 4; i++) low_and_high(p + 16 + 32 * i, 32, block.codes + 64 * i);
}
void read_q5_k(const uint8_t* p, Block& block) {
  read_k_scales(p, block);
  for (int i = 0; i < 4; i++) low_and_high(p + 48 + 32 * i, 32, block.codes + 64 * i);
  for (int i = 0; i < 256; i++) block.codes[i] |= (p[16 + i % 32] >> (i / 32) & 1) << 4;
}
// Each half holds 128 columns: the low four bits as the low halves of 64 bytes, then their high halves; two more bits in 32
// bytes with 4 columns each.
void read_q6_k(const uint8_t* p, Block& block) {
  const float d = half_at(p + 208);
  for (int i = 0; i < 16; i++) block.scales[i] = d * int8_t(p[192 + i]);
  for (int half = 0; half < 2; half++) {
    uint8_t* codes = block.codes + 128 * half;
    low_and_high(p + 64 * half, 64, codes);
    for (int i = 0; i < 128; i++) codes[i] |= (p[128 + 32 * half + i % 32] >> (i / 32 * 2) & 3) << 4;
  }
}

}  // namespace

struct QuantPacked::Type {
  const char* name;
  int bits, block;
  bool has_min;
  int offset;
  int columns, bytes;  // of a block in the file
  void (*read)(const uint8_t*, Block&);
};

namespace {

const QuantPacked::Type kTypes[] = {
    {"int8", 8, 0, false, 128, 1, 0, nullptr},
    {"Q8_0", 8, 32, false, 128, 32, 34, read_q8_0},
    {"Q4_0", 4, 32, false, 8, 32, 18, read_q4_0},
    {"Q4_1", 4, 32, true, 0, 32, 20, read_q4_1},
    {"Q4_K", 4, 32, true, 0, 256, 144, read_q4_k},
    {"Q5_K", 8, 32, true, 0, 256, 176, read_q5_k},
    {"Q6_K", 8, 16, false, 32, 256, 210, read_q6_k},
};

const QuantPacked::Type* find_type(const std::string& name) {
  for (const auto& type : kTypes)
    if (name == type.name) return &type;
  throw std::invalid_argument("no packed form of " + name + ": there are int8, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K and Q6_K");
}

QuantMatrix shape_of(const QuantPacked::Type& type, int n, int k) {
  if (n < 1 || k < 1) throw std::invalid_argument("a matrix needs rows and columns");
  if (k > (1 << 24) || n > (1 << 28)) throw std::invalid_argument("more than 2^28 rows or 2^24 columns");
  if (k % type.columns) throw std::invalid_argument(std::string(type.name) + " needs a multiple of " + std::to_string(type.columns) + " columns");
  constexpr int kUnit = QuantMatrix::kUnit;
  return {type.bits, type.block, type.has_min, type.offset, n, k, (k + kUnit - 1) / kUnit * kUnit, nullptr};
}

float number_at(DType dtype, const void* row, int i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(row)[i];
  const uint32_t bits = uint32_t(static_cast<const uint16_t*>(row)[i]) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

QuantPacked::QuantPacked(const std::string& type, int n, int k)
    : type_(type),
      how_(find_type(type)),
      matrix_(shape_of(*how_, n, k)),
      source_row_bytes_(size_t(k / how_->columns) * how_->bytes),
      memory_(matrix_.panel_bytes() * matrix_.num_panels()) {
  matrix_.data = memory_.data();
}

// `first_k` and `count` are multiples of 4, of 32 where codes have 4 bits.
void QuantPacked::put_codes(int row, int first_k, const uint8_t* codes, int count) {
  constexpr int kPanel = QuantMatrix::kPanel, kUnit = QuantMatrix::kUnit;
  uint8_t* panel = panel_of(row) + row % kPanel * 4;
  if (matrix_.bits == 8) {
    for (int i = 0; i < count; i += 4) {
      const int k = first_k + i;
      memcpy(panel + k / kUnit * matrix_.unit_bytes() + k % kUnit / 4 * (kPanel * 4), codes + i, 4);
    }
    return;
  }
  for (int i = 0; i < count; i += 32) {
    const int k = first_k + i;
    uint8_t* to = panel + k / kUnit * matrix_.unit_bytes() + k % kUnit / 8 * (kPanel * 4);
    for (int j = 0; j < 16; j++) to[j / 4 * (kPanel * 4) + j % 4] = uint8_t(codes[i + j] | codes[i + j + 16] << 4);
  }
}

void QuantPacked::fill_blocks(const uint8_t* source, size_t row_bytes, int first, int count) {
  constexpr int kPanel = QuantMatrix::kPanel, kUnit = QuantMatrix::kUnit;
  Block block;
  for (int i = 0; i < count; i++) {
    const uint8_t* from = source + i * row_bytes;
    const int row = first + i;
    for (int k = 0; k < matrix_.k; k += how_->columns, from += how_->bytes) {
      how_->read(from, block);
      put_codes(row, k, block.codes, how_->columns);
      for (int g = 0; g < how_->columns / matrix_.block; g++) {
        const int at = k + g * matrix_.block;
        uint8_t* scale = panel_of(row) + at / kUnit * matrix_.unit_bytes() + matrix_.code_bytes() +
                         (at % kUnit / matrix_.block * kPanel + row % kPanel) * 2;
        const uint16_t bits = to_half(block.scales[g]);
        memcpy(scale, &bits, 2);
        if (!matrix_.has_min) continue;
        const uint16_t min_bits = to_half(block.mins[g]);
        memcpy(scale + matrix_.scale_bytes(), &min_bits, 2);
      }
    }
  }
}

void QuantPacked::fill_floats(DType dtype, const void* source, int64_t stride, int first, int count) {
  constexpr int kPanel = QuantMatrix::kPanel;
  std::vector<uint8_t> codes(matrix_.padded_k);
  for (int i = 0; i < count; i++) {
    const void* from = static_cast<const uint8_t*>(source) + i * stride * int64_t(size_of(dtype));
    const int row = first + i;
    float largest = 0;
    for (int k = 0; k < matrix_.k; k++) largest = std::max(largest, std::fabs(number_at(dtype, from, k)));
    // A row too small for the inverse of its scale to be a float counts as zeros.
    const float scale = largest / 127, inverse = largest > 0x1p-120f ? 127 / largest : 0;
    for (int k = 0; k < matrix_.padded_k; k++)
      codes[k] = uint8_t(128 + (k < matrix_.k ? int(std::nearbyint(number_at(dtype, from, k) * inverse)) : 0));
    put_codes(row, 0, codes.data(), matrix_.padded_k);
    memcpy(panel_of(row) + matrix_.num_units() * matrix_.unit_bytes() + row % kPanel * 4, &scale, 4);
  }
}

}  // namespace octavo

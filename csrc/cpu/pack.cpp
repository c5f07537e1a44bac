#include "pack.h"

#include <cstring>

namespace octavo {
namespace {

constexpr int kPadding = 32;  // of k

PackedMatrix shape_of(DType dtype, int n, int k) {
  return PackedMatrix{dtype, n, k, (k + kPadding - 1) / kPadding * kPadding, nullptr};
}

}  // namespace

Packed::Packed(DType dtype, int n, int k) : matrix_(shape_of(dtype, n, k)), memory_(bytes()) {
  matrix_.data = memory_.data();
}

void Packed::fill(const void* source, int64_t stride, int first, int count) {
  constexpr int kPanel = PackedMatrix::kPanel;
  const size_t size = size_of(matrix_.dtype);
  for (int i = 0; i < count; i++) {
    const int row = first + i;
    const uint8_t* from = static_cast<const uint8_t*>(source) + i * stride * int64_t(size);
    uint8_t* to = memory_.data() + row / kPanel * matrix_.panel_bytes() + row % kPanel * 4;
    const size_t row_bytes = matrix_.k * size;
    size_t at = 0;
    for (; at + 4 <= row_bytes; at += 4, to += kPanel * 4) memcpy(to, from + at, 4);
    memcpy(to, from + at, row_bytes - at);
  }
}

}  // namespace octavo

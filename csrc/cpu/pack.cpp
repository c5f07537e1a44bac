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
  const int step = int(4 / size);  // values of k that lie together
  for (int i = 0; i < count; i++) {
    const int row = first + i;
    const uint8_t* from = static_cast<const uint8_t*>(source) + i * stride * int64_t(size);
    uint8_t* to = memory_.data() + row / kPanel * matrix_.panel_bytes() + row % kPanel * 4;
    for (int k = 0; k < matrix_.k; k++) memcpy(to + (k / step) * (kPanel * 4) + k % step * size, from + k * size, size);
  }
}

}  // namespace octavo

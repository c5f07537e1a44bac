// Matrices in the order in which the kernels read them, in memory of their own.
#pragma once
#include "kernels.h"
#include "weight_memory.h"

namespace octavo {

class Packed {
 public:
  // An [n, k] matrix of zeros.
  Packed(DType dtype, int n, int k);
  // Fills rows [first, first + count) from `source`, [count, k] of the matrix's dtype, rows `stride` elements apart.
  void fill(const void* source, int64_t stride, int first, int count);

  const PackedMatrix& matrix() const { return matrix_; }
  size_t bytes() const { return matrix_.panel_bytes() * matrix_.num_panels(); }

 private:
  PackedMatrix matrix_;
  WeightMemory memory_;
};

}  // namespace octavo

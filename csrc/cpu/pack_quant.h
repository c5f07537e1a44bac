// Quantized matrices in the order in which the kernels read them: from floats, or from the rows of a GGUF file as they are.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"
#include "weight_memory.h"

namespace octavo {

class QuantPacked {
 public:
  // An [n, k] matrix whose rows are still to be filled. `type` is "int8" (a scale for each row, filled from floats) or one
  // of the GGUF types Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, whose k is a multiple of 32 or, for the K types, of 256. Throws
  // std::invalid_argument for another type or k.
  QuantPacked(const std::string& type, int n, int k);

  // Bytes of a row in the file; 0 for int8.
  size_t source_row_bytes() const { return source_row_bytes_; }
  // Rows [first, first + count) from blocks of the matrix's GGUF type, rows `row_bytes` apart.
  void fill_blocks(const uint8_t* source, size_t row_bytes, int first, int count);
  // Rows [first, first + count) of an int8 matrix from [count, k] numbers, rows `stride` elements apart: each row is
  // divided by its largest magnitude / 127 and rounded.
  void fill_floats(DType dtype, const void* source, int64_t stride, int first, int count);

  const std::string& type() const { return type_; }
  const QuantMatrix& matrix() const { return matrix_; }
  size_t bytes() const { return memory_.size(); }

  // Defined with the types.
  struct Type;

 private:
  uint8_t* panel_of(int row) { return memory_.data() + row / QuantMatrix::kPanel * matrix_.panel_bytes(); }
  void put_codes(int row, int first_k, const uint8_t* codes, int count);

  std::string type_;
  const Type* how_;
  QuantMatrix matrix_;
  size_t source_row_bytes_;
  WeightMemory memory_;
};

}  // namespace octavo

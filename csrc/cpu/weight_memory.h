// Memory of packed matrices, zero at first, cut from large pieces in huge pages.
//
// A matrix of a small model is smaller than a huge page. In memory of its own it lies in pages of 4 KB, at each of which
// the processor stops to read ahead, and looks up an address that it does not know any more. The matrices of a model are
// packed one after another and live as long as each other: so they share pieces, and a piece is given back with the last
// of its matrices.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace octavo {

class WeightMemory {
 public:
  // Throws std::bad_alloc. No memory at all for 0 bytes.
  explicit WeightMemory(size_t bytes);
  uint8_t* data() const { return memory_.get(); }
  size_t size() const { return size_; }

 private:
  std::shared_ptr<uint8_t> memory_;  // keeps the piece
  size_t size_;
};

}  // namespace octavo

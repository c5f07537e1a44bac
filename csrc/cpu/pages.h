// Memory in whole pages, zero at first, in huge ones where the system gives them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace octavo {

class Pages {
 public:
  // Throws std::bad_alloc. No memory at all for 0 bytes.
  explicit Pages(size_t bytes);
  uint8_t* data() const { return memory_.get(); }
  size_t size() const { return memory_.get_deleter().length; }

 private:
  struct Unmap {
    size_t length;
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t, Unmap> memory_;
};

}  // namespace octavo

#include "pages.h"

#include <sys/mman.h>

#include <new>

namespace octavo {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;

uint8_t* map(size_t length) {
  if (!length) return nullptr;
  void* memory = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  if (length >= kHugePage) madvise(memory, length, MADV_HUGEPAGE);
  return static_cast<uint8_t*>(memory);
}

}  // namespace

void Pages::Unmap::operator()(uint8_t* memory) const { munmap(memory, length); }

Pages::Pages(size_t bytes) : memory_(map(bytes), Unmap{bytes}) {}

}  // namespace octavo

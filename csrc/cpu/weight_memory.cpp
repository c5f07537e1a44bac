#include "weight_memory.h"

#include <mutex>

#include "pages.h"

namespace octavo {
namespace {

constexpr size_t kPiece = size_t(64) << 20;  // of addresses; memory is taken when it is written to
constexpr size_t kLine = 64;

std::mutex mutex;
std::weak_ptr<Pages> current;  // the piece that is being cut
size_t used;                   // of it

}  // namespace

WeightMemory::WeightMemory(size_t bytes) : size_(bytes) {
  if (!bytes) return;
  if (bytes > kPiece / 2) {  // a piece of its own
    const auto piece = std::make_shared<Pages>(bytes);
    memory_ = std::shared_ptr<uint8_t>(piece, piece->data());
    return;
  }
  const std::lock_guard lock(mutex);
  std::shared_ptr<Pages> piece = current.lock();
  if (!piece || used + bytes > piece->size()) {
    piece = std::make_shared<Pages>(kPiece);
    current = piece;
    used = 0;
  }
  memory_ = std::shared_ptr<uint8_t>(piece, piece->data() + used);
  used += (bytes + kLine - 1) / kLine * kLine;
}

}  // namespace octavo

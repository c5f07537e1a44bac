#include "pool.h"

#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

constexpr int kSpinsBeforeSleep = 20000;  // some 200 us
constexpr int kSpinsBeforeYield = 4000;   // a member that waits longer may share its core with the one it waits for

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Pool::Pool(int num_threads) : size_(num_threads), lines_(num_threads), taken_(num_threads) {
  for (int tid = 1; tid < size_; tid++) threads_.emplace_back([this, tid] { work(tid); });
}

Pool::~Pool() {
  quit_.store(true, std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Pool::work(int tid) {
  uint32_t seen = 0;
  while (true) {
    for (int spins = 0; job_.load(std::memory_order_acquire) == seen; spins++) {
      if (spins < kSpinsBeforeSleep)
        relax();
      else
        job_.wait(seen, std::memory_order_acquire);
    }
    seen++;
    if (quit_.load(std::memory_order_relaxed)) return;
    fn_(context_, tid, *this);
    barrier(tid);
  }
}

void Pool::run(Job fn, void* context) {
  std::lock_guard<std::mutex> guard(one_job_);
  fn_ = fn;
  context_ = context;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  fn(context, 0, *this);
  barrier(0);
}

void Pool::barrier(int tid) {
  const uint32_t epoch = lines_[tid].epoch.load(std::memory_order_relaxed) + 1;
  lines_[tid].epoch.store(epoch, std::memory_order_release);
  for (int other = 0; other < size_; other++) {
    for (int spins = 0; int32_t(lines_[other].epoch.load(std::memory_order_acquire) - epoch) < 0; spins++) {
      if (spins < kSpinsBeforeYield)
        relax();
      else
        sched_yield();
    }
  }
}

bool Pool::take(int tid, int64_t count, int64_t piece, int64_t& begin, int64_t& end) {
  uint32_t& round = lines_[tid].round;
  // Nobody uses the next round's count: a barrier lies before this round, and one after it.
  taken_[tid].count[(round + 1) % 3].store(0, std::memory_order_relaxed);
  for (int i = 0, owner = tid; i < size_; i++, owner = owner + 1 < size_ ? owner + 1 : 0) {
    const int64_t first = count * owner / size_, last = count * (owner + 1) / size_;
    begin = first + taken_[owner].count[round % 3].fetch_add(piece, std::memory_order_relaxed);
    if (begin >= last) continue;
    end = begin + piece < last ? begin + piece : last;
    return true;
  }
  round++;
  return false;
}

}  // namespace octavo

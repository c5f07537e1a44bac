// A team of threads that run one job together and meet at barriers inside it.
//
// Members spin for a short while after a job, since the next one comes within microseconds while a model runs, and then
// sleep. One job at a time: callers queue up at a mutex.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace octavo {

// fn(context, tid, team): the member's number, and the team for `barrier` and `size`.
class Pool;
using Job = void (*)(void* context, int tid, Pool& team);

class Pool {
 public:
  // `num_threads` members, the calling thread being the first of them in every job.
  explicit Pool(int num_threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }
  // Runs the job on all members; returns when all have finished.
  void run(Job fn, void* context);
  // Waits for all members. Every member has to call it equally often in a job.
  void barrier(int tid);
  // The next piece of the items [0, count) for a member: sets `begin`, and `end` at most `piece` further on; false when
  // all are taken. Its own share comes first, the tid-th stretch of them; then what others have left of theirs, as a member
  // that is held up takes less. Every member calls it until it is false, with the same numbers, and all meet at a barrier
  // before the next items are shared out.
  bool take(int tid, int64_t count, int64_t piece, int64_t& begin, int64_t& end);

 private:
  struct alignas(128) Line {
    std::atomic<uint32_t> epoch{0};
    uint32_t round = 0;  // how often the member has seen the end of shared items
  };
  // How many items of a member's share are taken: in this round, in the next, and in the one before, which another may
  // still look at.
  struct alignas(128) Taken {
    std::atomic<int64_t> count[3] = {0, 0, 0};
  };

  void work(int tid);

  const int size_;
  std::vector<Line> lines_;
  std::vector<Taken> taken_;
  alignas(128) std::atomic<uint32_t> job_{0};
  std::atomic<bool> quit_{false};
  Job fn_ = nullptr;
  void* context_ = nullptr;
  std::mutex one_job_;
  std::vector<std::thread> threads_;
};

}  // namespace octavo

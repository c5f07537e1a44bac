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

 private:
  struct alignas(128) Line {
    std::atomic<uint32_t> epoch{0};
  };

  void work(int tid);

  const int size_;
  std::vector<Line> lines_;
  alignas(128) std::atomic<uint32_t> job_{0};
  std::atomic<bool> quit_{false};
  Job fn_ = nullptr;
  void* context_ = nullptr;
  std::mutex one_job_;
  std::vector<std::thread> threads_;
};

}  // namespace octavo

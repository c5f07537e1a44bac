// A team with its kernels: runs a kernel at once, or notes it down to be run again and again without its caller.
#pragma once
#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "pages.h"
#include "probe.h"

namespace octavo {

// What differs from one replay of a recording to the next.
struct StepShape {
  int rows;
  int num_requests;
  uint8_t* scratch;  // of the team, large enough for the recording
};

// The kernel calls of a step, over buffers that stay where they are. The caller keeps the buffers alive.
struct Recording {
  int rows;  // that the calls were made with: the most that a replay may have
  size_t scratch_bytes;  // the most that a call needs
  std::vector<std::function<void(const StepShape&, int tid, Pool&)>> calls;
};

class Team {
 public:
  Team(int num_threads, const Kernels* kernels) : kernels_(kernels), pool_(num_threads) {}

  const Kernels& kernels() const { return *kernels_; }
  int size() const { return pool_.size(); }
  Probe probe() { return measure(pool_, *kernels_); }

  // Runs a kernel over `rows` rows. While a recording is made nothing runs: the call is noted down. Its rows are then a
  // multiple of the recording's, and in a replay the same multiple of the replay's.
  template <class Args>
  void run(void (*kernel)(const Args&, int, int, Pool&), const Args& args, int rows) {
    if (recording_) {
      const int multiple = rows / recording_->rows;
      recording_->calls.push_back([kernel, args, multiple](const StepShape& shape, int tid, Pool& team) {
        kernel(args, shape.rows * multiple, tid, team);
      });
      return;
    }
    struct Call {
      void (*kernel)(const Args&, int, int, Pool&);
      const Args& args;
      int rows;
    } call{kernel, args, rows};
    pool_.run([](void* c, int tid, Pool& team) { auto& call = *static_cast<Call*>(c); call.kernel(call.args, call.rows, tid, team); },
              &call);
  }

  // `args.scratch` is the team's to give: in a recording, that of its replay.
  void run(const QuantLinearArgs& args, int rows) {
    const size_t needed = args.w->x_bytes() * std::max(rows, size());
    if (recording_) {
      recording_->scratch_bytes = std::max(recording_->scratch_bytes, needed);
      const int multiple = rows / recording_->rows;
      recording_->calls.push_back([kernel = kernels_->quant_linear, args, multiple](const StepShape& shape, int tid, Pool& team) {
        QuantLinearArgs now = args;
        now.scratch = shape.scratch;
        kernel(now, shape.rows * multiple, tid, team);
      });
      return;
    }
    std::lock_guard<std::mutex> guard(scratch_in_use_);
    QuantLinearArgs now = args;
    now.scratch = scratch_of(needed);
    run(kernels_->quant_linear, now, rows);
  }

  void run(const AttentionArgs& args) {
    if (recording_) {
      recording_->calls.push_back([kernel = kernels_->attention, args](const StepShape& shape, int tid, Pool& team) {
        AttentionArgs now = args;
        now.num_requests = shape.num_requests;
        kernel(now, tid, team);
      });
      return;
    }
    struct Call {
      const Kernels& kernels;
      const AttentionArgs& args;
    } call{*kernels_, args};
    pool_.run([](void* c, int tid, Pool& team) { auto& call = *static_cast<Call*>(c); call.kernels.attention(call.args, tid, team); },
              &call);
  }

  void start_recording(int rows) { recording_ = std::make_unique<Recording>(Recording{rows, 0, {}}); }
  std::unique_ptr<Recording> finish_recording() { return std::move(recording_); }

  // `shape.scratch` is the team's to give.
  void replay(const Recording& recording, StepShape shape) {
    std::lock_guard<std::mutex> guard(scratch_in_use_);
    shape.scratch = scratch_of(recording.scratch_bytes);
    struct Call {
      const Recording& recording;
      const StepShape& shape;
    } call{recording, shape};
    pool_.run(
        [](void* c, int tid, Pool& team) {
          auto& call = *static_cast<Call*>(c);
          for (const auto& each : call.recording.calls) {
            each(call.shape, tid, team);
            team.barrier(tid);
          }
        },
        &call);
  }

 private:
  uint8_t* scratch_of(size_t bytes) {
    if (scratch_.size() < bytes) scratch_ = Pages(bytes);
    return scratch_.data();
  }

  const Kernels* kernels_;
  Pool pool_;
  std::mutex scratch_in_use_;
  Pages scratch_{0};
  std::unique_ptr<Recording> recording_;
};

}  // namespace octavo

// Every loop runs several times, and the shortest time counts: what disturbs a loop only makes it longer.
#include "probe.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>

#include "pages.h"

namespace octavo {
namespace {

constexpr size_t kReadBytes = size_t(256) << 20;  // several times a core complex's share of the last-level cache
constexpr double kSecondsOfLoop = 0.1;
constexpr int kBarriers = 100;
constexpr int64_t kRounds = 200000;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

using Member = std::function<void(int tid)>;

void run(Pool& team, const Member& member) {
  team.run([](void* m, int tid, Pool&) { (*static_cast<Member*>(m))(tid); }, const_cast<Member*>(&member));
}

// The shortest time in seconds that the team needs for `member`, of as many runs as fit into the time for a loop.
double shortest(Pool& team, const Member& member) {
  double best = std::numeric_limits<double>::infinity();
  for (const double end = now() + kSecondsOfLoop; best == std::numeric_limits<double>::infinity() || now() < end;) {
    const double started = now();
    run(team, member);
    best = std::min(best, now() - started);
  }
  return best;
}

double read_rate(Pool& team, const ProbeLoops& loops) {
  const size_t part = kReadBytes / team.size() / 128 * 128;
  const Pages memory(kReadBytes);
  // Memory that was never written is one page of zeros, read again and again.
  run(team, [&](int tid) { std::memset(memory.data() + tid * part, 1, part); });
  return part * team.size() / shortest(team, [&](int tid) { loops.read(memory.data() + tid * part, part); });
}

double rate(Pool& team, const ProbeLoop& loop) {
  if (!loop.run) return 0;
  return double(loop.operations) * kRounds * team.size() / shortest(team, [&](int) { loop.run(kRounds); });
}

}  // namespace

Probe measure(Pool& team, const Kernels& kernels) {
  const ProbeLoops& loops = kernels.probe;
  const double barriers = shortest(team, [&](int tid) {
    for (int i = 0; i < kBarriers; i++) team.barrier(tid);
  });
  return {barriers / kBarriers, read_rate(team, loops), rate(team, loops.float32), rate(team, loops.bfloat16),
          rate(team, loops.int8)};
}

}  // namespace octavo

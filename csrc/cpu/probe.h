// What a machine can do at most, measured by a team: the bounds that the kernels are compared with.
#pragma once
#include "kernels.h"

namespace octavo {

// Rates are per second. Those of arithmetic count a multiplication and an addition as two operations; 0 is arithmetic that
// the instruction set has no instruction for.
struct Probe {
  double barrier_seconds;
  double read_bytes;
  double float32, bfloat16, int8;  // operations
};

// Takes less than a second on a machine that has nothing else to do. Throws std::bad_alloc.
Probe measure(Pool& team, const Kernels& kernels);

}  // namespace octavo

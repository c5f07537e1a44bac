// Which kernels this machine can run.
#pragma once
#include <vector>

#include "kernels.h"

namespace octavo {

// The fastest first; the portable ones are always there.
std::vector<const Kernels*> usable_kernels();

}  // namespace octavo

#define OCTAVO_NAMESPACE avx512
#define OCTAVO_TABLE kAvx512
#define OCTAVO_STRING "avx512"
#include "kernels.inc"

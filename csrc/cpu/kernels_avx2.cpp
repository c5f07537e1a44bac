#define OCTAVO_NAMESPACE avx2
#define OCTAVO_TABLE kAvx2
#define OCTAVO_STRING "avx2"
#include "kernels.inc"

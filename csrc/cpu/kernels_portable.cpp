#define OCTAVO_NAMESPACE portable
#define OCTAVO_TABLE kPortable
#define OCTAVO_STRING "portable"
#include "kernels.inc"

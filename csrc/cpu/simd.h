// Sixteen numbers at once, in GCC's vector extension: one source that becomes AVX-512, AVX2, SSE or NEON instructions by
// the flags that it is compiled with. Included by kernels.inc only, inside the namespace of one instruction set.

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

#define OCTAVO_UNROLL _Pragma("GCC unroll 32")
#define OCTAVO_INLINE inline __attribute__((always_inline))

template <class V>
OCTAVO_INLINE V load_as(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

OCTAVO_INLINE f32x16 splat(float x) { return x - f32x16{}; }
OCTAVO_INLINE i32x16 splat_int(int32_t x) { return x - i32x16{}; }
OCTAVO_INLINE f32x16 as_float(i32x16 v) { return (f32x16)v; }
OCTAVO_INLINE i32x16 as_int(f32x16 v) { return (i32x16)v; }
OCTAVO_INLINE f32x16 select(i32x16 mask, f32x16 yes, f32x16 no) {
  return as_float((as_int(yes) & mask) | (as_int(no) & ~mask));
}
OCTAVO_INLINE f32x16 maximum(f32x16 a, f32x16 b) { return select(a > b, a, b); }
OCTAVO_INLINE f32x16 minimum(f32x16 a, f32x16 b) { return select(a < b, a, b); }
OCTAVO_INLINE i32x16 lanes() { return i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// Sums and maxima over the lanes, always in the same order.
OCTAVO_INLINE float sum_lanes(f32x16 v) {
  float a[16];
  __builtin_memcpy(a, &v, sizeof a);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a[i] += a[i + half];
  return a[0];
}
OCTAVO_INLINE float max_lanes(f32x16 v) {
  float a[16];
  __builtin_memcpy(a, &v, sizeof a);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a[i] = a[i] > a[i + half] ? a[i] : a[i + half];
  return a[0];
}

// ---- numbers in memory: float, and bf16 as its 16 bits ----

OCTAVO_INLINE float to_float(float x) { return x; }
OCTAVO_INLINE float to_float(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
OCTAVO_INLINE void from_float(float x, float& out) { out = x; }
OCTAVO_INLINE void from_float(float x, uint16_t& out) {  // to nearest even; a NaN stays one
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  out = x != x ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

OCTAVO_INLINE f32x16 load(const float* p) { return load_as<f32x16>(p); }
OCTAVO_INLINE f32x16 load(const uint16_t* p) {
  return (f32x16)(__builtin_convertvector(load_as<u16x16>(p), u32x16) << 16);
}
OCTAVO_INLINE void store(float* p, f32x16 v) { __builtin_memcpy(p, &v, sizeof v); }
OCTAVO_INLINE u16x16 round_to_bf16(f32x16 v) {
#if defined(__AVX512BF16__)
  return (u16x16)_mm512_cvtneps_pbh((__m512)v);
#else
  const u32x16 bits = (u32x16)v;
  const u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const i32x16 nan = v != v;
  return __builtin_convertvector((rounded & (u32x16)~nan) | ((u32x16)nan & 0x7fc0), u16x16);
#endif
}
OCTAVO_INLINE void store(uint16_t* p, f32x16 v) {
  const u16x16 rounded = round_to_bf16(v);
  __builtin_memcpy(p, &rounded, sizeof rounded);
}

// The first `count` of 16 numbers; the others count as 0 and are not touched in memory.
template <class T>
OCTAVO_INLINE f32x16 load_part(const T* p, int count) {
  if (count >= 16) return load(p);
  T buffer[16] = {};
  __builtin_memcpy(buffer, p, count * sizeof(T));
  return load(buffer);
}
template <class T>
OCTAVO_INLINE void store_part(T* p, f32x16 v, int count) {
  if (count >= 16) return store(p, v);
  T buffer[16];
  store(buffer, v);
  __builtin_memcpy(p, buffer, count * sizeof(T));
}

// e^x, relative error near 1e-7 of float; 0 below -87, no overflow handling above 88. The exponent is split into an
// integer power of two and a polynomial on [-1/2, 1/2] (Cody and Waite 1980, chapter 6).
OCTAVO_INLINE f32x16 exponential(f32x16 x) {
  const f32x16 floor_of = splat(-87.0f);
  const i32x16 tiny = x < floor_of;
  x = select(tiny, floor_of, x);
  const f32x16 magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const f32x16 n = (x * splat(1.44269504088896341f) + magic) - magic;
  f32x16 r = x - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  f32x16 p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.0f);
  const i32x16 power = (__builtin_convertvector(n, i32x16) + 127) << 23;
  return select(tiny, f32x16{}, p * as_float(power));
}
OCTAVO_INLINE f32x16 hyperbolic_tangent(f32x16 x) {
  // tanh|x| = 1 - 2 / (e^2|x| + 1), with |x| bounded where the result is 1 already.
  const f32x16 magnitude = as_float(as_int(x) & 0x7fffffff);
  const f32x16 bounded = select(magnitude > splat(20.0f), splat(20.0f), magnitude);
  const f32x16 t = splat(1.0f) - splat(2.0f) / (exponential(bounded * splat(2.0f)) + splat(1.0f));
  return as_float(as_int(t) | (as_int(x) & int32_t(0x80000000)));
}

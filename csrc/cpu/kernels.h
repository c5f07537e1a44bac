// What the kernels of every instruction set offer. Each is called by all members of a team, which share the work out.
//
// T rows ("tokens") are given as `rows` when the kernel runs, apart from the other arguments, so that a recorded call can
// be replayed with another number of rows. Strides are counted in elements.
#pragma once
#include <cstddef>
#include <cstdint>

#include "pool.h"

namespace octavo {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };  // kInt8: of a cache only

inline size_t size_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : dtype == DType::kBFloat16 ? 2 : 1; }

// A matrix [n, k] in the order in which the kernels read it: panels of 48 rows of it (output columns), and within a panel
// k-major, 16 rows side by side, 4 bytes of k per row. The rows of the last panel are filled up to a multiple of 16.
struct PackedMatrix {
  DType dtype;
  int n, k;
  int padded_k;  // a multiple of 32
  const uint8_t* data;

  static constexpr int kPanel = 48;
  int num_panels() const { return (n + kPanel - 1) / kPanel; }
  size_t panel_bytes() const { return size_t(kPanel) * padded_k * size_of(dtype); }
};

enum class Activation : int { kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3, kNone = 4 };

// What becomes of a product with a matrix of n rows. Gated: the second half of the matrix begins at a panel of its own, and
// y = gate(first half) * second half has `gated` columns.
struct LinearOutput {
  int n;
  const float* bias;  // [n], or null
  void* y;            // [rows, n], or [rows, gated]
  int64_t y_stride;
  DType y_dtype;
  bool accumulate = false;  // y += product, rounded once
  Activation gate = Activation::kNone;
  int gated = 0;
  int first_row = 0, first_column = 0;  // of the product, that y begins with
};

// y = x @ w^T + bias
struct LinearArgs {
  const PackedMatrix* w;
  const void* x;  // [rows, k], of w's dtype
  int64_t x_stride;
  LinearOutput out;
};

// A matrix [n, k] of small integers with scales: weight = scale * (code - offset) + min. Panels of 48 rows of it, whose
// bytes lie in the order in which they are read. A panel is a sequence of units of 64 k: the codes, k-major, 16 rows side
// by side; then the fp16 scales [64 / block][48], and the fp16 minimums, if any. 8 bits: 4 k of a row lie together. 4 bits:
// a line of 16 rows holds 4 k in the low halves of its bytes and the k 16 further on in the high halves; 4 such lines are a
// block of 32. Where a row of the matrix has one scale, these are float [48] behind the panel's last unit.
struct QuantMatrix {
  int bits;   // 4 or 8
  int block;  // columns that share a scale: 16, 32, or 0 for the whole row
  bool has_min;
  int offset;  // 0 where there are minimums
  int n, k;
  int padded_k;  // a multiple of 64
  const uint8_t* data;

  static constexpr int kPanel = 48;
  static constexpr int kUnit = 64;
  static constexpr int kRowGroup = 64;  // activations that share a scale where a row of the matrix has one
  int num_panels() const { return (n + kPanel - 1) / kPanel; }
  int num_units() const { return padded_k / kUnit; }
  size_t code_bytes() const { return size_t(kPanel) * kUnit * bits / 8; }              // of a unit
  size_t scale_bytes() const { return block ? size_t(kPanel) * (kUnit / block) * 2 : 0; }  // of a unit
  size_t unit_bytes() const { return code_bytes() + scale_bytes() * (has_min ? 2 : 1); }
  size_t panel_bytes() const { return num_units() * unit_bytes() + (block ? 0 : kPanel * sizeof(float)); }

  // A row of activations as the kernels quantize it: int8 [padded_k], then float scales, one for `x_group` columns, then for
  // each of the matrix's blocks (for each group, where its rows have one scale) what its offset or minimum is multiplied with.
  int x_group() const { return block ? 32 : kRowGroup; }
  int num_x_scales() const { return (padded_k + x_group() - 1) / x_group(); }
  int num_x_sums() const { return block == 16 ? padded_k / 16 : num_x_scales(); }
  size_t x_bytes() const { return (padded_k + 4 * size_t(num_x_scales() + num_x_sums()) + 63) / 64 * 64; }
};

// y = x @ w^T + bias with a quantized matrix.
struct QuantLinearArgs {
  const QuantMatrix* w;
  DType x_dtype;
  const void* x;  // [rows, k]
  int64_t x_stride;
  LinearOutput out;
  uint8_t* scratch;  // w->x_bytes() for every row and at least for every member, from a multiple of 64 on
};

enum class Norm : int { kRms = 0, kGemmaRms = 1, kLayer = 2 };

// y = norm(x)
struct NormArgs {
  Norm kind;
  DType dtype;
  const void* x;  // [rows, groups, channels]; the groups of a row lie next to each other
  int64_t x_stride;
  const void* weight;  // [channels]
  const void* bias;    // [channels], for kLayer
  void* y;             // [rows, groups, channels]
  int64_t y_stride;
  int channels;
  int groups;  // each with a norm of its own
  float eps;
};

// cos and sin of positions * inv_freq, times `factor`
struct AnglesArgs {
  DType dtype;
  const int64_t* positions;  // [rows]
  const float* inv_freq;     // [half]
  float factor;
  int half;
  void *cos, *sin;  // [rows, half]
};

// y = rotate(x) for heads of `head_dim` numbers, of which the first 2 * half are rotated in pairs (i, i + half)
struct RotaryArgs {
  DType dtype;
  const void* x;  // [rows, num_heads, head_dim]
  int64_t x_stride;
  const void *cos, *sin;  // [rows, half]
  int64_t angle_stride;
  void* y;  // [rows, num_heads, head_dim]
  int64_t y_stride;
  int num_heads, head_dim, half;
};

// y = act(x), or act(first half of x) * second half
struct ActivationArgs {
  Activation kind;
  DType dtype;
  const void* x;  // [rows, channels or 2 * channels]
  int64_t x_stride;
  void* y;  // [rows, channels]
  int64_t y_stride;
  int channels;
  bool gated;
};

// z = x * factor + y
struct CombineArgs {
  DType dtype;
  const void* x;  // [rows, channels]
  int64_t x_stride;
  const void* y;  // the same, or null
  int64_t y_stride;
  float factor;
  void* z;  // [rows, channels], rows next to each other
  int channels;
};

// y[t] = table[ids[t]]
struct GatherArgs {
  size_t row_bytes;
  const uint8_t* table;
  int64_t num_rows;
  const int64_t* ids;  // [rows]
  uint8_t* y;          // [rows, row_bytes]
};

// y[t] = w[ids[t]], in w's dtype
struct PackedGatherArgs {
  const PackedMatrix* w;
  const int64_t* ids;  // [rows]
  uint8_t* y;          // [rows, k]
};

// y[t] = w[ids[t]] as numbers
struct QuantGatherArgs {
  const QuantMatrix* w;
  const int64_t* ids;  // [rows]
  DType y_dtype;
  void* y;  // [rows, k]
};

// y[t] = the lowest index of the largest of x[t]; a NaN is never the largest
struct ArgmaxArgs {
  const float* x;  // [rows, channels]
  int64_t x_stride;
  int channels;
  int64_t* y;  // [rows]
};

// One layer's part of the KV cache: [block][kv head] of pages; a page holds, in pieces of 16 tokens, all keys, then all
// values. bf16: keys [head_dim / 2][16][2], values [8][head_dim][2]. float: keys [head_dim][16], values [16][head_dim].
// int8: as bf16, with float [block_size] scales behind the keys and behind the values, one for each token.
struct CacheArgs {
  DType dtype;
  void* cache;
  int num_kv_heads, head_dim, block_size;
};

struct CacheWriteArgs {
  CacheArgs cache;
  DType dtype;        // of k and v: float or bf16
  const void *k, *v;  // [rows, num_kv_heads, head_dim]
  int64_t k_stride, v_stride;
  const int64_t* slots;  // [rows], block * block_size + offset
};

struct AttentionArgs {
  CacheArgs cache;
  DType dtype;    // of q and y: float or bf16
  const void* q;  // [rows, num_heads, head_dim]
  int64_t q_stride;
  void* y;  // [rows, num_heads, head_dim]
  int64_t y_stride;
  int num_heads;
  float scale;
  float soft_cap;       // 0: none
  int sliding_window;   // tokens that a query sees, itself included; 0: all
  bool causal;
  int num_requests;
  const int32_t* query_start;  // [num_requests + 1]
  const int32_t* seq_lens;     // [num_requests]
  const int32_t* block_table;  // [num_requests, table_stride]
  int64_t table_stride;
  float* partials;  // room for `num_partials` floats: results of segments that several members compute
  int64_t num_partials;
};

// A loop from registers; null where the instruction set has no instruction for it.
struct ProbeLoop {
  int64_t operations;  // of a round
  int32_t (*run)(int64_t rounds);
};

// What a member of a team runs to measure the machine.
struct ProbeLoops {
  int32_t (*read)(const uint8_t* data, size_t bytes);  // two streams, one for each half; bytes is a multiple of 128
  ProbeLoop float32, bfloat16, int8;
};

// One token of each row: drawn from softmax(x / temperature) after min_p, top_k and top_p, or the most likely.
struct DrawArgs {
  const float* x;  // [rows, channels]
  int64_t x_stride;
  int channels;
  const float* temperature;  // [rows], as the next ones; 0: the most likely
  const float* min_p;        // 0: off
  const int64_t* top_k;      // 0: off
  const double* top_p;       // 1: off
  const double* uniforms;    // of [0, 1)
  int64_t* y;
};

// Changes x[rows[p]] by the tokens of the history in token_ids[slots[p]], for the p-th of the rows that have penalties.
struct PenaltyArgs {
  float* x;  // [.., channels]
  int64_t x_stride;
  int channels;
  const int64_t *rows, *slots;
  const int32_t* token_ids;  // each in [0, channels)
  int64_t token_stride;
  const int64_t *num_tokens, *num_prompt_tokens;
  const float *repetition, *frequency, *presence;
};

// Sets x[rows[m]][i] to -inf where bit i % 32 of the m-th row's word i / 32 is 0.
struct BitmaskArgs {
  float* x;  // [.., channels]
  int64_t x_stride;
  int channels;
  const int64_t* rows;  // each once
  const uint32_t* words;
  int64_t words_stride;
};

// Log probabilities of each row's entries, and the rank of the first of them.
struct LogprobArgs {
  const float* x;  // [rows, channels]
  int64_t x_stride;
  int channels;
  const int64_t* num_top;  // [rows]: so many entries from the second on become the most likely; -1: nothing of this row
  int64_t* entries;        // [rows, width], each in [0, channels)
  int width;
  float* y;        // [rows, width]
  int64_t* ranks;  // [rows]
};

struct Kernels {
  const char* name;
  void (*linear)(const LinearArgs&, int rows, int tid, Pool&);
  void (*quant_linear)(const QuantLinearArgs&, int rows, int tid, Pool&);
  void (*norm)(const NormArgs&, int rows, int tid, Pool&);
  void (*angles)(const AnglesArgs&, int rows, int tid, Pool&);
  void (*rotary)(const RotaryArgs&, int rows, int tid, Pool&);
  void (*activation)(const ActivationArgs&, int rows, int tid, Pool&);
  void (*combine)(const CombineArgs&, int rows, int tid, Pool&);
  void (*gather)(const GatherArgs&, int rows, int tid, Pool&);
  void (*gather_packed)(const PackedGatherArgs&, int rows, int tid, Pool&);
  void (*gather_quant)(const QuantGatherArgs&, int rows, int tid, Pool&);
  void (*argmax)(const ArgmaxArgs&, int rows, int tid, Pool&);
  void (*cache_write)(const CacheWriteArgs&, int rows, int tid, Pool&);
  void (*attention)(const AttentionArgs&, int tid, Pool&);
  void (*draw)(const DrawArgs&, int rows, int tid, Pool&);
  void (*penalize)(const PenaltyArgs&, int rows, int tid, Pool&);
  void (*logprobs)(const LogprobArgs&, int rows, int tid, Pool&);
  void (*bitmask)(const BitmaskArgs&, int rows, int tid, Pool&);
  ProbeLoops probe;
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace octavo

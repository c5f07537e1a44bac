// The Python module octavo._cpu. Tensors come as addresses with shapes and strides, checked by octavo/kernels/cpu.py;
// nothing here knows torch.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>

#include "dispatch.h"
#include "pack.h"
#include "pack_quant.h"
#include "team.h"

namespace nb = nanobind;
using namespace octavo;
using Address = uintptr_t;

namespace {

template <class T = void>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

std::unique_ptr<Team> make_team(int num_threads, const std::string& isa) {
  if (num_threads < 1) throw std::invalid_argument("num_threads must be 1 or more");
  for (const Kernels* kernels : usable_kernels())
    if (isa.empty() || isa == kernels->name) return std::make_unique<Team>(num_threads, kernels);
  throw std::invalid_argument("this machine has no " + isa);
}

CacheArgs cache_args(int dtype, Address cache, int num_kv_heads, int head_dim, int block_size) {
  if (head_dim % 16 || block_size % 16) throw std::invalid_argument("head_dim and block_size must be multiples of 16");
  if (dtype < 0 || dtype > 2) throw std::invalid_argument("dtype of a cache must be 0 (float32), 1 (bfloat16) or 2 (int8)");
  return {DType(dtype), at(cache), num_kv_heads, head_dim, block_size};
}

DType dtype_of(int number) {
  if (number != 0 && number != 1) throw std::invalid_argument("dtype must be 0 (float32) or 1 (bfloat16)");
  return DType(number);
}

LinearOutput output_args(int n, Address bias, int y_dtype, Address y, int64_t y_stride, bool accumulate, int gate, int gated) {
  constexpr int kPanel = PackedMatrix::kPanel;
  if (gated < 0 || (gated && (gated + kPanel - 1) / kPanel * kPanel + gated != n))
    throw std::invalid_argument("the halves of a gated matrix do not begin at panels");
  if (gate < 0 || gate > int(Activation::kNone)) throw std::invalid_argument("there is no such activation");
  if (y_stride < (gated ? gated : n)) throw std::invalid_argument("a stride is less than a row has");
  LinearOutput out{n, at<const float>(bias), at(y), y_stride, dtype_of(y_dtype)};
  out.accumulate = accumulate;
  out.gate = Activation(gate);
  out.gated = gated;
  return out;
}

int some(int channels) {
  if (channels < 1) throw std::invalid_argument("a row needs numbers");
  return channels;
}

void check_rows(const QuantMatrix& w, int first, int count) {
  if (first < 0 || count < 0 || count > w.n - first) throw std::invalid_argument("no such rows");
}

}  // namespace

NB_MODULE(_cpu, m) {
  nb::set_leak_warnings(false);  // at the end of a process: modules may hold teams until then
  m.def("usable_isas", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : usable_kernels()) names.push_back(kernels->name);
    return names;
  });

  nb::class_<Packed>(m, "Packed")
      .def("__init__",
           [](Packed* self, int dtype, int n, int k) {
             if (n < 1 || k < 1) throw std::invalid_argument("a matrix needs rows and columns");
             new (self) Packed(DType(dtype), n, k);
           })
      .def("fill",
           [](Packed& self, Address source, int64_t stride, int first, int count) {
             if (first < 0 || count < 0 || first + count > self.matrix().n) throw std::invalid_argument("no such rows");
             self.fill(at(source), stride, first, count);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("nbytes", &Packed::bytes)
      .def_prop_ro("n", [](const Packed& self) { return self.matrix().n; })
      .def_prop_ro("k", [](const Packed& self) { return self.matrix().k; })
      .def_prop_ro("dtype", [](const Packed& self) { return int(self.matrix().dtype); });

  // A matrix of small integers with scales, for `quant_linear`.
  nb::class_<QuantPacked>(m, "QuantPacked")
      // type: "int8" or the name of a GGUF type. ValueError for another type, or a k that is no multiple of its block.
      .def(nb::init<const std::string&, int, int>())
      // Rows [first, first + count) from blocks of a GGUF file, rows row_bytes apart. Not for int8.
      .def("fill_blocks",
           [](QuantPacked& self, Address source, size_t row_bytes, int first, int count) {
             check_rows(self.matrix(), first, count);
             if (!self.source_row_bytes()) throw std::invalid_argument("an int8 matrix is filled from floats");
             if (row_bytes < self.source_row_bytes()) throw std::invalid_argument("row_bytes is less than a row has");
             self.fill_blocks(at<const uint8_t>(source), row_bytes, first, count);
           },
           nb::call_guard<nb::gil_scoped_release>())
      // Rows [first, first + count) of an int8 matrix from finite numbers, rows `stride` elements apart.
      .def("fill_floats",
           [](QuantPacked& self, int dtype, Address source, int64_t stride, int first, int count) {
             check_rows(self.matrix(), first, count);
             if (self.source_row_bytes()) throw std::invalid_argument("only an int8 matrix is filled from floats");
             if (stride < self.matrix().k) throw std::invalid_argument("stride is less than a row has");
             self.fill_floats(dtype_of(dtype), at(source), stride, first, count);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def_prop_ro("nbytes", &QuantPacked::bytes)
      .def_prop_ro("row_bytes", &QuantPacked::source_row_bytes)  // of a row in the file; 0 for int8
      .def_prop_ro("n", [](const QuantPacked& self) { return self.matrix().n; })
      .def_prop_ro("k", [](const QuantPacked& self) { return self.matrix().k; })
      .def_prop_ro("type", &QuantPacked::type);

  nb::class_<Recording>(m, "Recording").def_prop_ro("num_calls", [](const Recording& self) { return self.calls.size(); });

  nb::class_<Probe>(m, "Probe")
      .def_ro("barrier_seconds", &Probe::barrier_seconds)
      .def_ro("read_bytes", &Probe::read_bytes)
      .def_ro("float32", &Probe::float32)
      .def_ro("bfloat16", &Probe::bfloat16)
      .def_ro("int8", &Probe::int8);

  nb::class_<Team>(m, "Team")
      .def(nb::new_(&make_team))
      .def_prop_ro("isa", [](const Team& self) { return std::string(self.kernels().name); })
      .def_prop_ro("num_threads", &Team::size)
      .def("probe", &Team::probe, nb::call_guard<nb::gil_scoped_release>())
      .def("start_recording",
           [](Team& self, int rows) {
             if (rows < 1) throw std::invalid_argument("a recording needs rows");
             self.start_recording(rows);
           })
      .def("finish_recording", &Team::finish_recording)
      .def("replay",
           [](Team& self, const Recording& recording, int rows, int num_requests) {
             if (rows < 0 || rows > recording.rows) throw std::invalid_argument("a replay has at most the recording's rows");
             self.replay(recording, {rows, num_requests, nullptr});
           },
           nb::call_guard<nb::gil_scoped_release>())
      // y = x @ w^T + bias, added to y where it accumulates; bias is float [n] or 0. With a gate, a matrix of two halves:
      // y [rows, gated] = gate(first half) * second half, which begins at a multiple of 48 rows.
      .def("linear",
           [](Team& self, const Packed& w, Address x, int64_t x_stride, Address bias, int y_dtype, Address y, int64_t y_stride,
              bool accumulate, int gate, int gated, int rows) {
             const PackedMatrix& matrix = w.matrix();
             const LinearOutput out = output_args(matrix.n, bias, y_dtype, y, y_stride, accumulate, gate, gated);
             self.run(self.kernels().linear, LinearArgs{&matrix, at(x), x_stride, out}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      // The same; x and y are float or bf16 each.
      .def("quant_linear",
           [](Team& self, const QuantPacked& w, int x_dtype, Address x, int64_t x_stride, Address bias, int y_dtype, Address y,
              int64_t y_stride, bool accumulate, int gate, int gated, int rows) {
             const QuantMatrix& matrix = w.matrix();
             if (rows < 0) throw std::invalid_argument("rows must be 0 or more");
             if (x_stride < matrix.k) throw std::invalid_argument("a stride is less than a row has");
             const LinearOutput out = output_args(matrix.n, bias, y_dtype, y, y_stride, accumulate, gate, gated);
             self.run(QuantLinearArgs{&matrix, dtype_of(x_dtype), at(x), x_stride, out, nullptr}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("norm",
           [](Team& self, int kind, int dtype, Address x, int64_t x_stride, Address weight, Address bias, Address y, int64_t y_stride, int channels, int groups, float eps,
              int rows) {
             self.run(self.kernels().norm,
                      NormArgs{Norm(kind), DType(dtype), at(x), x_stride, at(weight), at(bias),
                               at(y), y_stride, channels, groups, eps},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("rotary_angles",
           [](Team& self, int dtype, Address positions, Address inv_freq, float factor, int half, Address cos, Address sin,
              int rows) {
             self.run(self.kernels().angles,
                      AnglesArgs{DType(dtype), at<const int64_t>(positions), at<const float>(inv_freq), factor, half, at(cos),
                                 at(sin)},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("combine",
           [](Team& self, int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, float factor, Address z,
              int channels, int rows) {
             self.run(self.kernels().combine,
                      CombineArgs{DType(dtype), at(x), x_stride, at(y), y_stride, factor, at(z), channels}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("rotary",
           [](Team& self, int dtype, Address x, int64_t x_stride, Address cos, Address sin, int64_t angle_stride, Address y,
              int64_t y_stride, int num_heads, int head_dim, int half, int rows) {
             self.run(self.kernels().rotary,
                      RotaryArgs{DType(dtype), at(x), x_stride, at(cos), at(sin), angle_stride, at(y), y_stride, num_heads,
                                 head_dim, half},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("activation",
           [](Team& self, int kind, int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, int channels, bool gated,
              int rows) {
             self.run(self.kernels().activation,
                      ActivationArgs{Activation(kind), DType(dtype), at(x), x_stride, at(y), y_stride, channels, gated}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("gather",
           [](Team& self, size_t row_bytes, Address table, int64_t num_rows, Address ids, Address y, int rows) {
             self.run(self.kernels().gather,
                      GatherArgs{row_bytes, at<const uint8_t>(table), num_rows, at<const int64_t>(ids), at<uint8_t>(y)}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      // Rows of packed matrices: ids are int64, each below n.
      .def("gather_packed",
           [](Team& self, const Packed& w, Address ids, Address y, int rows) {
             self.run(self.kernels().gather_packed, PackedGatherArgs{&w.matrix(), at<const int64_t>(ids), at<uint8_t>(y)}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("gather_quant",
           [](Team& self, const QuantPacked& w, Address ids, int y_dtype, Address y, int rows) {
             self.run(self.kernels().gather_quant,
                      QuantGatherArgs{&w.matrix(), at<const int64_t>(ids), dtype_of(y_dtype), at(y)}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("argmax",
           [](Team& self, Address x, int64_t x_stride, int channels, Address y, int rows) {
             self.run(self.kernels().argmax, ArgmaxArgs{at<const float>(x), x_stride, channels, at<int64_t>(y)}, rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("cache_write",
           [](Team& self, int cache_dtype, Address cache, int num_kv_heads, int head_dim, int block_size, int dtype, Address k,
              int64_t k_stride, Address v, int64_t v_stride, Address slots, int rows) {
             self.run(self.kernels().cache_write,
                      CacheWriteArgs{cache_args(cache_dtype, cache, num_kv_heads, head_dim, block_size), dtype_of(dtype), at(k),
                                     at(v), k_stride, v_stride, at<const int64_t>(slots)},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("attention",
           [](Team& self, int cache_dtype, Address cache, int num_kv_heads, int head_dim, int block_size, int dtype, Address q,
              int64_t q_stride, Address y, int64_t y_stride, int num_heads, float scale, float soft_cap, int sliding_window, bool causal,
              int num_requests, Address query_start, Address seq_lens, Address block_table, int64_t table_stride,
              Address partials, int64_t num_partials) {
             self.run(AttentionArgs{cache_args(cache_dtype, cache, num_kv_heads, head_dim, block_size), dtype_of(dtype), at(q),
                                    q_stride, at(y), y_stride, num_heads, scale, soft_cap, sliding_window, causal, num_requests,
                                    at<const int32_t>(query_start), at<const int32_t>(seq_lens),
                                    at<const int32_t>(block_table), table_stride, at<float>(partials), num_partials});
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("draw",
           [](Team& self, Address x, int64_t x_stride, int channels, Address temperature, Address min_p, Address top_k,
              Address top_p, Address uniforms, Address y, int rows) {
             self.run(self.kernels().draw,
                      DrawArgs{at<const float>(x), x_stride, some(channels), at<const float>(temperature),
                               at<const float>(min_p), at<const int64_t>(top_k), at<const double>(top_p),
                               at<const double>(uniforms), at<int64_t>(y)},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("penalize",
           [](Team& self, Address x, int64_t x_stride, int channels, Address rows_of_x, Address slots, Address token_ids,
              int64_t token_stride, Address num_tokens, Address num_prompt_tokens, Address repetition, Address frequency,
              Address presence, int rows) {
             self.run(self.kernels().penalize,
                      PenaltyArgs{at<float>(x), x_stride, some(channels), at<const int64_t>(rows_of_x),
                                  at<const int64_t>(slots), at<const int32_t>(token_ids), token_stride,
                                  at<const int64_t>(num_tokens), at<const int64_t>(num_prompt_tokens),
                                  at<const float>(repetition), at<const float>(frequency), at<const float>(presence)},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("logprobs",
           [](Team& self, Address x, int64_t x_stride, int channels, Address num_top, Address entries, int width, Address y,
              Address ranks, int rows) {
             self.run(self.kernels().logprobs,
                      LogprobArgs{at<const float>(x), x_stride, some(channels), at<const int64_t>(num_top),
                                  at<int64_t>(entries), some(width), at<float>(y), at<int64_t>(ranks)},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>())
      .def("bitmask",
           [](Team& self, Address x, int64_t x_stride, int channels, Address rows_of_x, Address words, int64_t words_stride,
              int rows) {
             self.run(self.kernels().bitmask,
                      BitmaskArgs{at<float>(x), x_stride, some(channels), at<const int64_t>(rows_of_x),
                                  at<const uint32_t>(words), words_stride},
                      rows);
           },
           nb::call_guard<nb::gil_scoped_release>());
}

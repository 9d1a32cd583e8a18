#ifndef NSA_TESTS_GPU_BENCH_WORLD_H_
#define NSA_TESTS_GPU_BENCH_WORLD_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "tests/gpu/bench_device.h"

namespace nsa::gpu {

/// What is measured: the paper's attention (algorithm.md §1) by default.
struct BenchShape {
  int num_q_heads = 64;
  int num_kv_heads = 4;
  int head_dim = 128;  // of keys and values
  int length = 32;     // l
  int stride = 16;     // d
  int sel_block_size = 64;
  int num_selected_blocks = 16;  // n
  int64_t window_size = 512;
  // What PyTorch's flash attention does with queries and weights of bf16.
  kernels::AttentionPrecision precision = kernels::AttentionPrecision::kSixteenBits;
};

/// `num_layers` paged caches of bf16 with random contents for `batch` sequences of `context` tokens
/// each, and random query rows, all in device memory. Pages are scattered over a pool, as a busy
/// server leaves them.
class BenchWorld {
 public:
  using Stream = kernels::cuda::Stream;

  /// `num_rows` query rows: one of each sequence, at its last token; or, of one sequence alone, a
  /// chunk of a prefill, at the place that SetChunk says.
  BenchWorld(const BenchShape& shape, int64_t context, int batch, int num_layers, int64_t num_rows);

  /// The chunk's first position.
  void SetChunk(int64_t position);

  /// Bytes of device memory that such a world takes, about.
  static int64_t NumBytes(const BenchShape& shape, int64_t context, int batch, int num_layers,
                          int64_t num_rows);

  void RopeKvWrite(Stream& stream, int layer) const;
  void CmpPool(Stream& stream, int layer) const;
  void CmpAttn(Stream& stream, int layer) const;
  void ScoreTopk(Stream& stream, int layer) const;
  void SelAttn(Stream& stream, int layer) const;
  void WinAttn(Stream& stream, int layer) const;
  void Merge(Stream& stream, int layer) const;
  void FullAttn(Stream& stream, int layer) const;

  /// The whole NSA layer, from new keys and values to its output.
  void SparseLayer(Stream& stream, int layer) const;

  /// A name and what it calls, in the layer's order; full_attn last.
  struct Operator {
    std::string name;
    void (BenchWorld::*call)(Stream&, int) const;
    int64_t num_bytes;  // of the cache that a call reads and writes, of a decode step
  };
  std::vector<Operator> Operators() const;

  int num_layers() const { return num_layers_; }
  /// Whether every element of the last layer's output is finite.
  bool OutputIsFinite() const;

 private:
  kernels::AttentionQuery Query(int layer) const;
  kernels::PagedKv Cache(int layer) const;
  kernels::CmpScores Scores() const;
  kernels::BranchOutput Branch(int index) const;
  void FillCompressed();
  void MakeTables();

  BenchShape shape_;
  int64_t context_;
  int batch_;
  int num_layers_;
  int64_t num_rows_;
  int64_t num_pages_;  // of a sequence
  kernels::cuda::SegmentsShape segments_shape_;
  std::vector<kernels::AttentionSegment> host_segments_;
  DeviceArray<int32_t> page_table_;  // [batch, num_pages]
  DeviceArray<kernels::AttentionSegment> segments_;
  DeviceArray<float> fine_, coarse_;  // cosines, then sines
  DeviceArray<kernels::cuda::Bf16> slots_, cmp_slots_;
  DeviceArray<float> q_, k_, v_, gates_, scores_;
  DeviceArray<float> out_, lse_, y_;  // out_, lse_ of three branches
  DeviceArray<int32_t> selected_, num_selected_;
  DeviceArray<float> workspace_;
};

}  // namespace nsa::gpu

#endif  // NSA_TESTS_GPU_BENCH_WORLD_H_

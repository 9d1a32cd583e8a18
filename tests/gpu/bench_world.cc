#include "tests/gpu/bench_world.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace nsa::gpu {
namespace {

using kernels::kPageSize;
using kernels::cuda::CeilDiv;

constexpr int kNumBranches = 3;
constexpr int64_t kElementBytes = 2;
// A decode step's scores stay for score_topk; those of a prefill's chunk would take too much.
constexpr int64_t kMaxScoreRows = 64;
constexpr int64_t kWorkspaceFloats = int64_t{1} << 26;

int64_t CmpRowsPerPage(const BenchShape& shape) { return kPageSize / shape.stride; }
int64_t PageElements(const BenchShape& shape) {
  return int64_t{shape.num_kv_heads} * 2 * shape.head_dim * kPageSize;
}
int64_t CmpPageElements(const BenchShape& shape) {
  return int64_t{shape.num_kv_heads} * 2 * shape.head_dim * CmpRowsPerPage(shape);
}
int64_t ScoreFloats(const BenchShape& shape, int64_t num_pages, int64_t num_rows) {
  if (num_rows > kMaxScoreRows) return 0;
  return num_rows * shape.num_q_heads * kernels::CmpScoreStride(num_pages, shape.stride);
}
int64_t RowFloats(const BenchShape& shape) {
  const int64_t heads = shape.num_q_heads;
  const int64_t kv = 2 * shape.num_kv_heads * shape.head_dim;
  return heads * shape.head_dim * (2 + kNumBranches) + heads * 2 * kNumBranches + kv;
}

}  // namespace

BenchWorld::BenchWorld(const BenchShape& shape, int64_t context, int batch, int num_layers,
                       int64_t num_rows)
    : shape_(shape),
      context_(context),
      batch_(batch),
      num_layers_(num_layers),
      num_rows_(num_rows),
      num_pages_(CeilDiv(context, kPageSize)),
      page_table_(batch * num_pages_),
      segments_(batch),
      fine_(2 * kPageSize * shape.head_dim / 2),
      coarse_(2 * (num_pages_ + 1) * shape.head_dim / 2),
      slots_(num_layers * batch * num_pages_ * PageElements(shape)),
      cmp_slots_(num_layers * batch * num_pages_ * CmpPageElements(shape)),
      q_(num_rows * shape.num_q_heads * shape.head_dim),
      k_(num_rows * shape.num_kv_heads * shape.head_dim),
      v_(num_rows * shape.num_kv_heads * shape.head_dim),
      gates_(num_rows * shape.num_q_heads * kNumBranches),
      scores_(ScoreFloats(shape, num_pages_, num_rows)),
      out_(kNumBranches * num_rows * shape.num_q_heads * shape.head_dim),
      lse_(kNumBranches * num_rows * shape.num_q_heads),
      y_(num_rows * shape.num_q_heads * shape.head_dim),
      selected_(num_rows * shape.num_kv_heads * shape.num_selected_blocks),
      num_selected_(num_rows * shape.num_kv_heads),
      workspace_(kWorkspaceFloats) {
  MakeTables();
  uint32_t seed = 1;
  FillRandom(slots_, seed++);
  FillRandom(cmp_slots_, seed++);
  for (const DeviceArray<float>* array : {&q_, &k_, &v_, &gates_}) FillRandom(*array, seed++);
  if (num_rows == batch) {
    for (int b = 0; b < batch; ++b) {
      host_segments_.push_back({page_table_.data() + b * num_pages_, context - 1, b, 1});
    }
    CopyToDevice(segments_.data(), host_segments_.data(),
                 batch * static_cast<int64_t>(sizeof(host_segments_[0])));
    segments_shape_ = kernels::cuda::ShapeOf(host_segments_.data(), batch);
    FillCompressed();
  } else {
    SetChunk(0);
  }
}

void BenchWorld::SetChunk(int64_t position) {
  host_segments_ = {{page_table_.data(), position, 0, static_cast<int32_t>(num_rows_)}};
  CopyToDevice(segments_.data(), host_segments_.data(), sizeof(host_segments_[0]));
  segments_shape_ = kernels::cuda::ShapeOf(host_segments_.data(), 1);
}

int64_t BenchWorld::NumBytes(const BenchShape& shape, int64_t context, int batch, int num_layers,
                             int64_t num_rows) {
  const int64_t pages = CeilDiv(context, kPageSize);
  const int64_t cache = num_layers * batch * pages * (PageElements(shape) + CmpPageElements(shape));
  const int64_t floats =
      num_rows * RowFloats(shape) + ScoreFloats(shape, pages, num_rows) + kWorkspaceFloats;
  return cache * kElementBytes + floats * static_cast<int64_t>(sizeof(float));
}

void BenchWorld::MakeTables() {
  std::vector<int32_t> table(static_cast<size_t>(batch_ * num_pages_));
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(1));
  CopyToDevice(page_table_.data(), table.data(), page_table_.size() * 4);
  const int half = shape_.head_dim / 2;
  const auto fill = [&](const DeviceArray<float>& target, int64_t num_angles, int64_t unit) {
    std::vector<float> values(static_cast<size_t>(2 * num_angles * half));
    for (int64_t row = 0; row < num_angles; ++row) {
      for (int i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(row * unit) * std::pow(10000.0, -2.0 * i / shape_.head_dim);
        values[static_cast<size_t>(row * half + i)] = static_cast<float>(std::cos(angle));
        values[static_cast<size_t>((num_angles + row) * half + i)] =
            static_cast<float>(std::sin(angle));
      }
    }
    CopyToDevice(target.data(), values.data(), target.size() * 4);
  };
  fill(fine_, kPageSize, 1);
  fill(coarse_, num_pages_ + 1, kPageSize);
}

/// Compressed rows are made of the cache's keys and values, so that scores are what they would be.
void BenchWorld::FillCompressed() {
  std::vector<kernels::AttentionSegment> all;
  for (int b = 0; b < batch_; ++b) {
    const auto row_begin = static_cast<int32_t>(b * context_);
    all.push_back(
        {page_table_.data() + b * num_pages_, 0, row_begin, static_cast<int32_t>(context_)});
  }
  const DeviceArray<kernels::AttentionSegment> segments(all);
  Stream stream;
  for (int layer = 0; layer < num_layers_; ++layer) {
    const kernels::AttentionQuery query = Query(layer);
    kernels::cuda::CmpPool(stream,
                           {segments.data(), batch_, query.kv, query.rope, shape_.length,
                            shape_.stride, kernels::PooledKeys::kRotated},
                           kernels::cuda::ShapeOf(all.data(), batch_));
  }
  Synchronize();
}

kernels::PagedKv BenchWorld::Cache(int layer) const {
  const int64_t pool = batch_ * num_pages_;
  const int64_t dim = shape_.head_dim, rows = CmpRowsPerPage(shape_);
  kernels::PagedKv kv;
  kv.dtype = kv.cmp_dtype = kernels::DType::kBF16;
  kv.num_kv_heads = shape_.num_kv_heads;
  kv.head_dim_k = kv.head_dim_v = shape_.head_dim;
  kv.slots = reinterpret_cast<std::byte*>(slots_.data() + layer * pool * PageElements(shape_));
  kv.v_offset = dim * kPageSize * kElementBytes;
  kv.head_stride = 2 * kv.v_offset;
  kv.page_stride = shape_.num_kv_heads * kv.head_stride;
  kv.cmp_slots =
      reinterpret_cast<std::byte*>(cmp_slots_.data() + layer * pool * CmpPageElements(shape_));
  kv.cmp_absolute = true;
  kv.cmp_v_offset = dim * rows * kElementBytes;
  kv.cmp_head_stride = 2 * kv.cmp_v_offset;
  kv.cmp_page_stride = shape_.num_kv_heads * kv.cmp_head_stride;
  return kv;
}

kernels::AttentionQuery BenchWorld::Query(int layer) const {
  kernels::AttentionQuery query;
  query.q = q_.data();
  query.q_stride = int64_t{shape_.num_q_heads} * shape_.head_dim;
  query.num_q_heads = shape_.num_q_heads;
  query.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
  query.segments = segments_.data();
  query.num_segments = static_cast<int>(host_segments_.size());
  query.kv = Cache(layer);
  query.rope = {.fine_cos = fine_.data(),
                .fine_sin = fine_.data() + fine_.size() / 2,
                .coarse_cos = coarse_.data(),
                .coarse_sin = coarse_.data() + coarse_.size() / 2,
                .num_coarse = num_pages_ + 1,
                .rotary_dim = shape_.head_dim};
  query.precision = shape_.precision;
  return query;
}

kernels::BranchOutput BenchWorld::Branch(int index) const {
  const int64_t heads = num_rows_ * shape_.num_q_heads;
  return {out_.data() + index * heads * shape_.head_dim, lse_.data() + index * heads};
}

kernels::CmpScores BenchWorld::Scores() const {
  if (scores_.size() == 0) return {};
  return {scores_.data(), kernels::CmpScoreStride(num_pages_, shape_.stride)};
}

void BenchWorld::RopeKvWrite(Stream& stream, int layer) const {
  const kernels::AttentionQuery query = Query(layer);
  const int64_t row = int64_t{shape_.num_kv_heads} * shape_.head_dim;
  kernels::cuda::RopeKvWrite(
      stream,
      {k_.data(), row, v_.data(), row, query.segments, query.num_segments, query.kv, query.rope},
      segments_shape_);
}

void BenchWorld::CmpPool(Stream& stream, int layer) const {
  const kernels::AttentionQuery query = Query(layer);
  kernels::cuda::CmpPool(stream,
                         {query.segments, query.num_segments, query.kv, query.rope, shape_.length,
                          shape_.stride, kernels::PooledKeys::kRotated},
                         segments_shape_);
}

void BenchWorld::CmpAttn(Stream& stream, int layer) const {
  kernels::CmpAttnParams params;
  params.query = Query(layer);
  params.length = shape_.length;
  params.stride = shape_.stride;
  params.result = Branch(0);
  params.scores = Scores();
  kernels::cuda::CmpAttn(stream, params, segments_shape_, {workspace_.data(), workspace_.size()});
}

void BenchWorld::ScoreTopk(Stream& stream, int layer) const {
  kernels::ScoreTopkParams params;
  params.query = Query(layer);
  params.length = shape_.length;
  params.stride = shape_.stride;
  params.sel_block_size = shape_.sel_block_size;
  params.cmp_lse = Branch(0).lse;
  params.cmp_scores = Scores();
  params.num_selected_blocks = shape_.num_selected_blocks;
  params.selected = selected_.data();
  params.num_selected = num_selected_.data();
  kernels::cuda::ScoreTopk(stream, params, segments_shape_, {workspace_.data(), workspace_.size()});
}

void BenchWorld::SelAttn(Stream& stream, int layer) const {
  kernels::SelAttnParams params;
  params.query = Query(layer);
  params.sel_block_size = shape_.sel_block_size;
  params.num_selected_blocks = shape_.num_selected_blocks;
  params.selected = selected_.data();
  params.num_selected = num_selected_.data();
  params.result = Branch(1);
  kernels::cuda::SelAttn(stream, params, segments_shape_, {workspace_.data(), workspace_.size()});
}

void BenchWorld::WinAttn(Stream& stream, int layer) const {
  kernels::cuda::WinAttn(stream, {Query(layer), shape_.window_size, false, Branch(2)},
                         segments_shape_, {workspace_.data(), workspace_.size()});
}

void BenchWorld::Merge(Stream& stream, int) const {
  kernels::MergeParams params;
  for (int c = 0; c < kNumBranches; ++c) params.branches[c] = Branch(c);
  params.num_branches = kNumBranches;
  params.gate_logits = gates_.data();
  params.gate_stride = int64_t{shape_.num_q_heads} * kNumBranches;
  params.num_rows = num_rows_;
  params.num_q_heads = shape_.num_q_heads;
  params.head_dim_v = shape_.head_dim;
  params.y = y_.data();
  params.y_stride = int64_t{shape_.num_q_heads} * shape_.head_dim;
  kernels::cuda::Merge(stream, params);
}

void BenchWorld::FullAttn(Stream& stream, int layer) const {
  kernels::cuda::FullAttn(stream, {Query(layer), {y_.data(), lse_.data()}}, segments_shape_,
                          {workspace_.data(), workspace_.size()});
}

void BenchWorld::SparseLayer(Stream& stream, int layer) const {
  for (const Operator& op : Operators()) {
    if (op.name != "full_attn") (this->*op.call)(stream, layer);
  }
}

std::vector<BenchWorld::Operator> BenchWorld::Operators() const {
  const int64_t row = int64_t{batch_} * shape_.num_kv_heads * 2 * shape_.head_dim * kElementBytes;
  const int64_t windows = kernels::NumVisibleWindows(context_ - 1, shape_.length, shape_.stride);
  const int64_t chosen = int64_t{shape_.num_selected_blocks} * shape_.sel_block_size;
  return {{"rope_kv_write", &BenchWorld::RopeKvWrite, row},
          {"cmp_pool", &BenchWorld::CmpPool, row * (shape_.length + 1)},
          {"cmp_attn", &BenchWorld::CmpAttn, row * windows},
          {"score_topk", &BenchWorld::ScoreTopk, scores_.size() * 4},
          {"sel_attn", &BenchWorld::SelAttn, row * std::min(chosen, context_)},
          {"win_attn", &BenchWorld::WinAttn, row * std::min(shape_.window_size, context_)},
          {"merge", &BenchWorld::Merge, (out_.size() + y_.size()) * 4},
          {"full_attn", &BenchWorld::FullAttn, row * context_}};
}

bool BenchWorld::OutputIsFinite() const {
  const std::vector<float> y = y_.Download();
  return std::all_of(y.begin(), y.end(), [](float x) { return std::isfinite(x); });
}

}  // namespace nsa::gpu

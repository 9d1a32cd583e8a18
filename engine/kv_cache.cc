#include "engine/kv_cache.h"

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace nsa::engine {
namespace {

/// Of a page's compressed keys.
int64_t CmpKeyBytes(const KvLayout& layout) {
  if (layout.cmp_dtype == kernels::DType::kInt8) {
    return kernels::CmpInt8KeyBytes(layout.head_dim_k, layout.cmp_rows_per_page);
  }
  return int64_t{layout.head_dim_k} * layout.cmp_rows_per_page *
         static_cast<int64_t>(kernels::SizeOf(layout.cmp_dtype));
}

/// Of a float32 for each compressed row.
int64_t CmpRowFloatBytes(const KvLayout& layout) {
  return layout.cmp_rows_per_page * static_cast<int64_t>(sizeof(float));
}

int64_t CmpHeadBytes(const KvLayout& layout) {
  int64_t bytes = CmpKeyBytes(layout);
  if (layout.compressed_values) {
    bytes += int64_t{layout.head_dim_v} * layout.cmp_rows_per_page *
             static_cast<int64_t>(kernels::SizeOf(layout.cmp_dtype));
  }
  if (layout.cmp_dtype == kernels::DType::kInt8) bytes += CmpRowFloatBytes(layout);
  if (layout.cmp_biases) bytes += CmpRowFloatBytes(layout);
  return bytes;
}

/// Clusters choose pages and take no part in the output, so eight bits do (float32 is for exact
/// comparisons). Window means have K's type, float16 where that has 8 bits: they are few.
kernels::DType CmpDTypeFor(bool clusters, kernels::DType dtype) {
  if (dtype == kernels::DType::kF32) return dtype;
  if (clusters) return kernels::DType::kInt8;
  return kernels::SizeOf(dtype) == 1 ? kernels::DType::kF16 : dtype;
}

/// Of a page's K and V without scales.
int64_t ElementBytes(const KvLayout& layout) {
  return int64_t{layout.head_dim_k + layout.head_dim_v} * kernels::kPageSize *
         static_cast<int64_t>(kernels::SizeOf(layout.dtype));
}

int64_t HeadBytes(const KvLayout& layout) {
  const bool has_scales = layout.dtype == kernels::DType::kInt8;
  const auto scale_bytes = static_cast<int64_t>(2 * kernels::kPageSize * sizeof(float));
  return ElementBytes(layout) + (has_scales ? scale_bytes : 0);
}

}  // namespace

KvLayout KvLayout::For(const AttentionSpec& spec, const AttentionShape& shape, int num_layers,
                       kernels::DType dtype) {
  const bool clusters = spec.compression == Compression::kPageClusters;
  const int rows = clusters ? spec.num_clusters : kernels::kPageSize / spec.compression_stride;
  return {.num_layers = num_layers,
          .num_kv = spec.branch_kv ? kernels::kMaxBranches : 1,
          .num_kv_heads = shape.num_kv_heads,
          .head_dim_k = shape.head_dim_k,
          .head_dim_v = shape.head_dim_v,
          .dtype = dtype,
          .cmp_dtype = CmpDTypeFor(clusters, dtype),
          .cmp_rows_per_page = spec.sparse ? rows : 0,
          .compressed_values = spec.compressed_values,
          .cmp_biases = spec.sparse && clusters,
          // Where distances have no limit, one rotation of the query then serves all pages.
          .cmp_absolute = spec.sparse && !clusters && spec.max_page_distance < 0};
}

int64_t KvLayout::SlotBytes() const { return num_kv_heads * HeadBytes(*this); }
int64_t KvLayout::CmpSlotBytes() const { return num_kv_heads * CmpHeadBytes(*this); }
int64_t KvLayout::PageBytes() const { return num_layers * (num_kv * SlotBytes() + CmpSlotBytes()); }

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(kernels::Backend& backend,
                                                         const KvLayout& layout,
                                                         int32_t num_pages) {
  auto cache = absl::WrapUnique(new KvCache(layout, num_pages));
  const int64_t num_bytes = layout.PageBytes() * num_pages;
  cache->memory_ = backend.Allocate(num_bytes);
  if (cache->memory_.data() == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "KV cache: cannot take %d bytes for %d pages; lower --kv_cache_gib", num_bytes, num_pages));
  }
  return cache;
}

kernels::PagedKv KvCache::view(int layer, int branch) const {
  const int64_t slots_bytes = layout_.SlotBytes() * num_pages_;
  const int64_t cmp_bytes = layout_.CmpSlotBytes() * num_pages_;
  kernels::PagedKv view;
  view.dtype = layout_.dtype;
  view.cmp_dtype = layout_.cmp_dtype;
  view.num_kv_heads = layout_.num_kv_heads;
  view.head_dim_k = layout_.head_dim_k;
  view.head_dim_v = layout_.head_dim_v;
  view.slots = memory_.data() + (int64_t{layer} * layout_.num_kv + branch) * slots_bytes;
  view.page_stride = layout_.SlotBytes();
  view.head_stride = HeadBytes(layout_);
  view.v_offset = int64_t{layout_.head_dim_k} * kernels::kPageSize *
                  static_cast<int64_t>(kernels::SizeOf(layout_.dtype));
  if (layout_.dtype == kernels::DType::kInt8) view.scale_offset = ElementBytes(layout_);
  if (layout_.cmp_rows_per_page > 0) {
    view.cmp_slots = memory_.data() + int64_t{layout_.num_layers} * layout_.num_kv * slots_bytes +
                     layer * cmp_bytes;
    view.cmp_page_stride = layout_.CmpSlotBytes();
    view.cmp_head_stride = CmpHeadBytes(layout_);
    const int64_t key_bytes = CmpKeyBytes(layout_);
    view.cmp_absolute = layout_.cmp_absolute;
    if (layout_.compressed_values) view.cmp_v_offset = key_bytes;
    if (layout_.cmp_dtype == kernels::DType::kInt8) view.cmp_scale_offset = key_bytes;
    if (layout_.cmp_biases) {
      view.cmp_bias_offset = CmpHeadBytes(layout_) - CmpRowFloatBytes(layout_);
    }
  }
  return view;
}

}  // namespace nsa::engine

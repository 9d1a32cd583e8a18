#include "engine/kv_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "engine/log.h"

namespace nsa::engine {
namespace {

/// Of an entry of the table of places.
constexpr int64_t kPlaceBytes = sizeof(int32_t);
/// Pages between two whose places have changed: a copy more costs as much as to write theirs again.
constexpr int32_t kWrittenAlong = 64;

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

/// Where rows have values, of a page's compressed keys of one head, and of its compressed values:
/// these have planes of their own, with one stride for both.
int64_t CmpPlaneBytes(const KvLayout& layout) {
  const int64_t value_bytes = int64_t{layout.head_dim_v} * layout.cmp_rows_per_page *
                              static_cast<int64_t>(kernels::SizeOf(layout.cmp_dtype));
  return std::max(CmpKeyBytes(layout), value_bytes);
}

int64_t CmpHeadBytes(const KvLayout& layout) {
  if (layout.compressed_values) return 2 * CmpPlaneBytes(layout);
  int64_t bytes = CmpKeyBytes(layout);
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

/// A slot that can leave memory alone.
int64_t SlotStride(const KvLayout& layout, int64_t num_blocks) {
  if (num_blocks == 0 || layout.has_places) return layout.SlotBytes();
  const int64_t unit = sysconf(_SC_PAGESIZE);
  return (layout.SlotBytes() + unit - 1) / unit * unit;
}

/// Address space of which only a part is ever used at a time. No large pages: memory comes and goes
/// by slots.
kernels::Memory Reserve(int64_t num_bytes) {
  const auto size = static_cast<size_t>(num_bytes);
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return {};
  (void)madvise(data, size, MADV_NOHUGEPAGE);
  return {static_cast<std::byte*>(data), num_bytes,
          [](std::byte* memory, int64_t bytes) { munmap(memory, static_cast<size_t>(bytes)); }};
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
int64_t KvLayout::SlotsBytes() const { return int64_t{num_layers} * num_kv * SlotBytes(); }
int64_t KvLayout::PageBytes() const { return SlotsBytes() + num_layers * CmpSlotBytes(); }

KvCache::KvCache(const KvLayout& layout, int32_t num_frames, int32_t num_blocks)
    : layout_(layout),
      num_frames_(num_frames),
      num_blocks_(num_blocks),
      slot_stride_(SlotStride(layout, num_blocks)) {}

int64_t KvCache::NumBytes(const KvLayout& layout, int64_t num_frames, int64_t num_blocks) {
  const int64_t slots = int64_t{layout.num_layers} * layout.num_kv * SlotStride(layout, num_blocks);
  const int64_t num_pages = num_frames + num_blocks;
  const bool has_table = layout.has_places && num_blocks > 0;
  const int64_t table = has_table ? num_pages * layout.num_layers * kPlaceBytes : 0;
  return num_frames * slots + num_pages * layout.num_layers * layout.CmpSlotBytes() + table;
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(kernels::Backend& backend,
                                                         const KvLayout& layout, int32_t num_frames,
                                                         int32_t num_blocks) {
  auto cache = absl::WrapUnique(new KvCache(layout, num_frames, num_blocks));
  const int64_t num_pages = cache->num_pages();
  const bool has_places = layout.has_places && num_blocks > 0;
  const int64_t slots_bytes = int64_t{layout.num_layers} * layout.num_kv * cache->slot_stride_ *
                              (has_places ? num_frames : num_pages);
  const bool is_reserved = num_blocks > 0 && !has_places;
  cache->slots_ = is_reserved ? Reserve(slots_bytes) : backend.Allocate(slots_bytes);
  const int64_t cmp_bytes = layout.num_layers * layout.CmpSlotBytes() * num_pages;
  if (cmp_bytes > 0) cache->cmp_slots_ = backend.Allocate(cmp_bytes);
  if (cache->slots_.data() == nullptr || (cmp_bytes > 0 && cache->cmp_slots_.data() == nullptr)) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("KV cache: cannot take %d bytes for %d pages; lower --kv_cache_gib",
                        NumBytes(layout, num_frames, num_blocks), num_pages));
  }
  if (has_places) cache->MakePlaces(backend);
  return cache;
}

void KvCache::MakePlaces(kernels::Backend& backend) {
  places_ = std::make_unique<SlotPlaces>(num_pages(), num_frames_, layout_.num_layers);
  std::vector<int32_t> table(static_cast<size_t>(num_pages() * int64_t{layout_.num_layers}), -1);
  std::iota(table.begin(), table.begin() + num_frames_ * int64_t{layout_.num_layers}, 0);
  place_table_ = kernels::Array<int32_t>(backend, table);
}

void KvCache::WritePlaces(kernels::Backend& backend) {
  if (places_ == nullptr) return;
  const std::vector<int32_t> pages = places_->TakeChanged();
  for (size_t begin = 0, end = 0; begin < pages.size(); begin = end) {
    do ++end;
    while (end < pages.size() && pages[end] - pages[end - 1] <= kWrittenAlong);
    const int32_t first = pages[begin], num_pages = pages[end - 1] + 1 - first;
    backend.WriteAhead(place_table_.data() + int64_t{first} * layout_.num_layers,
                       places_->of_page(first).data(),
                       num_pages * layout_.num_layers * kPlaceBytes);
  }
}

std::span<std::byte> KvCache::slot(int layer, int branch, int32_t page) const {
  CHECK(places_ == nullptr) << "page " << page << " has a place in each layer";
  return {slots(layer, branch) + page * slot_stride_, static_cast<size_t>(layout_.SlotBytes())};
}

void KvCache::Discard(int layer, int32_t page) {
  CHECK(num_blocks_ > 0 && places_ == nullptr) << "memory is not given back";
  for (int branch = 0; branch < layout_.num_kv; ++branch) {
    const int failed =
        madvise(slot(layer, branch, page).data(), static_cast<size_t>(slot_stride_), MADV_DONTNEED);
    CHECK(failed == 0) << "madvise of a slot: " << std::strerror(errno);
  }
}

kernels::PagedKv KvCache::view(int layer, int branch) const {
  kernels::PagedKv view;
  view.dtype = layout_.dtype;
  view.cmp_dtype = layout_.cmp_dtype;
  view.num_kv_heads = layout_.num_kv_heads;
  view.head_dim_k = layout_.head_dim_k;
  view.head_dim_v = layout_.head_dim_v;
  view.slots = slots(layer, branch);
  view.page_stride = slot_stride_;
  if (places_ != nullptr) {
    view.page_stride = PlaceBytes();
    view.places = place_table_.data() + layer;
    view.places_stride = layout_.num_layers;
  }
  view.head_stride = HeadBytes(layout_);
  view.v_offset = int64_t{layout_.head_dim_k} * kernels::kPageSize *
                  static_cast<int64_t>(kernels::SizeOf(layout_.dtype));
  if (layout_.dtype == kernels::DType::kInt8) view.scale_offset = ElementBytes(layout_);
  if (layout_.cmp_rows_per_page > 0) {
    view.cmp_slots = cmp_slots_.data() + layer * layout_.CmpSlotBytes() * num_pages();
    view.cmp_absolute = layout_.cmp_absolute;
    if (layout_.compressed_values) {
      view.cmp_page_stride = CmpPlaneBytes(layout_);
      view.cmp_v_offset = CmpPlaneBytes(layout_) * num_pages();
      view.cmp_head_stride = 2 * view.cmp_v_offset;
    } else {
      view.cmp_page_stride = layout_.CmpSlotBytes();
      view.cmp_head_stride = CmpHeadBytes(layout_);
    }
    if (layout_.cmp_dtype == kernels::DType::kInt8) view.cmp_scale_offset = CmpKeyBytes(layout_);
    if (layout_.cmp_biases) {
      view.cmp_bias_offset = CmpHeadBytes(layout_) - CmpRowFloatBytes(layout_);
    }
  }
  return view;
}

}  // namespace nsa::engine

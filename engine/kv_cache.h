#ifndef NSA_ENGINE_KV_CACHE_H_
#define NSA_ENGINE_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/attention/plan.h"
#include "kernels/backend.h"
#include "kernels/memory.h"
#include "kernels/ops/attention.h"

namespace nsa::engine {

/// What one page costs and how it is laid out.
struct KvLayout {
  int num_layers = 0;
  int num_kv = 1;  // K and V by branch where they have their own
  int num_kv_heads = 0;
  int head_dim_k = 0;
  int head_dim_v = 0;
  kernels::DType dtype = kernels::DType::kBF16;      // of K and V
  kernels::DType cmp_dtype = kernels::DType::kBF16;  // of compressed rows
  int cmp_rows_per_page = 0;                         // 0: the plan has no compressed rows
  bool compressed_values = false;
  bool cmp_biases = false;    // a bias for each compressed row
  bool cmp_absolute = false;  // compressed keys in the frame of the sequence

  /// What a plan needs in a cache of `dtype`; compressed rows have a type of their own.
  static KvLayout For(const AttentionSpec& spec, const AttentionShape& shape, int num_layers,
                      kernels::DType dtype);

  int64_t SlotBytes() const;     // one K and V of one (layer, page)
  int64_t CmpSlotBytes() const;  // compressed rows of one (layer, page)
  int64_t PageBytes() const;     // of all layers
};

/// The memory of the paged cache: for each layer an array of slots (K and V; one for each
/// branch where these have their own) and one of compressed rows, apart so that the latter can stay
/// when slots move. Where rows have values (cmp_attn reads them), a head's keys of consecutive
/// pages stand behind each other, and so do its values, as a task reads them; where they choose
/// pages alone (score_topk), the heads of a page do. On the CPU, address space is taken at once,
/// memory as pages are first written. Written by operators on the engine thread alone.
class KvCache {
 public:
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(kernels::Backend& backend,
                                                         const KvLayout& layout, int32_t num_pages);

  const KvLayout& layout() const { return layout_; }
  int32_t num_pages() const { return num_pages_; }
  /// With the layer's compressed rows. `branch` in [0, num_kv).
  kernels::PagedKv view(int layer, int branch = 0) const;

 private:
  KvCache(const KvLayout& layout, int32_t num_pages) : layout_(layout), num_pages_(num_pages) {}

  KvLayout layout_;
  int32_t num_pages_;
  kernels::Memory memory_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_KV_CACHE_H_

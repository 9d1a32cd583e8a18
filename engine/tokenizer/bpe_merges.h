#ifndef NSA_ENGINE_TOKENIZER_BPE_MERGES_H_
#define NSA_ENGINE_TOKENIZER_BPE_MERGES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace nsa::engine {

/// The merges of a byte-pair encoding (Sennrich et al. 2016) over token ids. Immutable: any thread.
class BpeMerges {
 public:
  BpeMerges() = default;

  /// `lines`: "left right", best first; `ids`: the id of every token by its text. InvalidArgument
  /// names the line that is not two parts, or whose parts or whole are no tokens.
  static absl::StatusOr<BpeMerges> Create(
      const std::vector<std::string>& lines,
      const absl::flat_hash_map<std::string_view, int32_t>& ids);

  /// Joins neighbours until no merge is left: the best pair first, the leftmost of equals. n log n
  /// in the number of symbols.
  void Apply(std::vector<int32_t>& symbols) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t id;  // of the joined token
  };

  const Merge* FindMerge(int32_t left, int32_t right) const;
  void MergeShort(std::vector<int32_t>& symbols) const;
  void MergeLong(std::vector<int32_t>& symbols) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;  // left · 2^32 + right
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_BPE_MERGES_H_

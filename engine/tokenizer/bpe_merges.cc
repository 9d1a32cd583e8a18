#include "engine/tokenizer/bpe_merges.h"

#include <array>
#include <functional>
#include <limits>
#include <optional>
#include <queue>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"
#include "engine/weights/byte_cursor.h"
#include "kernels/check.h"

namespace nsa::engine {
namespace {

// Above this many symbols a heap beats looking for the best pair again after every merge.
constexpr size_t kShortPiece = 32;

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

absl::StatusOr<BpeMerges> BpeMerges::Create(
    const std::vector<std::string>& lines,
    const absl::flat_hash_map<std::string_view, int32_t>& ids) {
  BpeMerges merges;
  merges.merges_.reserve(lines.size());
  for (size_t rank = 0; rank < lines.size(); ++rank) {
    const std::string& line = lines[rank];
    // From the second byte on: a part may be a space itself only in files of other alphabets.
    const size_t space = line.find(' ', 1);
    const auto fail = [&](std::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("merges[", rank, "] is ", Quoted(line), ": ",
                                                     View(what), "; convert the checkpoint again"));
    };
    if (space == std::string::npos) return fail("expected two parts with a space between them");
    const std::string left = line.substr(0, space);
    const std::string right = line.substr(space + 1);
    const auto left_it = ids.find(left);
    const auto right_it = ids.find(right);
    const auto joined_it = ids.find(left + right);
    if (left_it == ids.end() || right_it == ids.end() || joined_it == ids.end()) {
      return fail("both parts and the whole must be tokens");
    }
    // The first of two equal lines counts, as it has the better rank.
    merges.merges_.try_emplace(PairKey(left_it->second, right_it->second),
                               Merge{static_cast<int32_t>(rank), joined_it->second});
  }
  return merges;
}

const BpeMerges::Merge* BpeMerges::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BpeMerges::Apply(std::vector<int32_t>& symbols) const {
  if (symbols.size() <= kShortPiece) {
    MergeShort(symbols);
  } else {
    MergeLong(symbols);
  }
}

// The best pair first, the leftmost of equals; pairs[i] is the merge of symbols i and i + 1.
void BpeMerges::MergeShort(std::vector<int32_t>& symbols) const {
  constexpr Merge kNone = {std::numeric_limits<int32_t>::max(), -1};
  const auto merge_at = [&](size_t i) {
    const Merge* merge = FindMerge(symbols[i], symbols[i + 1]);
    return merge == nullptr ? kNone : *merge;
  };
  std::array<Merge, kShortPiece> pairs;
  for (size_t i = 0; i + 1 < symbols.size(); ++i) pairs[i] = merge_at(i);
  while (symbols.size() > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < symbols.size(); ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].id < 0) return;
    symbols[best] = pairs[best].id;
    for (size_t i = best + 1; i + 2 < symbols.size(); ++i) pairs[i] = pairs[i + 1];
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    if (best + 1 < symbols.size()) pairs[best] = merge_at(best);
    if (best > 0) pairs[best - 1] = merge_at(best - 1);
  }
}

// The same order with a heap of (rank, position) over a linked list: n log n for text without any
// split, such as a megabyte of one letter. Entries that a merge has made stale are seen when
// popped.
void BpeMerges::MergeLong(std::vector<int32_t>& symbols) const {
  NSA_CHECK(symbols.size() < std::numeric_limits<uint32_t>::max());
  const uint32_t size = static_cast<uint32_t>(symbols.size());
  constexpr int32_t kGone = -1;
  std::vector<uint32_t> next(size);
  std::vector<uint32_t> previous(size);
  for (uint32_t i = 0; i < size; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;  // wraps for 0, which nothing reads
  }
  std::vector<uint64_t> entries;
  entries.reserve(size);
  const auto entry_at = [&](uint32_t i) -> std::optional<uint64_t> {
    const Merge* merge = next[i] < size ? FindMerge(symbols[i], symbols[next[i]]) : nullptr;
    if (merge == nullptr) return std::nullopt;
    return uint64_t{static_cast<uint32_t>(merge->rank)} << 32 | i;
  };
  for (uint32_t i = 0; i < size; ++i) {
    if (const auto entry = entry_at(i)) entries.push_back(*entry);
  }
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap(std::greater<>(),
                                                                            std::move(entries));
  while (!heap.empty()) {
    const uint32_t left = static_cast<uint32_t>(heap.top());
    const int32_t rank = static_cast<int32_t>(heap.top() >> 32);
    heap.pop();
    if (symbols[left] == kGone || next[left] >= size) continue;
    const uint32_t right = next[left];
    const Merge* merge = FindMerge(symbols[left], symbols[right]);
    if (merge == nullptr || merge->rank != rank) continue;
    symbols[left] = merge->id;
    symbols[right] = kGone;
    next[left] = next[right];
    if (next[left] < size) previous[next[left]] = left;
    if (const auto entry = entry_at(left)) heap.push(*entry);
    if (left > 0) {
      if (const auto entry = entry_at(previous[left])) heap.push(*entry);
    }
  }
  std::erase(symbols, kGone);
}

}  // namespace nsa::engine

// What must hold of the scheduler's state between steps.

#include <algorithm>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/scheduler.h"

namespace nsa::engine {
namespace {

absl::Status Broken(const Sequence& sequence, const char* what) {
  return absl::InternalError(absl::StrCat(
      "request '", sequence.id(), "' ", what, ": ", sequence.num_computed, " of ",
      sequence.num_tokens(), " tokens are computed, in ", sequence.pages.size(), " pages"));
}

/// The tokens of a sequence's page number `index`, as far as there are any.
std::span<const int32_t> TokensOf(const Sequence& sequence, size_t index) {
  const std::span<const int32_t> tokens(sequence.tokens);
  const size_t begin = std::min(tokens.size(), index * kernels::kPageSize);
  return tokens.subspan(begin, std::min<size_t>(tokens.size() - begin, kernels::kPageSize));
}

}  // namespace

absl::Status Scheduler::CheckSequences() const {
  std::set<std::pair<std::string, int32_t>> ids;
  for (const auto* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) {
      const Sequence& s = *sequence;
      const auto num_pages = static_cast<int64_t>(s.pages.size());
      if (!ids.emplace(s.id(), s.index).second) return Broken(s, "is there twice");
      if (s.num_computed < 0 || s.num_computed > num_pages * kernels::kPageSize) {
        return Broken(s, "has more tokens than pages hold");
      }
      // What comes next always has a token to begin with.
      if (s.num_computed >= s.num_tokens()) return Broken(s, "has nothing to compute");
      if (s.num_generated() > s.max_tokens) return Broken(s, "has more tokens than it may have");
      if (s.chain.num_pages * kernels::kPageSize > s.num_computed) {
        return Broken(s, "made pages known that are not full");
      }
      if (list == &waiting_ && (s.suspended || s.interruption.num_rows > 0)) {
        return Broken(s, "waits and is suspended");
      }
      if (absl::Status status = CheckSuspension(s); !status.ok()) return status;
    }
  }
  if (!preempted_.empty()) return absl::InternalError("sequences are neither running nor waiting");
  return absl::OkStatus();
}

absl::Status Scheduler::CheckSuspension(const Sequence& s) const {
  const Interruption& interruption = s.interruption;
  if (s.pages.empty()) {
    return interruption.num_rows == 0 ? absl::OkStatus() : Broken(s, "left a step without pages");
  }
  if (interruption.num_rows > 0) {
    if (interruption.num_rows > s.num_pending()) return Broken(s, "left a step with too many rows");
    if (PagesFor(s.num_computed + interruption.num_rows) > std::ssize(s.pages)) {
      return Broken(s, "left a step without the pages that it writes");
    }
    if (interruption.layer < 0 || interruption.layer >= limits_.residency.num_layers) {
      return Broken(s, "left a step in no layer");
    }
  }
  if (s.suspended ||
      std::ranges::none_of(running_, [&](const auto& other) { return other.get() == &s; })) {
    return absl::OkStatus();
  }
  if (!HasKeptPages(s)) return Broken(s, "runs without having its pages in memory");
  if (interruption.num_rows > 0 && !(interruption.is_granted && HasInterruptionPages(s))) {
    return Broken(s, "goes on without the slots that it left for");
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckPins() const {
  int64_t num_pins = 0;
  std::set<int32_t> kept_rows(free_kept_rows_.begin(), free_kept_rows_.end());
  size_t num_kept = free_kept_rows_.size();
  for (const auto& s : running_) {
    const Interruption& interruption = s->interruption;
    if (interruption.num_rows == 0) continue;
    ++num_kept;
    kept_rows.insert(interruption.kept_row);
    if (!interruption.is_granted) continue;
    for (const int32_t page : interruption.pages) {
      ++num_pins;
      if (!pool_->slots().is_pinned({interruption.layer, page})) {
        return Broken(*s, "waits for a slot that is not pinned");
      }
    }
  }
  if (num_pins != pool_->slots().num_pins()) return absl::InternalError("pins without an owner");
  if (kept_rows.size() != num_kept) return absl::InternalError("kept rows have two owners");
  const size_t num_rows = num_kept - (KeepsAChunk() ? 1 : 0);
  if (limits_.residency.enabled() && num_rows != static_cast<size_t>(limits_.max_running)) {
    return absl::InternalError("kept rows were lost");
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckPages() const {
  struct Use {
    int32_t num_sequences = 0;
    const Sequence* first = nullptr;
    size_t index = 0;  // in its page table
  };
  std::vector<Use> uses(static_cast<size_t>(pool_->num_pages()));
  for (const auto* list : {&running_, &waiting_}) {
    for (const auto& sequence : *list) {
      for (size_t i = 0; i < sequence->pages.size(); ++i) {
        Use& use = uses[static_cast<size_t>(sequence->pages[i])];
        if (use.num_sequences++ == 0) {
          use.first = sequence.get();
          use.index = i;
          continue;
        }
        // Only full pages of the same tokens at the same place are shared.
        const auto end = static_cast<int64_t>(i + 1) * kernels::kPageSize;
        if (use.index != i || use.first->num_computed < end || sequence->num_computed < end ||
            !std::ranges::equal(TokensOf(*use.first, i), TokensOf(*sequence, i))) {
          return Broken(*sequence, "shares a page with other content");
        }
      }
    }
  }
  for (int32_t page = 0; page < pool_->num_pages(); ++page) {
    const int32_t expected = uses[static_cast<size_t>(page)].num_sequences +
                             (cache_.IsKnown(page) ? 1 : 0) + mover_.NumMoves(page);
    if (pool_->num_users(page) != expected) {
      return absl::InternalError(absl::StrCat("page ", page, " counts ", pool_->num_users(page),
                                              " users and has ", expected));
    }
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Check() const {
  if (absl::Status status = CheckSequences(); !status.ok()) return status;
  if (absl::Status status = CheckPages(); !status.ok()) return status;
  if (absl::Status status = CheckPins(); !status.ok()) return status;
  if (!cache_.Consistent()) return absl::InternalError("pages, chains and idle lists do not fit");
  if (!mover_.Consistent()) return absl::InternalError("moves, frames and blocks do not fit");
  return absl::OkStatus();
}

}  // namespace nsa::engine

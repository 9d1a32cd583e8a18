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
      if (list == &waiting_ && s.suspended) return Broken(s, "waits and is suspended");
      if (list == &running_ && !s.suspended && NumReady(s.pages) < num_pages) {
        return Broken(s, "runs without having its pages in memory");
      }
    }
  }
  if (!preempted_.empty()) return absl::InternalError("sequences are neither running nor waiting");
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
                             (cache_.IsKnown(page) ? 1 : 0) + (mover_.IsMoving(page) ? 1 : 0);
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
  if (!cache_.Consistent()) return absl::InternalError("pages, chains and idle lists do not fit");
  if (!mover_.Consistent()) return absl::InternalError("moves, frames and blocks do not fit");
  return absl::OkStatus();
}

}  // namespace nsa::engine

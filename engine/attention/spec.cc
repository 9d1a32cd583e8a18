#include "engine/attention/spec.h"

#include <algorithm>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "kernels/tensor.h"

namespace nsa::engine {
namespace {

using kernels::kPageSize;

// Workspace bound for specs with absolute positions, whose n no trained length limits.
constexpr int32_t kMaxSelectedBlocks = 256;

absl::Status Contradiction(const char* field, int64_t value, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrFormat("attention spec: %s is %d, expected %s", field, value, expected));
}

absl::Status ValidateWindows(const AttentionSpec& spec) {
  const int l = spec.compression_length, d = spec.compression_stride, block = spec.sel_block_size;
  if (d < 1 || kPageSize % d != 0) return Contradiction("compression_stride", d, "a divisor of 64");
  if (l < d || l % d != 0) {
    return Contradiction("compression_length", l, "a multiple of compression_stride");
  }
  if (block < d || block % d != 0 || (kPageSize % block != 0 && block % kPageSize != 0)) {
    return Contradiction("sel_block_size", block,
                         "a multiple of compression_stride that divides 64 or is a multiple of it");
  }
  return absl::OkStatus();
}

absl::Status ValidateScores(const AttentionSpec& spec) {
  if (spec.lse_windows < 1) return Contradiction("lse_windows", spec.lse_windows, "at least 1");
  if (spec.lse_windows > 1 && spec.compressed_values) {
    return Contradiction("lse_windows", spec.lse_windows,
                         "1 where the compressed branch contributes to the output");
  }
  if (spec.max_page_distance < -1) {
    return Contradiction("max_page_distance", spec.max_page_distance, "-1 or a number of pages");
  }
  if (spec.decay_score_page_distance < -1 || spec.decay_score_page_distance == 0) {
    return Contradiction("decay_score_page_distance", spec.decay_score_page_distance,
                         "-1 or a number of pages above 0");
  }
  return absl::OkStatus();
}

/// K and V by branch, and what needs them.
absl::Status ValidateBranches(const AttentionSpec& spec) {
  if (spec.branch_kv && spec.combination != Combination::kGates) {
    return Contradiction("branch_kv", 1, "false where branches are not gated");
  }
  if (!spec.branch_kv && !(spec.rope_cmp && spec.rope_slc && spec.rope_win)) {
    return Contradiction("rope_cmp, rope_slc or rope_win", 0, "true where branches share their K");
  }
  if (spec.compression == Compression::kLearned && !(spec.branch_kv && spec.compressed_values)) {
    return Contradiction("branch_kv or compressed_values", 0,
                         "true where the compression is learned");
  }
  if (spec.combination != Combination::kGates && spec.compressed_values) {
    return Contradiction("compressed_values", 1, "false where branches are not gated");
  }
  return absl::OkStatus();
}

/// The window, and which tokens are read whatever their score.
absl::Status ValidateReads(const AttentionSpec& spec) {
  const bool alone = spec.combination == Combination::kSelectedAlone;
  if (alone && (spec.window_size != 0 || spec.disjoint_window)) {
    return Contradiction("window_size", spec.window_size, "0 where the selected blocks are all");
  }
  if (!alone && spec.window_size < 1) {
    return Contradiction("window_size", spec.window_size, "at least 1");
  }
  if (spec.dense_length < 0 || (spec.dense_length > 0 && !alone)) {
    return Contradiction("dense_length", spec.dense_length,
                         "0, or above where the selected blocks are all");
  }
  const int forced = spec.num_initial_blocks + spec.num_local_blocks;
  if (spec.num_initial_blocks < 0 || spec.num_local_blocks < 0) {
    return Contradiction("num_initial_blocks or num_local_blocks", -1, "no negative number");
  }
  if (spec.num_selected_blocks < std::max(1, forced)) {
    return Contradiction("num_selected_blocks", spec.num_selected_blocks,
                         "at least the number of forced blocks, and at least 1");
  }
  if (!spec.disjoint_window) return absl::OkStatus();
  if (spec.window_size % kPageSize != 0) {
    return Contradiction("window_size", spec.window_size,
                         "a multiple of 64 where the window is disjoint from the selection");
  }
  if (spec.sel_block_size > kPageSize) {
    return Contradiction("sel_block_size", spec.sel_block_size,
                         "at most 64 where the window is disjoint from the selection");
  }
  if (spec.num_local_blocks != 0) {
    return Contradiction("num_local_blocks", spec.num_local_blocks, "0 with a disjoint window");
  }
  return absl::OkStatus();
}

absl::Status ValidateClusters(const AttentionSpec& spec) {
  if (spec.num_clusters < 1 || kPageSize % spec.num_clusters != 0) {
    return Contradiction("num_clusters", spec.num_clusters, "a divisor of 64");
  }
  if (spec.sel_block_size != kPageSize || !spec.disjoint_window) {
    return Contradiction("sel_block_size", spec.sel_block_size,
                         "64 with a disjoint window, as clusters of full pages need");
  }
  if (spec.compressed_values) {
    return Contradiction("compressed_values", 1, "false where rows are clusters");
  }
  if (spec.block_score != kernels::BlockScore::kOverlapSum) {
    return Contradiction("block_score", static_cast<int64_t>(spec.block_score),
                         "the sum where rows are clusters");
  }
  return absl::OkStatus();
}

}  // namespace

AttentionSpec FullAttentionSpec(int64_t sliding_window) {
  AttentionSpec spec;
  spec.sliding_window = sliding_window;
  return spec;
}

AttentionSpec TrainingFreeSpec(int64_t trained_context) {
  AttentionSpec spec;
  spec.sparse = true;
  // Means of windows dilute the one key that matters: at 7,000 tokens of real text they need n = 64
  // for what eight clusters a page find with n = 16 (engine/README.md has the table).
  spec.compression = Compression::kPageClusters;
  // Far pages are scored and read at one distance that the model knows well. Scores lose their
  // meaning near the trained length: algorithm.md §3 measured 2,000 tokens as the best clamp on a
  // model trained for 8,192. Reading a page where it was scored beats numbering the selected pages
  // as if they were the whole context (engine/README.md).
  spec.max_page_distance = std::clamp<int64_t>(trained_context / (2 * kPageSize), 1, 31);
  // With the distance clamped, thousands of far pages compete with equal chances and some score
  // well by accident. Attention mass falls with distance in what models were trained on; beyond
  // that length a page must score the more the farther it is.
  spec.decay_score_page_distance = std::max<int64_t>(1, trained_context / kPageSize);
  spec.disjoint_window = true;
  spec.combination = Combination::kJoinedSoftmax;
  spec.num_local_blocks = 0;
  spec.window_size =
      std::clamp<int64_t>(trained_context / 4 / kPageSize * kPageSize, kPageSize, 512);
  // A key's mean log-probability in real text is then within 0.1 of full attention's, which 16 and
  // 24 miss, and 64k tokens of context are read by fewer bytes than NSA as published reads.
  spec.num_selected_blocks = std::min(32, MaxSelectedBlocks(spec, trained_context));
  return spec;
}

int32_t MaxSelectedBlocks(const AttentionSpec& spec, int64_t trained_context) {
  if (spec.max_page_distance < 0) return kMaxSelectedBlocks;
  const int64_t blocks = (trained_context - spec.window_size - kPageSize) / kPageSize;
  return static_cast<int32_t>(std::clamp<int64_t>(blocks, 1, kMaxSelectedBlocks));
}

absl::Status Validate(const AttentionSpec& spec) {
  if (spec.sliding_window < 0 || (spec.sparse && spec.sliding_window != 0)) {
    return Contradiction("sliding_window", spec.sliding_window, "0, or above without sparsity");
  }
  if (!spec.sparse) return absl::OkStatus();
  const bool clusters = spec.compression == Compression::kPageClusters;
  if (absl::Status status = clusters ? ValidateClusters(spec) : ValidateWindows(spec);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = ValidateScores(spec); !status.ok()) return status;
  if (absl::Status status = ValidateBranches(spec); !status.ok()) return status;
  return ValidateReads(spec);
}

std::string Describe(const AttentionSpec& spec) {
  if (!spec.sparse && spec.sliding_window > 0) {
    return absl::StrFormat("sliding window w=%d", spec.sliding_window);
  }
  if (!spec.sparse) return "full";
  std::string rows = absl::StrFormat("l=%d d=%d", spec.compression_length, spec.compression_stride);
  if (spec.compression == Compression::kPageClusters) {
    rows = absl::StrFormat("clusters=%d", spec.num_clusters);
  }
  if (spec.compression == Compression::kLearned) rows += " learned";
  if (spec.dense_length > 0) rows += absl::StrFormat(" dense below %d,", spec.dense_length);
  constexpr const char* kCombinations[] = {"gated branches", "joined softmax", "selected alone"};
  return absl::StrFormat("nsa %s l'=%d n=%d w=%d, %s, %s", rows, spec.sel_block_size,
                         spec.num_selected_blocks, spec.window_size,
                         kCombinations[static_cast<size_t>(spec.combination)],
                         spec.max_page_distance < 0
                             ? "absolute positions"
                             : absl::StrFormat("distances up to %d pages", spec.max_page_distance));
}

}  // namespace nsa::engine

#ifndef NSA_ENGINE_ATTENTION_SPEC_H_
#define NSA_ENGINE_ATTENTION_SPEC_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "kernels/ops/cmp_pool.h"
#include "kernels/ops/score_topk.h"

namespace nsa::engine {

/// How the branches become one output.
enum class Combination : uint8_t {
  kGates,          // NSA Eq. 5: sigmoid gates from the checkpoint
  kJoinedSoftmax,  // one softmax over selected ∪ window (training-free)
  kSelectedAlone,  // the selected blocks, the last ones being among them (InfLLM-v2)
};

/// What a compressed row stands for.
enum class Compression : uint8_t {
  kWindowMeans,   // NSA Eq. 7 with φ = mean: consecutive tokens (cmp_pool)
  kPageClusters,  // groups of similar keys of a page (cmp_cluster): better where nothing was
                  // trained
  kLearned,       // NSA Eq. 7 as published: what a perceptron makes of a window (WindowPerceptron)
};

/// The switches of algorithm.md §2: one attention, many checkpoints. Read from a checkpoint or made
/// for one, validated, then resolved once into an AttentionPlan.
struct AttentionSpec {
  bool sparse = false;         // false: full attention; nothing but the next field applies
  int64_t sliding_window = 0;  // > 0: the last so many tokens alone, the query included

  Compression compression = Compression::kWindowMeans;
  int num_clusters = 8;         // rows per page of kPageClusters, which reads no l, d, pooled_keys
  int compression_length = 32;  // l
  int compression_stride = 16;  // d
  int sel_block_size = 64;      // l'
  bool compressed_values = false;  // the compressed branch contributes to the output
  kernels::PooledKeys pooled_keys = kernels::PooledKeys::kRotated;

  // NSA §3.3.3: K and V of its own for each branch. Only then may a branch go without rotation.
  bool branch_kv = false;
  bool rope_cmp = true, rope_slc = true, rope_win = true;

  int lse_windows = 1;  // as in ScoreTopkParams
  kernels::BlockScore block_score = kernels::BlockScore::kOverlapSum;
  kernels::GroupReduction group_reduction = kernels::GroupReduction::kSum;
  // Pages farther back are scored and read as if they stood so far; −1: no limit.
  int64_t max_page_distance = -1;
  int64_t decay_score_page_distance = -1;  // from here on a block's score falls as 1/distance

  int num_selected_blocks = 16;  // n, forced ones included
  int num_initial_blocks = 1;
  int num_local_blocks = 2;
  // Queries that see fewer tokens read them all.
  int64_t dense_length = 0;

  int64_t window_size = 512;     // w; 0 with kSelectedAlone
  bool disjoint_window = false;  // page-aligned window that selection never reads
  Combination combination = Combination::kGates;
};

/// Full attention as the checkpoint was trained, within `sliding_window` tokens where that is > 0.
AttentionSpec FullAttentionSpec(int64_t sliding_window = 0);

/// Training-free NSA for any full-attention checkpoint (algorithm.md §3), for a model trained on
/// `trained_context` tokens: attended tokens keep inside that length.
AttentionSpec TrainingFreeSpec(int64_t trained_context);

/// The largest n with which the n·64 + w + 64 tokens that a query reads are no more than
/// `trained_context` where distances are limited; a bound of our own otherwise.
int32_t MaxSelectedBlocks(const AttentionSpec& spec, int64_t trained_context);

/// InvalidArgument that names the field, the value and what it contradicts.
absl::Status Validate(const AttentionSpec& spec);

/// For logs and GetModelInfo: "nsa l=32 d=16 l'=64 n=16 w=512 …".
std::string Describe(const AttentionSpec& spec);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ATTENTION_SPEC_H_

#include "engine/attention/spec.h"

#include <gtest/gtest.h>

#include <functional>

namespace nsa::engine {
namespace {

TEST(AttentionSpec, TrainingFreeStaysInsideTheTrainedLength) {
  for (const int64_t trained : {256, 512, 1000, 2048, 8192, 131072}) {
    const AttentionSpec spec = TrainingFreeSpec(trained);
    EXPECT_TRUE(Validate(spec).ok()) << trained << " " << Validate(spec);
    EXPECT_LE((spec.max_page_distance + 1) * 64, trained);
    EXPECT_LE(int64_t{spec.num_selected_blocks} * 64 + spec.window_size + 64, trained);
    EXPECT_LE(int64_t{MaxSelectedBlocks(spec, trained)} * 64 + spec.window_size + 64, trained);
  }
}

AttentionSpec Windows(AttentionSpec spec) {
  spec.compression = Compression::kWindowMeans;
  return spec;
}

TEST(AttentionSpec, ContradictionsNameTheField) {
  struct Case {
    const char* field;
    std::function<void(AttentionSpec&)> change;
  };
  const Case cases[] = {
      {"compression_stride", [](AttentionSpec& s) { s = Windows(s), s.compression_stride = 24; }},
      {"compression_stride", [](AttentionSpec& s) { s = Windows(s), s.compression_stride = 0; }},
      {"compression_length", [](AttentionSpec& s) { s = Windows(s), s.compression_length = 24; }},
      {"sel_block_size", [](AttentionSpec& s) { s = Windows(s), s.sel_block_size = 48; }},
      {"sel_block_size", [](AttentionSpec& s) { s = Windows(s), s.sel_block_size = 128; }},
      {"block_score", [](AttentionSpec& s) { s.block_score = kernels::BlockScore::kOverlapMax; }},
      {"num_clusters", [](AttentionSpec& s) { s.num_clusters = 0; }},
      {"num_clusters", [](AttentionSpec& s) { s.num_clusters = 24; }},
      {"decay_score_page_distance is 0", [](AttentionSpec& s) { s.decay_score_page_distance = 0; }},
      {"max_page_distance is -2", [](AttentionSpec& s) { s.max_page_distance = -2; }},
      {"compressed_values", [](AttentionSpec& s) { s = Windows(s), s.compressed_values = true; }},
      {"sel_block_size", [](AttentionSpec& s) { s.sel_block_size = 128; }},
      {"window_size", [](AttentionSpec& s) { s.window_size = 0; }},
      {"window_size", [](AttentionSpec& s) { s.window_size = 500; }},
      {"num_selected_blocks", [](AttentionSpec& s) { s.num_selected_blocks = 0; }},
      {"num_local_blocks", [](AttentionSpec& s) { s.num_local_blocks = 1; }},
      {"compressed_values", [](AttentionSpec& s) { s.compressed_values = true; }},
  };
  for (const Case& c : cases) {
    AttentionSpec spec = TrainingFreeSpec(8192);
    c.change(spec);
    const absl::Status status = Validate(spec);
    EXPECT_FALSE(status.ok()) << c.field;
    EXPECT_NE(std::string(status.message()).find(c.field), std::string::npos) << status;
  }
}

/// NSA as published.
AttentionSpec PaperSpec() {
  AttentionSpec spec;
  spec.sparse = true;
  spec.compression = Compression::kLearned;
  spec.compressed_values = true;
  spec.branch_kv = true;
  return spec;
}

/// InfLLM-v2.
AttentionSpec SelectedAloneSpec() {
  AttentionSpec spec;
  spec.sparse = true;
  spec.lse_windows = 4;
  spec.block_score = kernels::BlockScore::kOverlapMax;
  spec.num_selected_blocks = 96;
  spec.num_local_blocks = 33;
  spec.window_size = 0;
  spec.combination = Combination::kSelectedAlone;
  spec.dense_length = 8192;
  return spec;
}

TEST(AttentionSpec, ContradictionsOfTrainedSpecsNameTheField) {
  struct Case {
    const char* field;
    AttentionSpec spec;
    std::function<void(AttentionSpec&)> change;
  };
  const Case cases[] = {
      {"window_size", PaperSpec(), [](AttentionSpec& s) { s.window_size = 0; }},
      {"branch_kv", PaperSpec(), [](AttentionSpec& s) { s.branch_kv = false; }},
      {"compressed_values", PaperSpec(), [](AttentionSpec& s) { s.compressed_values = false; }},
      {"lse_windows", PaperSpec(), [](AttentionSpec& s) { s.lse_windows = 4; }},
      {"dense_length", PaperSpec(), [](AttentionSpec& s) { s.dense_length = 8192; }},
      {"compression_stride", PaperSpec(), [](AttentionSpec& s) { s.compression_stride = 24; }},
      {"rope_cmp", SelectedAloneSpec(), [](AttentionSpec& s) { s.rope_cmp = false; }},
      {"branch_kv", SelectedAloneSpec(), [](AttentionSpec& s) { s.branch_kv = true; }},
      {"window_size", SelectedAloneSpec(), [](AttentionSpec& s) { s.window_size = 2048; }},
      {"window_size", SelectedAloneSpec(), [](AttentionSpec& s) { s.disjoint_window = true; }},
      {"lse_windows", SelectedAloneSpec(), [](AttentionSpec& s) { s.lse_windows = 0; }},
      {"num_selected_blocks", SelectedAloneSpec(), [](auto& s) { s.num_selected_blocks = 33; }},
      {"compressed_values", SelectedAloneSpec(),
       [](auto& s) { s.lse_windows = 1, s.compressed_values = true; }},
  };
  EXPECT_TRUE(Validate(PaperSpec()).ok()) << Validate(PaperSpec());
  EXPECT_TRUE(Validate(SelectedAloneSpec()).ok()) << Validate(SelectedAloneSpec());
  for (const Case& c : cases) {
    AttentionSpec spec = c.spec;
    c.change(spec);
    const absl::Status status = Validate(spec);
    EXPECT_FALSE(status.ok()) << c.field;
    EXPECT_NE(std::string(status.message()).find(c.field), std::string::npos) << status;
  }
}

TEST(AttentionSpec, ForcedBlocksMustFitInN) {
  AttentionSpec spec;
  spec.sparse = true;
  spec.num_selected_blocks = 2;  // 1 initial and 2 local are forced
  EXPECT_FALSE(Validate(spec).ok());
  spec.num_selected_blocks = 3;
  EXPECT_TRUE(Validate(spec).ok());
}

}  // namespace
}  // namespace nsa::engine

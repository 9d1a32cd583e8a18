// Every family's kind of attention through ModelRunner on the CUDA backend, beside the reference.
// On the emulator device memory cannot be touched outside of kernels and copies, so that the engine
// is shown to leave it alone; tests/gpu runs the same on a GPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/loaded_model.h"
#include "kernels/backend.h"
#include "tests/engine/paper_folder.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

constexpr int64_t kNumTokens = 470;  // of which selection leaves pages out
constexpr int32_t kNumPages = 9;

/// A checkpoint by its family, with the flags that it is run with.
struct Case {
  const char* name;
  std::function<void(const TinyFolder&)> write = [](const TinyFolder&) {};
  AttentionFlag attention = AttentionFlag::kAuto;
  KvCacheDtype kv_cache_dtype = KvCacheDtype::kF32;
  WeightDtype weight_dtype = WeightDtype::kAuto;
  PrecisionFlag precision = PrecisionFlag::kAuto;
};

void WriteFolder(const TinyFolder& folder, const TinyFolder::json& config,
                 const TinyFolder::Shapes& weights) {
  folder.WriteJson("config.json", config);
  folder.Write("model.safetensors", TinyFolder::Safetensors(weights));
}

/// Llama with gates, one a branch and head (llama-nsa).
void WriteGated(const TinyFolder& folder) {
  TinyFolder::json config = TinyFolder::Config();
  config.update({{"model_type", "llama-nsa"},
                 {"max_position_embeddings", 1024},
                 {"block_size", 32},
                 {"block_counts", 3},
                 {"window_size", 64}});
  TinyFolder::Shapes weights = TinyFolder::Weights();
  weights["model.layers.0.self_attn.g_proj.weight"] = {2 * 3, TinyFolder::kHidden};
  WriteFolder(folder, config, weights);
}

/// The paper's attention as it stands: learned compression, K and V by branch, a gate perceptron.
void WritePaper(const TinyFolder& folder) {
  constexpr PaperSizes kSizes = {.window = 96, .phi_hidden = 20};
  TinyFolder::json config = PaperConfig(kSizes);
  config["max_position_embeddings"] = 1024;
  WriteFolder(folder, config, PaperWeights(kSizes));
}

/// InfLLM-v2: overlapping maxima, a log-sum-exp of fewer windows, one branch.
void WriteMiniCpm(const TinyFolder& folder) {
  TinyFolder::json config = TinyFolder::Config();
  config.update({{"model_type", "minicpm"},
                 {"max_position_embeddings", 1024},
                 {"scale_emb", 2.0},
                 {"sparse_config",
                  {{"window_size", 64}, {"topk", 2}, {"init_blocks", 1}, {"dense_len", 200}}}});
  WriteFolder(folder, config, TinyFolder::Weights());
}

/// Attention to everything, as long as the test's text.
void WriteLong(const TinyFolder& folder) {
  TinyFolder::json config = TinyFolder::Config();
  config["max_position_embeddings"] = 1024;
  WriteFolder(folder, config, TinyFolder::Weights());
}

/// Norms of heads.
void WriteQwen3(const TinyFolder& folder) {
  TinyFolder::json config = TinyFolder::Config();
  config["model_type"] = "qwen3";
  WriteFolder(folder, config, TinyFolder::WithHeadNorms(TinyFolder::Weights()));
}

const Case kCases[] = {
    {.name = "full", .write = WriteLong, .attention = AttentionFlag::kFull},
    {.name = "training_free"},
    {.name = "training_free_f16", .kv_cache_dtype = KvCacheDtype::kF16},
    {.name = "training_free_int8", .kv_cache_dtype = KvCacheDtype::kInt8},
    {.name = "training_free_fp8", .kv_cache_dtype = KvCacheDtype::kF8},
    {.name = "training_free_16bit",
     .kv_cache_dtype = KvCacheDtype::kF16,
     .precision = PrecisionFlag::kSixteenBits},
    {.name = "training_free_q8_0", .weight_dtype = WeightDtype::kQ8_0},
    {.name = "head_norms", .write = WriteQwen3},
    {.name = "gated", .write = WriteGated},
    {.name = "gated_16bit",
     .write = WriteGated,
     .kv_cache_dtype = KvCacheDtype::kF16,
     .precision = PrecisionFlag::kSixteenBits},
    {.name = "paper", .write = WritePaper},
    {.name = "infllm", .write = WriteMiniCpm},
};

std::unique_ptr<LoadedModel> Load(const TinyFolder& folder, const Case& c, bool on_cuda) {
  // Asked for here, so that the linker takes the backend that this program is linked with first.
  if (on_cuda) {
    EXPECT_EQ(kernels::OpenCudaDevice().error, "");
  }
  EngineOptions options;
  options.model_path = folder.path();
  options.device = on_cuda ? Device::kCuda : Device::kCpu;
  options.attention = c.attention;
  options.kv_cache_dtype = c.kv_cache_dtype;
  options.weight_dtype = c.weight_dtype;
  options.attention_precision = c.precision;
  options.max_step_tokens = 128;
  options.kv_cache_gib = 0.01;
  if (!on_cuda) {
    options.wrap_backend = [](std::unique_ptr<kernels::Backend>) {
      return kernels::MakeReferenceBackend();
    };
  }
  auto loaded = LoadModelWithCache(options);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return *std::move(loaded);
}

std::vector<int32_t> Tokens() {
  std::mt19937 random(3);
  std::vector<int32_t> tokens(static_cast<size_t>(kNumTokens));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % TinyFolder::kVocabulary);
  return tokens;
}

/// Logits of the positions from `from` on, one after the other.
std::vector<float> LogitsOf(LoadedModel& model, int64_t chunk, int64_t from) {
  const std::vector<int32_t> tokens = Tokens();
  std::vector<int32_t> pages(kNumPages);
  std::iota(pages.rbegin(), pages.rend(), 0);
  std::vector<float> result;
  for (int64_t begin = 0; begin < kNumTokens; begin += chunk) {
    const int64_t size = std::min(chunk, kNumTokens - begin);
    Batch batch;
    batch.num_rows = size;
    BatchEntry entry;
    entry.tokens = std::span<const int32_t>(tokens).subspan(static_cast<size_t>(begin),
                                                            static_cast<size_t>(size));
    entry.num_cached = begin;
    entry.page_table = pages;
    entry.num_selected_blocks = model.info.num_selected_blocks;
    entry.num_logit_rows = static_cast<int32_t>(std::clamp<int64_t>(begin + size - from, 0, size));
    batch.entries.push_back(entry);
    model.runner->Run(batch, [&](size_t, int64_t, const float* logits) {
      std::vector<float> row(TinyFolder::kVocabulary);
      model.backend->Read(row.data(), logits, static_cast<int64_t>(row.size() * sizeof(float)));
      result.insert(result.end(), row.begin(), row.end());
    });
  }
  return result;
}

class CudaModelTest : public testing::TestWithParam<Case> {};

TEST_P(CudaModelTest, LogitsAreTheReferences) {
  const TinyFolder folder;
  GetParam().write(folder);
  const auto cuda = Load(folder, GetParam(), true);
  const auto reference = Load(folder, GetParam(), false);
  EXPECT_NE(cuda->info.backend.find("cuda"), std::string::npos);
  const std::vector<float> actual = LogitsOf(*cuda, 128, 300),
                           expected = LogitsOf(*reference, 128, 300);
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    largest = std::max(largest, std::abs(double{actual[i]} - expected[i]));
  }
  EXPECT_LT(largest, 2e-3);  // the bar of the families' parity tests
}

TEST_P(CudaModelTest, ChunksDoNotChangeABit) {
  const TinyFolder folder;
  GetParam().write(folder);
  const auto model = Load(folder, GetParam(), true);
  const std::vector<float> whole = LogitsOf(*model, 128, 440);
  for (const int64_t chunk : {63, 1}) {
    const std::vector<float> chunked = LogitsOf(*model, chunk, 440);
    ASSERT_EQ(chunked.size(), whole.size());
    EXPECT_EQ(std::memcmp(chunked.data(), whole.data(), whole.size() * sizeof(float)), 0) << chunk;
  }
}

TEST(CudaPrecisionTest, TheFlagReachesTheKernels) {
  const TinyFolder folder;
  const auto logits = [&](PrecisionFlag precision) {
    const Case c = {.name = "", .kv_cache_dtype = KvCacheDtype::kF16, .precision = precision};
    return LogitsOf(*Load(folder, c, true), 128, 460);
  };
  const std::vector<float> exact = logits(PrecisionFlag::kFloat32);
  EXPECT_NE(logits(PrecisionFlag::kSixteenBits), exact);
  EXPECT_EQ(logits(PrecisionFlag::kAuto), exact) << "this checkpoint's weights are float32";
}

TEST(CudaPrecisionTest, AutoIsSixteenBitsUnlessTheCheckpointHasFloat32) {
  using enum kernels::AttentionPrecision;
  EXPECT_EQ(PrecisionOf(PrecisionFlag::kAuto, "F32"), kFloat32);
  for (const char* type : {"BF16", "F16", "Q4_1", "Q8_0"}) {
    EXPECT_EQ(PrecisionOf(PrecisionFlag::kAuto, type), kSixteenBits) << type;
    EXPECT_EQ(PrecisionOf(PrecisionFlag::kFloat32, type), kFloat32) << type;
  }
  EXPECT_EQ(PrecisionOf(PrecisionFlag::kSixteenBits, "F32"), kSixteenBits);
}

INSTANTIATE_TEST_SUITE_P(, CudaModelTest, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace nsa::engine

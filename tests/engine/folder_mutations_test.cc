// Folders that are not what they say: none may crash the reader or the model, hang, or be refused
// without the file's name. Run under sanitizers too.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/models/registry.h"
#include "engine/tokenizer/folder_text.h"
#include "engine/weights/checkpoint.h"
#include "tests/engine/gguf_mutations.h"
#include "tests/engine/json_mutations.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

using nlohmann::json;

constexpr double kMaxSeconds = 10;  // of one folder, under a sanitizer and on a busy machine
constexpr size_t kMaxMembers = 12;

/// How many random mutants of a file; NSA_MUTANTS asks for more.
int NumMutants() {
  const char* asked = std::getenv("NSA_MUTANTS");
  return asked == nullptr ? 300 : std::atoi(asked);
}

const std::string& SampleText() {
  static const std::string* const kText =
      new std::string("Hello  the world\n\n 123 日本 e\xCC\x81 <s>ab</s> <tool>  \xFF\xFE" +
                      std::string(300, 'a') + std::string(100, ' ') + "\xEF\xB7\xBA");
  return *kText;
}

class FolderMutations : public testing::Test {
 protected:
  /// `load` gives the status of loading the folder as it is now.
  template <typename Load>
  void Check(const std::string& what, const Load& load) {
    if (HasFatalFailure()) return;
    SCOPED_TRACE(what);
    const auto begin = std::chrono::steady_clock::now();
    const absl::Status status = load();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    ASSERT_LE(seconds.count(), kMaxSeconds);
    ++(status.ok() ? num_accepted_ : num_refused_);
    if (status.ok()) return;
    const bool expected = status.code() == absl::StatusCode::kInvalidArgument ||
                          status.code() == absl::StatusCode::kNotFound ||
                          status.code() == absl::StatusCode::kUnimplemented;
    ASSERT_TRUE(expected) << status;
    const std::string message(status.message());
    ASSERT_THAT(message, testing::HasSubstr(folder_.path()));
    ASSERT_LE(message.size(), 4 * folder_.path().size() + 700) << message;
    for (const char c : message) ASSERT_FALSE(c >= 0 && c < ' ') << message;
  }

  /// Loads all and runs a few tokens.
  absl::Status Run() const {
    const auto checkpoint = Checkpoint::Open(folder_.path());
    if (!checkpoint.ok()) return checkpoint.status();
    const auto description = DescribeModel(**checkpoint);
    if (!description.ok()) return description.status();
    auto loaded = LoadModelWithCache(options_);
    if (!loaded.ok()) return Acceptable(loaded.status());
    const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7};
    const std::vector<int32_t> pages = {0, 1, 2};
    Batch batch;
    batch.entries.push_back({.tokens = tokens,
                             .page_table = pages,
                             .num_selected_blocks = (*loaded)->runner->max_selected_blocks(),
                             .num_logit_rows = 1});
    batch.num_rows = static_cast<int64_t>(tokens.size());
    int num_logits = 0;
    (*loaded)->runner->Run(batch, [&](size_t, int64_t, float*) { ++num_logits; });
    EXPECT_EQ(num_logits, 1);
    return absl::OkStatus();
  }

  /// Limits of the options above, which are not about a file.
  absl::Status Acceptable(const absl::Status& status) const {
    const std::string message(status.message());
    for (const char* word : {"--max_context", "KV cache", "not enough memory"}) {
      if (message.find(word) != std::string::npos) return absl::OkStatus();
    }
    return status;
  }

  /// Loads the text side and uses it.
  absl::Status Text() const {
    const auto folder = ModelFolder::Open(folder_.path());
    if (!folder.ok()) return folder.status();
    const auto text = LoadFolderText(**folder, TinyFolder::kVocabulary);
    if (!text.ok()) return text.status();
    const Tokenizer& tokenizer = *text->tokenizer;
    for (const bool special : {true, false}) {
      const std::vector<int32_t> ids = tokenizer.Encode(
          SampleText(), {.add_special_tokens = true, .parse_special_tokens = special});
      for (const int32_t id : ids) {
        EXPECT_GE(id, 0);
        EXPECT_LT(id, tokenizer.vocabulary_size());
      }
      tokenizer.Decode(ids, special);
    }
    for (int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) tokenizer.TokenBytes(id);
    return absl::OkStatus();
  }

  void CheckConfigs(const json& config) {
    folder_.WriteJson("config.json", config);
    const absl::Status whole = Run();
    ASSERT_TRUE(whole.ok()) << whole;
    MutateJson(config, 100, [&](const json& mutant, const std::string& what) {
      folder_.WriteJson("config.json", mutant);
      Check(what, [&] { return Run(); });
    });
    MutateAtRandom(config.dump(), NumMutants(), [&](const std::string& mutant) {
      folder_.Write("config.json", mutant);
      Check(mutant, [&] { return Run(); });
    });
  }

  void CheckTokenizers(const json& tokenizer) {
    folder_.WriteJson("tokenizer.json", tokenizer);
    const absl::Status whole = Text();
    ASSERT_TRUE(whole.ok()) << whole;
    MutateJson(tokenizer, kMaxMembers, [&](const json& mutant, const std::string& what) {
      folder_.WriteJson("tokenizer.json", mutant);
      Check(what, [&] { return Text(); });
    });
    MutateAtRandom(tokenizer.dump(), NumMutants(), [&](const std::string& mutant) {
      folder_.Write("tokenizer.json", mutant);
      Check("random", [&] { return Text(); });
    });
  }

  void SetUp() override {
    options_.model_path = folder_.path();
    options_.kv_cache_gib = 0.01;
    options_.max_context = 128;
    options_.num_threads = 1;
    options_.max_step_tokens = 16;
  }

  void TearDown() override {
    EXPECT_GT(num_refused_, 20);
    EXPECT_GT(num_accepted_, 10);
    RecordProperty("refused", num_refused_);
    RecordProperty("accepted", num_accepted_);
  }

  TinyFolder folder_;
  EngineOptions options_;
  int num_accepted_ = 0;
  int num_refused_ = 0;
};

json Llama() {
  json config = TinyFolder::Config();
  config["attention_bias"] = false;
  config["mlp_bias"] = false;
  config["partial_rotary_factor"] = 0.5;
  config["layer_types"] = {"sliding_attention"};
  config["sliding_window"] = 8;
  return config;
}

json WithScaling(const json& scaling) {
  json config = TinyFolder::Config();
  config["rope_scaling"] = scaling;
  return config;
}

TEST_F(FolderMutations, Llama) { CheckConfigs(Llama()); }

// What hangs together runs, or is refused by name.
TEST_F(FolderMutations, OddSizes) {
  using Sizes = TinyFolder::Sizes;
  std::vector<Sizes> all;
  for (const int64_t size : {1, 2, 3, 7, 31, 33, 100, 257}) {
    all.push_back({.hidden = size});
    all.push_back({.ffn = size});
    all.push_back({.hidden = size, .ffn = size, .head_dim = 2 * size});
    all.push_back({.head_dim = size});
    all.push_back({.q_heads = size, .kv_heads = size, .head_dim = 2});
    all.push_back({.q_heads = size, .kv_heads = 1, .head_dim = 10});
  }
  for (const Sizes& sizes :
       {Sizes{.head_dim = 1024}, {.head_dim = 1026}, {.q_heads = 1024}, {.q_heads = 1025}}) {
    all.push_back(sizes);
  }
  for (const Sizes& sizes : all) {
    folder_.WriteJson("config.json", TinyFolder::Config(sizes));
    folder_.Write("model.safetensors",
                  TinyFolder::Safetensors(TinyFolder::Weights("model.", sizes)));
    const std::string what =
        "hidden " + std::to_string(sizes.hidden) + ", ffn " + std::to_string(sizes.ffn) +
        ", heads " + std::to_string(sizes.q_heads) + " of " + std::to_string(sizes.head_dim);
    for (const AttentionFlag attention : {AttentionFlag::kFull, AttentionFlag::kNsa}) {
      for (const WeightDtype dtype : {WeightDtype::kAuto, WeightDtype::kQ4_0}) {
        options_.attention = attention;
        options_.weight_dtype = dtype;
        Check(what, [&] { return Run(); });
      }
    }
  }
}

TEST_F(FolderMutations, RopeLlama3) {
  CheckConfigs(WithScaling({{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 64}}));
}

TEST_F(FolderMutations, RopeYarn) {
  CheckConfigs(WithScaling({{"type", "yarn"},
                            {"factor", 4.0},
                            {"beta_fast", 32.0},
                            {"beta_slow", 1.0},
                            {"mscale", 1.0},
                            {"mscale_all_dim", 0.5},
                            {"truncate", true},
                            {"attention_factor", 1.1},
                            {"original_max_position_embeddings", 64}}));
}

TEST_F(FolderMutations, RopeLong) {
  const std::vector<double> factors(8, 1.5);
  CheckConfigs(WithScaling({{"type", "longrope"},
                            {"short_factor", factors},
                            {"long_factor", factors},
                            {"factor", 4.0},
                            {"original_max_position_embeddings", 64}}));
}

TEST_F(FolderMutations, Qwen3) {
  const auto shapes = TinyFolder::WithHeadNorms(TinyFolder::Weights());
  folder_.Write("model.safetensors", TinyFolder::Safetensors(shapes));
  json config = TinyFolder::Config();
  config["model_type"] = "qwen3";
  config["use_sliding_window"] = true;
  config["sliding_window"] = 16;
  config["max_window_layers"] = 0;
  CheckConfigs(config);
}

TEST_F(FolderMutations, Gemma3WithImages) {
  const std::string prefix = "language_model.model.";
  const auto shapes = TinyFolder::WithPostNorms(
      TinyFolder::WithHeadNorms(TinyFolder::Weights(prefix), prefix), prefix);
  folder_.Write("model.safetensors", TinyFolder::Safetensors(shapes));
  json text = TinyFolder::Config();
  text.erase("hidden_act");
  text["hidden_activation"] = "gelu_pytorch_tanh";
  text["query_pre_attn_scalar"] = 16;
  text["sliding_window"] = 8;
  text["rope_local_base_freq"] = 1e4;
  text["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 8.0}};
  CheckConfigs({{"model_type", "gemma3"}, {"text_config", text}, {"eos_token_id", {1, 257}}});
}

TEST_F(FolderMutations, ByteTokenizer) { CheckTokenizers(TinyFolder::ByteTokenizer()); }
TEST_F(FolderMutations, CharacterTokenizer) { CheckTokenizers(TinyFolder::CharacterTokenizer()); }

TEST_F(FolderMutations, FilesBesideTheTokenizer) {
  const json settings = {{"bos_token", "<s>"},
                         {"eos_token", {{"content", "</s>"}}},
                         {"add_bos_token", true},
                         {"add_eos_token", false},
                         {"split_special_tokens", false},
                         {"chat_template", {{{"name", "default"}, {"template", "{{ 1 }}"}}}}};
  MutateJson(settings, kMaxMembers, [&](const json& mutant, const std::string& what) {
    folder_.WriteJson("tokenizer_config.json", mutant);
    Check(what, [&] { return Text(); });
  });
  const json generation = {{"eos_token_id", {257, 256}}};
  MutateJson(generation, kMaxMembers, [&](const json& mutant, const std::string& what) {
    folder_.WriteJson("generation_config.json", mutant);
    Check(what, [&] { return Text(); });
  });
}

TEST_F(FolderMutations, Safetensors) {
  const std::string bytes = TinyFolder::Safetensors(TinyFolder::Weights());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  const json header = json::parse(bytes.substr(8, header_bytes));
  const std::string data = bytes.substr(8 + header_bytes);
  MutateJson(header, 4, [&](const json& mutant, const std::string& what) {
    const std::string text = mutant.dump(-1, ' ', false, json::error_handler_t::ignore);
    folder_.Write("model.safetensors", TinyFolder::WithHeader(text, data));
    Check(what, [&] { return Run(); });
  });
  MutateAtRandom(header.dump(), NumMutants(), [&](const std::string& mutant) {
    folder_.Write("model.safetensors", TinyFolder::WithHeader(mutant, data));
    Check(mutant.substr(0, 100), [&] { return Run(); });
  });
  MutateNumbers<uint64_t>(bytes, 8, [&](const std::string& mutant) {
    folder_.Write("model.safetensors", mutant);
    Check("header's length", [&] { return Run(); });
  });
  for (size_t spaces = 0; spaces < 12; ++spaces) {  // data at any alignment
    const std::string text = header.dump() + std::string(spaces, ' ');
    folder_.Write("model.safetensors", TinyFolder::WithHeader(text, data));
    Check("alignment", [&] { return Run(); });
  }
}

TEST_F(FolderMutations, Index) {
  folder_.Remove("model.safetensors");
  folder_.Write("a.safetensors", TinyFolder::Safetensors(TinyFolder::Weights()));
  json map = json::object();
  for (const auto& [name, shape] : TinyFolder::Weights()) map[name] = "a.safetensors";
  const json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  const auto write = [&](const std::string& text) {
    folder_.Write("model.safetensors.index.json", text);
  };
  MutateJson(index, kMaxMembers, [&](const json& mutant, const std::string& what) {
    write(mutant.dump(-1, ' ', false, json::error_handler_t::ignore));
    Check(what, [&] { return Run(); });
  });
  MutateAtRandom(index.dump(), NumMutants(), [&](const std::string& mutant) {
    write(mutant);
    Check(mutant, [&] { return Run(); });
  });
}

}  // namespace
}  // namespace nsa::engine

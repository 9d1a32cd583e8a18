// What config.json says, by family, beside what its port in transformers makes of it.

#include "engine/models/family.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "engine/models/registry.h"
#include "engine/weights/checkpoint.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class FamilyTest : public testing::Test {
 protected:
  absl::StatusOr<DecoderDescription> Describe(const json& changes) {
    json config = TinyFolder::Config();
    for (const auto& [name, value] : changes.items()) {
      config[name] = value;
      if (value == "ABSENT") config.erase(name);
    }
    folder_.WriteJson("config.json", config);
    folder_.Write("model.safetensors", TinyFolder::Safetensors(shapes_));
    const auto checkpoint = Checkpoint::Open(folder_.path());
    if (!checkpoint.ok()) return checkpoint.status();
    return DescribeModel(**checkpoint);
  }

  ModelConfig Config(const json& changes) {
    const auto description = Describe(changes);
    EXPECT_TRUE(description.ok()) << description.status();
    return description.ok() ? description->config : ModelConfig();
  }

  std::string Refusal(const json& changes) {
    const auto description = Describe(changes);
    EXPECT_FALSE(description.ok()) << changes;
    return std::string(description.status().message());
  }

  void AddBiases(const std::string& name, int64_t size) {
    shapes_["model.layers.0." + name + ".bias"] = {size};
  }

  TinyFolder folder_;
  TinyFolder::Shapes shapes_ = TinyFolder::Weights();
};

TEST_F(FamilyTest, TakesNullForAbsent) {
  const ModelConfig config =
      Config({{"head_dim", nullptr}, {"rope_scaling", nullptr}, {"sliding_window", nullptr}});
  EXPECT_EQ(config.attention.head_dim_k, 16);
  EXPECT_EQ(config.vocabulary_size, TinyFolder::kVocabulary);
  EXPECT_EQ(Config({{"num_key_value_heads", nullptr}}).attention.num_kv_heads, 2);
}

TEST_F(FamilyTest, BoundsSizes) {
  EXPECT_THAT(Refusal({{"hidden_size", 0}}), AllOf(HasSubstr("hidden_size"), HasSubstr("is 0")));
  EXPECT_THAT(Refusal({{"num_hidden_layers", 100'000}}), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(Refusal({{"head_dim", 15}}), HasSubstr("even"));
  EXPECT_THAT(Refusal({{"rms_norm_eps", -1e-5}}), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(Refusal({{"num_key_value_heads", 3}}), HasSubstr("num_key_value_heads"));
  EXPECT_THAT(Refusal({{"partial_rotary_factor", 0.01}}), HasSubstr("rotated dimensions"));
  EXPECT_THAT(Refusal({{"rope_theta", 0}}),
              AllOf(HasSubstr("config.json"), HasSubstr("rope_theta")));
}

TEST_F(FamilyTest, WantsAMatrixForTheOutputUnlessTied) {
  EXPECT_THAT(Refusal({{"tie_word_embeddings", false}}), HasSubstr("lm_head.weight"));
  EXPECT_THAT(Refusal({{"tie_word_embeddings", "ABSENT"}}), HasSubstr("tie_word_embeddings"));
  EXPECT_TRUE(Config({}).tied_embeddings);
  shapes_["lm_head.weight"] = {TinyFolder::kVocabulary, TinyFolder::kHidden};
  EXPECT_FALSE(Config({{"tie_word_embeddings", "ABSENT"}}).tied_embeddings);
}

TEST_F(FamilyTest, RefusesToCutAModelShort) {
  for (const auto& [name, shape] : TinyFolder::Weights()) {
    if (const size_t at = name.find("layers.0."); at != std::string::npos) {
      shapes_[std::string(name).replace(at, 9, "layers.1.")] = shape;
    }
  }
  EXPECT_THAT(Refusal({}),
              AllOf(HasSubstr("model.layers.1."), HasSubstr("num_hidden_layers is 1")));
  EXPECT_EQ(Config({{"num_hidden_layers", 2}}).num_layers, 2);
}

TEST_F(FamilyTest, WantsBiasesWhereTheFlagsPromiseThem) {
  EXPECT_THAT(Refusal({{"attention_bias", true}}),
              AllOf(HasSubstr("q_proj.bias' is missing"), HasSubstr("attention_bias")));
  EXPECT_THAT(Refusal({{"mlp_bias", true}}), HasSubstr("gate_proj.bias"));
  EXPECT_THAT(Refusal({{"model_type", "qwen2"}}), HasSubstr("q_proj.bias' is missing"));
  AddBiases("self_attn.q_proj", 32);
  EXPECT_THAT(Refusal({}), AllOf(HasSubstr("q_proj.bias' is there"), HasSubstr("denies")));
  EXPECT_THAT(Refusal({{"model_type", "mistral"}}), HasSubstr("q_proj.bias' is there"));
  Config({{"model_type", "qwen2"}});
  AddBiases("self_attn.o_proj", 32);
  Config({{"attention_bias", true}});
  EXPECT_THAT(Refusal({{"model_type", "qwen2"}}), HasSubstr("o_proj.bias' is there"));
}

TEST_F(FamilyTest, MistralHasAWindowUnlessItIsNull) {
  const auto window = [&](const json& changes) {
    json all = {{"model_type", "mistral"}};
    for (const auto& [name, value] : changes.items()) all[name] = value;
    const ModelConfig config = Config(all);
    return config.layers.empty() ? -1 : config.layers[0].window_size;
  };
  EXPECT_EQ(window({}), 4096);
  EXPECT_EQ(window({{"sliding_window", nullptr}}), 0);
  EXPECT_EQ(window({{"sliding_window", 100}}), 100);
  EXPECT_THAT(Refusal({{"model_type", "mistral"}, {"sliding_window", 0}}),
              HasSubstr("sliding_window"));
}

TEST_F(FamilyTest, QwenHasWindowsFromALayerOn) {
  const auto window = [&](const json& changes) {
    json all = {{"model_type", "qwen3"}, {"sliding_window", 64}};
    for (const auto& [name, value] : changes.items()) all[name] = value;
    const ModelConfig config = Config(all);
    return config.layers.empty() ? -1 : config.layers[0].window_size;
  };
  EXPECT_EQ(window({}), 0);
  EXPECT_EQ(window({{"use_sliding_window", true}}), 0);  // from the 28th on
  EXPECT_EQ(window({{"use_sliding_window", true}, {"max_window_layers", 0}}), 64);
  EXPECT_EQ(window({{"use_sliding_window", false}, {"layer_types", {"sliding_attention"}}}), 0);
  EXPECT_THAT(Refusal({{"model_type", "qwen3"}, {"use_sliding_window", true}}),
              HasSubstr("sliding_window"));
  EXPECT_THAT(Refusal({{"layer_types", {"chunked_attention"}}}), HasSubstr("chunked_attention"));
}

TEST_F(FamilyTest, YarnServesAsFarAsItStretches) {
  const json scaling = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 256}};
  EXPECT_EQ(Config({{"rope_scaling", scaling}}).trained_context, 1024);
}

json GemmaText() {
  return {{"head_dim", 16},
          {"hidden_size", 32},
          {"intermediate_size", 32},
          {"num_hidden_layers", 1},
          {"num_key_value_heads", 1},
          {"num_attention_heads", 2},
          {"sliding_window", 8},
          {"model_type", "gemma3_text"},
          {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}};
}

TEST_F(FamilyTest, Gemma3HasTheDefaultsOfItsPort) {
  json changes = GemmaText();
  for (const char* key : {"hidden_act", "rope_theta", "tie_word_embeddings"}) {
    changes[key] = "ABSENT";
  }
  const ModelConfig config = Config(changes);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.activation, kernels::GateActivation::kGeluTanh);
  EXPECT_FLOAT_EQ(config.attention.scale, 1.0f / 16);  // query_pre_attn_scalar is 256
  EXPECT_FLOAT_EQ(config.embedding_scale, std::sqrt(32.0f));
  ASSERT_EQ(config.ropes.size(), 2u);
  EXPECT_EQ(config.ropes[0].theta, 1e6);
  EXPECT_EQ(config.ropes[0].factor, 8);
  EXPECT_EQ(config.ropes[1].theta, 1e4);
  EXPECT_EQ(config.ropes[1].type, "default");
  EXPECT_EQ(config.layers[0].rope_index, 1);
  EXPECT_EQ(config.layers[0].window_size, 8);
}

TEST_F(FamilyTest, Gemma3HearsItsFields) {
  json changes = GemmaText();
  changes["query_pre_attn_scalar"] = 25;
  changes["hidden_activation"] = "silu";
  changes["rope_local_base_freq"] = 5000;
  changes["layer_types"] = {"full_attention"};
  const ModelConfig config = Config(changes);
  EXPECT_FLOAT_EQ(config.attention.scale, 0.2f);
  EXPECT_EQ(config.activation, kernels::GateActivation::kSilu);
  EXPECT_EQ(config.ropes[1].theta, 5000);
  EXPECT_EQ(config.layers[0].rope_index, 0);
  changes["use_bidirectional_attention"] = true;
  EXPECT_THAT(Refusal(changes), HasSubstr("use_bidirectional_attention"));
  changes.erase("use_bidirectional_attention");
  changes["final_logit_softcapping"] = 30.0;
  EXPECT_THAT(Refusal(changes), HasSubstr("final_logit_softcapping"));
  changes.erase("final_logit_softcapping");
  changes["query_pre_attn_scalar"] = 1e-300;
  EXPECT_THAT(Refusal(changes), HasSubstr("query_pre_attn_scalar"));
}

// Of the folders with images the text half is the same model, whichever way its tensors are named.
TEST_F(FamilyTest, Gemma3WithImagesIsItsTextHalf) {
  const ModelConfig text = Config(GemmaText());
  for (const std::string prefix : {"language_model.model.", "model.language_model."}) {
    shapes_ = TinyFolder::Weights(prefix);
    json part = GemmaText();
    part["max_position_embeddings"] = 256;
    part["rms_norm_eps"] = 1e-5;
    part["rope_theta"] = 10000.0;
    const auto both = Describe({{"model_type", "gemma3"}, {"text_config", part}});
    ASSERT_TRUE(both.ok()) << both.status();
    EXPECT_EQ(both->names.embedding, prefix + "embed_tokens");
    EXPECT_EQ(both->names.layer_prefix, prefix + "layers.");
    const ModelConfig& config = both->config;
    EXPECT_EQ(config.family, text.family);
    EXPECT_EQ(config.num_layers, text.num_layers);
    EXPECT_EQ(config.trained_context, text.trained_context);
    EXPECT_EQ(config.attention.scale, text.attention.scale);
    EXPECT_EQ(config.attention.num_kv_heads, text.attention.num_kv_heads);
    EXPECT_EQ(config.ropes[0].factor, text.ropes[0].factor);
    EXPECT_EQ(config.ropes[0].theta, text.ropes[0].theta);
    EXPECT_EQ(config.layers[0].window_size, text.layers[0].window_size);
  }
  // As published: the rest is the port's defaults.
  const auto sparse = Describe({{"model_type", "gemma3"}, {"text_config", {{"hidden_size", 32}}}});
  ASSERT_TRUE(sparse.ok()) << sparse.status();
  EXPECT_EQ(sparse->config.attention.num_q_heads, 8);
  EXPECT_EQ(sparse->config.attention.num_kv_heads, 4);
  EXPECT_EQ(sparse->config.attention.head_dim_k, 256);
  EXPECT_EQ(sparse->config.trained_context, 131072);
  EXPECT_THAT(Refusal({{"model_type", "gemma3"}}), HasSubstr("text_config"));
  EXPECT_THAT(Refusal({{"model_type", "gemma3"}, {"text_config", 1}}), HasSubstr("text_config"));
}

}  // namespace
}  // namespace nsa::engine

#ifndef NSA_TESTS_ENGINE_TINY_FOLDER_H_
#define NSA_TESTS_ENGINE_TINY_FOLDER_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace nsa::engine {

/// A checkpoint folder that its test owns: by default a llama of one layer that runs.
class TinyFolder {
 public:
  using json = nlohmann::json;
  using Shapes = std::map<std::string, std::vector<int64_t>>;

  static constexpr int64_t kHidden = 32, kFfn = 32, kVocabulary = 262;

  TinyFolder() {
    const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = testing::TempDir() + "nsa_" + std::to_string(getpid()) + "_" + test->test_suite_name() +
            "_" + test->name() + "_" + std::to_string(num_folders_++);
    std::filesystem::create_directories(path_);
    WriteJson("config.json", Config());
    WriteJson("tokenizer.json", ByteTokenizer());
    Write("model.safetensors", Safetensors(Weights()));
  }
  ~TinyFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TinyFolder(const TinyFolder&) = delete;
  TinyFolder& operator=(const TinyFolder&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, std::string_view bytes) const {
    std::ofstream file(path_ + "/" + name, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  void WriteJson(const std::string& name, const json& document) const {
    Write(name, document.dump(-1, ' ', false, json::error_handler_t::ignore));
  }
  void Remove(const std::string& name) const { std::filesystem::remove(path_ + "/" + name); }

  static json Config() {
    return {
        {"model_type", "llama"},  {"hidden_size", kHidden},         {"intermediate_size", kFfn},
        {"num_hidden_layers", 1}, {"num_attention_heads", 2},       {"num_key_value_heads", 1},
        {"head_dim", 16},         {"max_position_embeddings", 256}, {"rms_norm_eps", 1e-5},
        {"rope_theta", 10000.0},  {"hidden_act", "silu"},           {"tie_word_embeddings", true},
        {"eos_token_id", 257}};
  }

  struct Sizes {
    int64_t hidden = kHidden, ffn = kFfn, q_heads = 2, kv_heads = 1, head_dim = 16;
  };
  /// Of Config() with other sizes.
  static json Config(const Sizes& sizes) {
    json config = Config();
    config["hidden_size"] = sizes.hidden;
    config["intermediate_size"] = sizes.ffn;
    config["num_attention_heads"] = sizes.q_heads;
    config["num_key_value_heads"] = sizes.kv_heads;
    config["head_dim"] = sizes.head_dim;
    return config;
  }

  /// Of Config(sizes); `prefix` stands before "layers.0." and the like.
  static Shapes Weights(const std::string& prefix = "model.") { return Weights(prefix, Sizes()); }
  static Shapes Weights(const std::string& prefix, const Sizes& sizes) {
    const std::string layer = prefix + "layers.0.";
    const int64_t q_rows = sizes.q_heads * sizes.head_dim,
                  kv_rows = sizes.kv_heads * sizes.head_dim;
    return {{prefix + "embed_tokens.weight", {kVocabulary, sizes.hidden}},
            {prefix + "norm.weight", {sizes.hidden}},
            {layer + "input_layernorm.weight", {sizes.hidden}},
            {layer + "self_attn.q_proj.weight", {q_rows, sizes.hidden}},
            {layer + "self_attn.k_proj.weight", {kv_rows, sizes.hidden}},
            {layer + "self_attn.v_proj.weight", {kv_rows, sizes.hidden}},
            {layer + "self_attn.o_proj.weight", {sizes.hidden, q_rows}},
            {layer + "post_attention_layernorm.weight", {sizes.hidden}},
            {layer + "mlp.gate_proj.weight", {sizes.ffn, sizes.hidden}},
            {layer + "mlp.up_proj.weight", {sizes.ffn, sizes.hidden}},
            {layer + "mlp.down_proj.weight", {sizes.hidden, sizes.ffn}}};
  }
  /// What Qwen 3 and Gemma 3 have more.
  static Shapes WithHeadNorms(Shapes shapes, const std::string& prefix = "model.") {
    shapes[prefix + "layers.0.self_attn.q_norm.weight"] = {16};
    shapes[prefix + "layers.0.self_attn.k_norm.weight"] = {16};
    return shapes;
  }
  static Shapes WithPostNorms(Shapes shapes, const std::string& prefix = "model.") {
    shapes[prefix + "layers.0.pre_feedforward_layernorm.weight"] = {kHidden};
    shapes[prefix + "layers.0.post_feedforward_layernorm.weight"] = {kHidden};
    return shapes;
  }

  static std::string WithHeader(const std::string& header, const std::string& data) {
    const uint64_t size = header.size();
    std::string bytes(sizeof(size), '\0');
    std::memcpy(bytes.data(), &size, sizeof(size));
    return bytes + header + data;
  }
  static std::string Safetensors(const Shapes& shapes) {
    json header = json::object();
    std::string data;
    std::mt19937 random(5);
    for (const auto& [name, shape] : shapes) {
      const size_t begin = data.size();
      size_t count = 1;
      for (const int64_t size : shape) count *= static_cast<size_t>(size);
      for (size_t i = 0; i < count; ++i) {
        const float value = static_cast<float>(random() % 1000) / 2000 - 0.25f;
        data.append(reinterpret_cast<const char*>(&value), sizeof(value));
      }
      header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
    }
    return WithHeader(header.dump(), data);
  }

  /// The characters that stand for bytes in byte-level vocabularies.
  static std::string ByteCharacter(int byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    int character = byte;
    if (!printable) {
      character = 256;
      for (int other = 0; other < byte; ++other) {
        const bool shown = (other >= 0x21 && other <= 0x7E) || (other >= 0xA1 && other != 0xAD);
        character += shown ? 0 : 1;
      }
    }
    if (character < 0x80) return std::string(1, static_cast<char>(character));
    return {static_cast<char>(0xC0 | character >> 6), static_cast<char>(0x80 | (character & 0x3F))};
  }

  static json ByteTokenizer() {
    json vocabulary = json::object();
    for (int byte = 0; byte < 256; ++byte) vocabulary[ByteCharacter(byte)] = byte;
    vocabulary["th"] = 258;
    vocabulary["the"] = 259;
    return {{"version", "1.0"},
            {"added_tokens",
             {{{"id", 256}, {"content", "<s>"}, {"special", true}, {"normalized", false}},
              {{"id", 257}, {"content", "</s>"}, {"special", true}, {"lstrip", true}},
              {{"id", 260}, {"content", "<tool>"}, {"special", false}, {"rstrip", true}}}},
            {"normalizer", {{"type", "NFC"}}},
            {"pre_tokenizer",
             {{"type", "Sequence"},
              {"pretokenizers",
               {{{"type", "Digits"}, {"individual_digits", true}},
                {{"type", "Split"},
                 {"pattern", {{"Regex", "\\s+(?!\\S)| ?\\p{L}+|[^\\s\\p{L}]+|\\s+"}}},
                 {"behavior", "Isolated"},
                 {"invert", false}},
                {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
            {"post_processor",
             {{"type", "TemplateProcessing"},
              {"single",
               {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
              {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {256}}, {"tokens", {"<s>"}}}}}}}},
            {"decoder", {{"type", "ByteLevel"}}},
            {"model",
             {{"type", "BPE"},
              {"unk_token", nullptr},
              {"ignore_merges", false},
              {"vocab", vocabulary},
              {"merges", {"t h", json::array({"th", "e"})}}}}};
  }

  /// As tokenizer.json has what was a SentencePiece model.
  static json CharacterTokenizer() {
    json vocabulary = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"▁", 3}, {"a", 4},
                       {"b", 5},     {"ab", 6},  {"▁a", 7},   {"é", 8}, {"▁▁", 9}};
    for (int byte = 0; byte < 250; ++byte) {
      char name[8];
      std::snprintf(name, sizeof(name), "<0x%02X>", byte);
      vocabulary[name] = 10 + byte;
    }
    return {{"added_tokens",
             {{{"id", 0}, {"content", "<unk>"}, {"special", true}, {"single_word", false}},
              {{"id", 1}, {"content", "<s>"}, {"special", true}},
              {{"id", 2}, {"content", "</s>"}, {"special", true}}}},
            {"normalizer",
             {{"type", "Sequence"},
              {"normalizers",
               {{{"type", "Prepend"}, {"prepend", "▁"}},
                {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}}},
            {"pre_tokenizer", nullptr},
            {"post_processor",
             {{"type", "TemplateProcessing"},
              {"single",
               {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
              {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
            {"decoder",
             {{"type", "Sequence"},
              {"decoders",
               {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                {{"type", "ByteFallback"}},
                {{"type", "Fuse"}},
                {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", "<unk>"},
              {"fuse_unk", true},
              {"byte_fallback", true},
              {"vocab", vocabulary},
              {"merges", {"a b", "▁ a", "▁ ▁"}}}}};
  }

 private:
  static inline int num_folders_ = 0;
  std::string path_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_TINY_FOLDER_H_

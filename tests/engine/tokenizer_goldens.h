#ifndef NSA_TESTS_ENGINE_TOKENIZER_GOLDENS_H_
#define NSA_TESTS_ENGINE_TOKENIZER_GOLDENS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocabulary.h"
#include "engine/weights/gguf.h"

namespace nsa::engine {

inline std::string GoldenPath(const std::string& name) {
  const char* root = std::getenv("NSA_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/tests/golden/tokenizer/" + name;
}

/// What tests/golden/tokenizer/make.py wrote.
inline const nlohmann::json& Goldens() {
  static const auto* const kGoldens = [] {
    std::ifstream file(GoldenPath("goldens.json"));
    return new nlohmann::json(nlohmann::json::parse(file));
  }();
  return *kGoldens;
}

inline std::vector<std::string> GoldenTexts() {
  std::vector<std::string> texts;
  for (const std::string text : Goldens()["texts"]) {
    std::string bytes;
    EXPECT_TRUE(absl::Base64Unescape(text, &bytes));
    texts.push_back(bytes);
  }
  return texts;
}

inline std::vector<int32_t> Ids(const nlohmann::json& ids) {
  return ids.get<std::vector<int32_t>>();
}

inline Vocabulary ReadGoldenVocabulary(const std::string& name) {
  auto file = GgufFile::Open(GoldenPath(name));
  EXPECT_TRUE(file.ok()) << file.status();
  auto vocabulary = ReadVocabulary(**file);
  EXPECT_TRUE(vocabulary.ok()) << vocabulary.status();
  return *vocabulary;
}

inline std::unique_ptr<Tokenizer> LoadGguf(const std::string& path) {
  auto file = GgufFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  auto tokenizer = LoadTokenizer(**file);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_TOKENIZER_GOLDENS_H_

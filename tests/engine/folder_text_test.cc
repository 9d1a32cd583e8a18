#include "engine/tokenizer/folder_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "engine/weights/model_folder.h"
#include "tests/engine/tiny_folder.h"
#include "tests/engine/tokenizer_goldens.h"

namespace nsa::engine {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FolderTextTest : public testing::Test {
 protected:
  absl::StatusOr<FolderText> TryLoad() {
    const auto folder = ModelFolder::Open(folder_.path());
    if (!folder.ok()) return folder.status();
    return LoadFolderText(**folder, TinyFolder::kVocabulary);
  }
  FolderText Load() {
    auto text = TryLoad();
    EXPECT_TRUE(text.ok()) << text.status();
    return *std::move(text);
  }
  std::string Refusal() {
    const auto text = TryLoad();
    EXPECT_FALSE(text.ok());
    return std::string(text.status().message());
  }

  TinyFolder folder_;
};

TEST_F(FolderTextTest, CollectsEndTokensOfAllFiles) {
  folder_.WriteJson("generation_config.json", {{"eos_token_id", {260, 257}}});
  EXPECT_THAT(Load().tokenizer->stop_ids(), ElementsAre(257, 260));
  folder_.WriteJson("tokenizer_config.json", {{"eos_token", "<s>"}});
  EXPECT_THAT(Load().tokenizer->stop_ids(), ElementsAre(256, 257, 260));
  folder_.WriteJson("generation_config.json", {{"eos_token_id", "x"}});
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("generation_config.json"), HasSubstr("eos_token_id")));
}

TEST_F(FolderTextTest, FindsTheNamesOfTokensInEitherFile) {
  folder_.WriteJson("special_tokens_map.json",
                    {{"bos_token", "<s>"}, {"eos_token", {{"content", "</s>"}}}});
  EXPECT_EQ(Load().bos_token, "<s>");
  EXPECT_EQ(Load().eos_token, "</s>");
  folder_.WriteJson("tokenizer_config.json", {{"bos_token", {{"content", "<tool>"}}}});
  EXPECT_EQ(Load().bos_token, "<tool>");
  EXPECT_EQ(Load().eos_token, "</s>");
  folder_.WriteJson("tokenizer_config.json", {{"bos_token", 5}});
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("bos_token")));
}

TEST_F(FolderTextTest, HearsWhichTokensToAdd) {
  folder_.WriteJson("tokenizer_config.json", {{"bos_token", "<s>"},
                                              {"eos_token", "</s>"},
                                              {"add_bos_token", false},
                                              {"add_eos_token", true}});
  EXPECT_THAT(Load().tokenizer->Encode("a", {}), ElementsAre('a', 257));
  folder_.WriteJson("tokenizer_config.json", {{"add_bos_token", "yes"}});
  EXPECT_THAT(Refusal(), HasSubstr("add_bos_token"));
  folder_.WriteJson("tokenizer_config.json", {{"split_special_tokens", true}});
  EXPECT_THAT(Refusal(), HasSubstr("split_special_tokens"));
}

TEST_F(FolderTextTest, RefusesTokensAddedToASentencePieceModel) {
  std::ifstream model(GoldenPath("tiny_unigram.model"), std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(model)),
                          std::istreambuf_iterator<char>());
  folder_.Remove("tokenizer.json");
  folder_.Write("tokenizer.model", bytes);
  const int32_t num_pieces = Load().tokenizer->vocabulary_size();
  folder_.WriteJson("added_tokens.json", {{"<s>", 1}, {"<pad>", num_pieces}});
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("added_tokens.json"), HasSubstr("'<pad>'")));
  folder_.WriteJson("tokenizer_config.json", {{"pad_token", "<pad>"}});
  Load();
  folder_.WriteJson("added_tokens.json", {{"<x>", "1"}});
  EXPECT_THAT(Refusal(), HasSubstr("'<x>'"));
}

TEST_F(FolderTextTest, TakesTheChatTemplateOfItsOwnFileFirst) {
  EXPECT_FALSE(Load().chat_template.has_value());
  folder_.WriteJson("tokenizer_config.json", {{"chat_template", "a"}});
  EXPECT_EQ(Load().chat_template, "a");
  folder_.WriteJson(
      "tokenizer_config.json",
      {{"chat_template",
        {{{"name", "tool_use"}, {"template", "b"}}, {{"name", "default"}, {"template", "c"}}}}});
  EXPECT_EQ(Load().chat_template, "c");
  folder_.WriteJson("chat_template.json", {{"chat_template", "d"}});
  EXPECT_EQ(Load().chat_template, "d");
  folder_.Write("chat_template.jinja", "e");
  EXPECT_EQ(Load().chat_template, "e");
  folder_.Remove("chat_template.jinja");
  folder_.Remove("chat_template.json");
  folder_.WriteJson("tokenizer_config.json", {{"chat_template", 1}});
  EXPECT_THAT(Refusal(), HasSubstr("chat_template"));
}

}  // namespace
}  // namespace nsa::engine

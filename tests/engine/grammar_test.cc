#include "engine/grammar/grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/grammar/mask_worker.h"

namespace nsa::engine {
namespace {

using Kind = GrammarSpec::Kind;

/// A token a byte; 256 ends a completion, 257 to 259 are "true", " \"" and "ab".
class BytesTokenizer final : public Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions&) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string TokenBytes(int32_t id) const override {
    const char* const words[] = {"</s>", "true", " \"", "ab"};
    return id >= 256 ? words[id - 256] : std::string(1, static_cast<char>(id));
  }
  std::string Decode(const std::vector<int32_t>& ids, bool) const override {
    std::string text;
    for (const int32_t id : ids) text += TokenBytes(id);
    return text;
  }
  int32_t vocabulary_size() const override { return 260; }
  bool IsSpecial(int32_t id) const override { return id == kEnd; }
  int32_t bos_id() const override { return -1; }
  const std::vector<int32_t>& stop_ids() const override { return stop_ids_; }
  std::string kind() const override { return "bytes"; }
  bool strips_leading_space() const override { return false; }

  static constexpr int32_t kEnd = 256;

 private:
  std::vector<int32_t> stop_ids_ = {kEnd};
};

class GrammarTest : public testing::Test {
 protected:
  // The model's vocabulary may be larger than the tokenizer's.
  std::unique_ptr<GrammarCompiler> compiler_ = GrammarCompiler::Create(&tokenizer_, 300, {});

  std::unique_ptr<GrammarMatcher> NewMatcher(const GrammarSpec& spec) {
    const auto grammar = compiler_->Compile(spec);
    EXPECT_TRUE(grammar.ok()) << grammar.status();
    auto matcher = (*grammar)->NewMatcher();
    EXPECT_TRUE(matcher.ok()) << matcher.status();
    return *std::move(matcher);
  }

  static bool Allows(const GrammarMatcher& matcher, int32_t id) {
    return (matcher.mask()[static_cast<size_t>(id / 32)] >> (id % 32) & 1) != 0;
  }

  /// Whether the whole of `text` is of the form, byte by byte as a model would write it.
  bool Takes(const GrammarSpec& spec, const std::string& text) {
    const auto matcher = NewMatcher(spec);
    std::vector<int32_t> ids = tokenizer_.Encode(text, {});
    ids.push_back(BytesTokenizer::kEnd);
    for (const int32_t id : ids) {
      EXPECT_TRUE(matcher->Fill().ok());
      if (!Allows(*matcher, id)) return false;
      EXPECT_TRUE(matcher->Accept(id).ok());
    }
    return true;
  }

  BytesTokenizer tokenizer_;
};

TEST_F(GrammarTest, EachKindTakesWhatItSays) {
  const GrammarSpec object = {Kind::kJsonObject, "", {}};
  EXPECT_TRUE(Takes(object, R"({"a": [1, true, null], "b": {"c": "d\n"}})"));
  EXPECT_TRUE(Takes(object, "{}"));
  EXPECT_FALSE(Takes(object, "[1]"));
  EXPECT_FALSE(Takes(object, R"({"a": })"));
  const GrammarSpec schema = {
      Kind::kJsonSchema,
      R"({"type":"object","properties":{"age":{"type":"integer"}},"required":["age"]})",
      {}};
  EXPECT_TRUE(Takes(schema, R"({"age": 12})"));
  EXPECT_FALSE(Takes(schema, R"({"age": "12"})"));
  EXPECT_FALSE(Takes(schema, R"({"name": 1})"));
  EXPECT_FALSE(Takes(schema, "{}"));
  const GrammarSpec regex = {Kind::kRegex, "[0-9]{3}-(ab|cd)+", {}};
  EXPECT_TRUE(Takes(regex, "123-abcd"));
  EXPECT_FALSE(Takes(regex, "123-"));
  EXPECT_FALSE(Takes(regex, "1234-ab"));
  const GrammarSpec grammar = {Kind::kGrammar, "root ::= sum\nsum ::= [0-9]+ (\"+\" sum)?", {}};
  EXPECT_TRUE(Takes(grammar, "1+22+3"));
  EXPECT_FALSE(Takes(grammar, "1+"));
}

TEST_F(GrammarTest, ChoicesAreTakenLiterally) {
  const std::vector<std::string> options = {"yes",  "no, \"never\"", "a\\b",    "line\nbreak",
                                            "\x01", "[a-z]+",        "größe 漢"};
  const GrammarSpec choice = {Kind::kChoice, "", options};
  for (const std::string& option : options) EXPECT_TRUE(Takes(choice, option)) << option;
  EXPECT_FALSE(Takes(choice, "ye"));
  EXPECT_FALSE(Takes(choice, "abc"));
  EXPECT_FALSE(Takes(choice, "yesno"));
}

TEST_F(GrammarTest, TokensOfSeveralBytesCount) {
  const auto matcher = NewMatcher({Kind::kRegex, "(ab)*c", {}});
  ASSERT_TRUE(matcher->Fill().ok());
  EXPECT_TRUE(Allows(*matcher, 259)) << "\"ab\"";
  EXPECT_TRUE(Allows(*matcher, 'a'));
  EXPECT_FALSE(Allows(*matcher, 257)) << "\"true\"";
  EXPECT_FALSE(Allows(*matcher, BytesTokenizer::kEnd));
  for (int32_t id = 260; id < 300; ++id) EXPECT_FALSE(Allows(*matcher, id)) << id;
  ASSERT_TRUE(matcher->Accept(259).ok());
  ASSERT_TRUE(matcher->Fill().ok());
  EXPECT_FALSE(matcher->Accept('b').ok()) << "was not allowed";
}

TEST_F(GrammarTest, SaysWhatIsWrong) {
  const GrammarSpec wrong[] = {
      {Kind::kJsonSchema, "{", {}},
      {Kind::kJsonSchema, R"({"type":"nothing"})", {}},
      {Kind::kJsonSchema, "[1, 2", {}},
      {Kind::kRegex, "(ab", {}},
      {Kind::kRegex, "a{3,1}", {}},
      {Kind::kRegex, "[z-a]", {}},
      {Kind::kGrammar, "root ::= other", {}},
      {Kind::kGrammar, "start ::= \"a\"", {}},
      {Kind::kGrammar, "root := [", {}},
      {Kind::kGrammar, "", {}},
      {Kind::kRegex, std::string("a\0b", 3), {}},
  };
  for (const GrammarSpec& spec : wrong) {
    const auto grammar = compiler_->Compile(spec);
    EXPECT_TRUE(absl::IsInvalidArgument(grammar.status())) << spec.text << grammar.status();
    EXPECT_EQ(grammar.status().message().find("structured_output"), 0u) << grammar.status();
    EXPECT_EQ(grammar.status().message().find(".cc"), std::string::npos) << grammar.status();
  }
}

std::string Repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

/// Hostile texts end in a bounded time with a clear status, and what comes next is served.
TEST_F(GrammarTest, HostileTextsAreBounded) {
  compiler_ =
      GrammarCompiler::Create(&tokenizer_, 300, {.cpu_seconds = 0.5, .bytes = int64_t{128} << 20});
  std::string wide = R"({"type":"object","properties":{)";
  for (int i = 0; i < 6000; ++i) {
    absl::StrAppend(&wide, i == 0 ? "" : ",", "\"property", i, "\":{\"type\":\"string\"}");
  }
  wide += "}}";
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 40; ++i)
    absl::StrAppend(&doubling, "r", i, " ::= r", i + 1, " r", i + 1, "\n");
  doubling += "r40 ::= \"a\"\n";
  const GrammarSpec hostile[] = {
      {Kind::kRegex, "((((((((((a{1,100}){1,100}){1,100}){1,100}){1,100}){1,100}))))))", {}},
      {Kind::kRegex, "a{1,1000000000}", {}},
      {Kind::kRegex, "(a|aa|aaa)*(a|aa|aaa)*(a|aa|aaa)*(a|aa|aaa)*b", {}},
      {Kind::kRegex, "(.*a){200}", {}},
      {Kind::kRegex, Repeated("(", 5000) + "a" + Repeated(")", 5000), {}},
      {Kind::kRegex, Repeated("(", 199) + "a" + Repeated(")*", 199), {}},
      {Kind::kRegex, Repeated("(a|b)?", 5000), {}},
      {Kind::kRegex, std::string(10 << 20, 'a'), {}},
      {Kind::kRegex, std::string(256 << 10, 'a'), {}},
      {Kind::kJsonSchema, R"({"$ref":"#"})", {}},
      {Kind::kJsonSchema, R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}})", {}},
      {Kind::kJsonSchema, R"({"type":"object","properties":{"next":{"$ref":"#"}}})", {}},
      {Kind::kJsonSchema, R"({"type":"array","minItems":100000000})", {}},
      {Kind::kJsonSchema, R"({"type":"string","minLength":1000000000})", {}},
      {Kind::kJsonSchema, R"({"type":"integer","minimum":-9e300,"maximum":9e300})", {}},
      {Kind::kJsonSchema, Repeated("[", 100000), {}},
      {Kind::kJsonSchema, Repeated(R"({"items":)", 150) + "{}" + Repeated("}", 150), {}},
      {Kind::kJsonSchema, Repeated(R"({"anyOf":[{},)", 150) + "{}" + Repeated("]}", 150), {}},
      {Kind::kJsonSchema, wide, {}},
      {Kind::kGrammar, "root ::= root", {}},
      {Kind::kGrammar, "root ::= root root | \"\"", {}},
      {Kind::kGrammar, doubling, {}},
      {Kind::kGrammar, "root ::= " + Repeated("(", 5000) + "\"a\"" + Repeated(")", 5000), {}},
      {Kind::kGrammar, "root ::= \"a\"{1,1000000000}", {}},
  };
  for (const GrammarSpec& spec : hostile) {
    SCOPED_TRACE(spec.text.substr(0, 80));
    const absl::Time began = absl::Now();
    const auto grammar = compiler_->Compile(spec);
    if (!grammar.ok()) {
      EXPECT_TRUE(absl::IsInvalidArgument(grammar.status()) ||
                  absl::IsResourceExhausted(grammar.status()))
          << grammar.status();
    } else {
      const auto matcher = (*grammar)->NewMatcher();
      ASSERT_TRUE(matcher.ok());
      for (int i = 0; i < 50; ++i) {
        const absl::Status filled = (*matcher)->Fill();
        if (!filled.ok()) {
          EXPECT_TRUE(absl::IsResourceExhausted(filled)) << filled;
          break;
        }
        if (!Allows(**matcher, 'a') || !(*matcher)->Accept('a').ok()) break;
      }
    }
    // The bound is of CPU time, and a busy machine gives little of that.
    EXPECT_LT(absl::Now() - began, absl::Seconds(20));
  }
  EXPECT_TRUE(Takes({Kind::kRegex, "a+", {}}, "aaa"));
}

/// What was used last stays, and the bound holds.
TEST_F(GrammarTest, KeepsWhatWasUsedLast) {
  const GrammarSpec spec = {Kind::kRegex, "[a-c]+", {}};
  const auto first = compiler_->Compile(spec);
  EXPECT_EQ(compiler_->Compile(spec)->get(), first->get());
  const auto tiny = GrammarCompiler::Create(&tokenizer_, 300, {.cache_bytes = 1});
  const auto kept = tiny->Compile(spec);
  EXPECT_NE(tiny->Compile(spec)->get(), kept->get()) << "nothing fits";
  EXPECT_TRUE((*kept)->NewMatcher().ok()) << "who holds it may use it";
}

TEST_F(GrammarTest, MasksAreFilledOnAnotherThread) {
  MaskWorker worker;
  std::vector<std::unique_ptr<GrammarMatcher>> matchers;
  for (int i = 0; i < 8; ++i) {
    matchers.push_back(NewMatcher({Kind::kRegex, absl::StrCat(i, "+"), {}}));
  }
  for (int round = 0; round < 20; ++round) {
    for (const auto& matcher : matchers) worker.Add(matcher.get());
    for (int i = 7; i >= 0; --i) {
      GrammarMatcher& matcher = *matchers[static_cast<size_t>(i)];
      ASSERT_TRUE(worker.Wait(&matcher).ok());
      EXPECT_TRUE(Allows(matcher, '0' + i));
      EXPECT_EQ(Allows(matcher, BytesTokenizer::kEnd), round > 0);
      ASSERT_TRUE(matcher.Accept('0' + i).ok());
    }
  }
}

TEST_F(GrammarTest, AVocabularyWithoutAnEndIsRefused) {
  class Endless final : public Tokenizer {
   public:
    std::vector<int32_t> Encode(std::string_view, const EncodeOptions&) const override {
      return {};
    }
    std::string TokenBytes(int32_t) const override { return "a"; }
    std::string Decode(const std::vector<int32_t>&, bool) const override { return ""; }
    int32_t vocabulary_size() const override { return 1; }
    bool IsSpecial(int32_t) const override { return false; }
    int32_t bos_id() const override { return -1; }
    const std::vector<int32_t>& stop_ids() const override { return none_; }
    std::string kind() const override { return "endless"; }
    bool strips_leading_space() const override { return false; }

   private:
    std::vector<int32_t> none_;
  };
  const Endless tokenizer;
  const auto grammar = GrammarCompiler::Create(&tokenizer, 1, {})->Compile({Kind::kRegex, "a", {}});
  EXPECT_TRUE(absl::IsInvalidArgument(grammar.status())) << grammar.status();
}

}  // namespace
}  // namespace nsa::engine

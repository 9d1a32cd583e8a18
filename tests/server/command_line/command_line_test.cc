#include "server/command_line/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"

ABSL_FLAG(std::string, word, "none", "a word");
ABSL_FLAG(int32_t, count, 4, "a number");
ABSL_FLAG(bool, loud, false, "a switch");
ABSL_FLAG(int32_t, hidden, 0, "in no group");

namespace nsa {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<FlagGroup>& Groups() {
  static const auto* const groups =
      new std::vector<FlagGroup>{{"Text", {"word", "loud"}}, {"Numbers", {"count"}}};
  return *groups;
}

class CommandLineTest : public ::testing::Test {
 protected:
  static absl::StatusOr<std::vector<std::string>> Parse(const std::vector<std::string>& arguments) {
    return ParseFlags(arguments, Groups());
  }

 private:
  absl::FlagSaver saver_;
};

TEST_F(CommandLineTest, EachForm) {
  const auto others = Parse({"first", "--word=a=b", "--count", "7", "--loud", "-5", "last"});
  ASSERT_TRUE(others.ok()) << others.status();
  EXPECT_THAT(*others, ElementsAre("first", "-5", "last"));
  EXPECT_EQ(absl::GetFlag(FLAGS_word), "a=b");
  EXPECT_EQ(absl::GetFlag(FLAGS_count), 7);
  EXPECT_TRUE(absl::GetFlag(FLAGS_loud));
  EXPECT_THAT(*Parse({"--noloud", "--word="}), IsEmpty());
  EXPECT_FALSE(absl::GetFlag(FLAGS_loud));
  EXPECT_EQ(absl::GetFlag(FLAGS_word), "");
  EXPECT_THAT(*Parse({"--count=1", "--count=2"}), IsEmpty());
  EXPECT_EQ(absl::GetFlag(FLAGS_count), 2) << "the last one counts";
  EXPECT_THAT(*Parse({"--", "--count=9"}), ElementsAre("--count=9"));
}

TEST_F(CommandLineTest, WrongOnesAreNamed) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--nope"}, "--nope"},
      {{"--nope=1"}, "--nope"},
      {{"--hidden=1"}, "--hidden"},
      {{"--count=x"}, "--count does not take 'x'"},
      {{"--count=1e9999"}, "--count"},
      {{"--count="}, "--count"},
      {{"--count"}, "--count needs a value"},
      {{"--loud=perhaps"}, "--loud does not take 'perhaps'"},
      {{"--nocount"}, "--nocount"},
      {{"--noword=1"}, "--noword"},
      {{"--=x"}, "--"},
      {{"--help=1"}, "--help"},
  };
  for (const auto& [arguments, word] : cases) {
    const auto others = Parse(arguments);
    EXPECT_EQ(others.status().code(), absl::StatusCode::kInvalidArgument) << arguments[0];
    EXPECT_THAT(std::string(others.status().message()), HasSubstr(word));
  }
}

TEST_F(CommandLineTest, HelpKeepsTheGivenOrder) {
  const std::string help = FlagHelp(Groups());
  EXPECT_THAT(help, HasSubstr("--count=4"));
  EXPECT_THAT(help, HasSubstr("a switch"));
  EXPECT_LT(help.find("Text"), help.find("--word"));
  EXPECT_LT(help.find("--word"), help.find("--loud"));
  EXPECT_LT(help.find("--loud"), help.find("Numbers"));
  EXPECT_EQ(help.find("hidden"), std::string::npos);
}

}  // namespace
}  // namespace nsa

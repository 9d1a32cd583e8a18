#include "server/security/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/security/api_key_file.h"

namespace nsa::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// SHA-256 of "abc" (FIPS 180-4's example) and of "".
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(ApiKeys, FindsTheNameOfAKey) {
  const auto keys = ApiKeys::Parse(absl::StrCat("# team keys\n\n  search\t", kAbc, "\r\n", "other ",
                                                std::string(64, 'A'), "\n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->size(), 2U);
  EXPECT_EQ(keys->NameOf("abc"), "search");
  for (const char* wrong : {"", "ab", "abcd", "ABC", kAbc}) EXPECT_EQ(keys->NameOf(wrong), "");
}

TEST(ApiKeys, SaysWhichLineIsWrongAndNotWhatItHolds) {
  const struct {
    std::string text;
    const char* message;
  } cases[] = {
      {"", "no key"},
      {"# nothing\n", "no key"},
      {"\nsecret\n", "line 2"},
      {absl::StrCat("name ", kAbc, " secret"), "line 1"},
      {"name secret", "line 1"},
      {absl::StrCat("name ", std::string(64, 'g')), "line 1"},
      {absl::StrCat("name ", kAbc, "00"), "line 1"},
      {absl::StrCat(std::string(200, 'n'), " ", kAbc), "line 1"},
      {absl::StrCat("a ", kAbc, "\nb ", kAbc), "line 2"},
  };
  for (const auto& c : cases) {
    const auto keys = ApiKeys::Parse(c.text);
    ASSERT_FALSE(keys.ok()) << c.text;
    EXPECT_THAT(std::string(keys.status().message()), HasSubstr(c.message));
    EXPECT_THAT(std::string(keys.status().message()), Not(HasSubstr("secret")));
  }
}

class ApiKeyFileTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) { std::ofstream(path_, std::ios::binary) << text; }
  ~ApiKeyFileTest() override { std::remove(path_.c_str()); }

  const std::string path_ = absl::StrCat(
      ::testing::TempDir(), "keys-",
      ::testing::UnitTest::GetInstance()->current_test_info()->name(), "-", ::getpid());
};

TEST_F(ApiKeyFileTest, FollowsTheFile) {
  Write(absl::StrCat("one ", kAbc));
  const auto file = ApiKeyFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->NameOf("abc"), "one");
  Write(absl::StrCat("two ", kEmpty));
  EXPECT_EQ((*file)->NameOf("abc"), "one") << "not before it is read again";
  (*file)->Refresh();
  EXPECT_EQ((*file)->NameOf("abc"), "");
  EXPECT_EQ((*file)->NameOf(""), "two");
}

TEST_F(ApiKeyFileTest, KeepsItsKeysWhereTheFileIsWrongOrGone) {
  Write(absl::StrCat("one ", kAbc));
  const auto file = ApiKeyFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  Write("half a li");
  (*file)->Refresh();
  EXPECT_EQ((*file)->NameOf("abc"), "one");
  std::remove(path_.c_str());
  (*file)->Refresh();
  EXPECT_EQ((*file)->NameOf("abc"), "one");
  Write(absl::StrCat("three ", kAbc));
  (*file)->Refresh();
  EXPECT_EQ((*file)->NameOf("abc"), "three");
}

TEST_F(ApiKeyFileTest, NamesTheFlagWhereItCannotBegin) {
  for (const std::string& path : {path_, ::testing::TempDir()}) {
    const auto file = ApiKeyFile::Open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("--api_keys_file"));
  }
}

}  // namespace
}  // namespace nsa::server

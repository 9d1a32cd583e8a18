#include "server/vllm/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace nsa::server {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ZipArchiveTest, Crc32HasTheValueThatItsStandardGives) {
  EXPECT_EQ(Crc32(""), 0U);
  EXPECT_EQ(Crc32("123456789"), 0xCBF43926U);
}

TEST(ZipArchiveTest, HoldsNamesAndContents) {
  const auto zip = MakeZip({{"a.json", "first"}, {"b", std::string("\0x", 2)}});
  ASSERT_TRUE(zip.ok());
  EXPECT_THAT(*zip, StartsWith(std::string("PK\x03\x04\x14\x00", 6)));
  EXPECT_THAT(*zip, HasSubstr("a.jsonfirst"));
  EXPECT_THAT(*zip, HasSubstr(std::string("b\0x", 3)));
  EXPECT_THAT(*zip, HasSubstr(std::string("PK\x05\x06\0\0\0\0\x02\0\x02\0", 12)));
  EXPECT_EQ(*MakeZip({{"a.json", "first"}}), *MakeZip({{"a.json", "first"}}));
}

TEST(ZipArchiveTest, AnEmptyArchiveIsItsEndAlone) {
  const auto zip = MakeZip({});
  ASSERT_TRUE(zip.ok());
  EXPECT_EQ(zip->size(), 22U);
  EXPECT_THAT(*zip, EndsWith(std::string(18, '\0')));
}

}  // namespace
}  // namespace nsa::server

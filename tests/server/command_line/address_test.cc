#include "server/command_line/address.h"

#include <gtest/gtest.h>

#include <string>

namespace nsa {
namespace {

TEST(Address, IsSplitIntoHostAndPort) {
  std::string host, port;
  ASSERT_TRUE(SplitAddress("[::1]:80", host, port));
  EXPECT_EQ(host, "::1");
  EXPECT_EQ(port, "80");
  ASSERT_TRUE(SplitAddress(":65535", host, port));
  EXPECT_EQ(host, "");
  for (const char* wrong : {"", "host", "host:", "host:x", "host:65536", "host:123456"}) {
    EXPECT_FALSE(SplitAddress(wrong, host, port)) << wrong;
  }
}

TEST(Address, LoopbackIsKnownByName) {
  for (const char* here : {"127.0.0.1:1", "127.1.2.3", "localhost:1", "localhost", "[::1]:1"}) {
    EXPECT_TRUE(IsLoopback(here)) << here;
  }
  for (const char* elsewhere : {"", ":1", "0.0.0.0:1", "[::]:1", "host:1", "128.0.0.1:1",
                                "localhost.example:1", "1127.0.0.1:1", "127.example.org:1"}) {
    EXPECT_FALSE(IsLoopback(elsewhere)) << elsewhere;
  }
}

}  // namespace
}  // namespace nsa

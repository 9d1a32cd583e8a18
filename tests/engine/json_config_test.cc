#include "engine/weights/json_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace nsa::engine {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

JsonConfig Parsed(std::string_view text) {
  auto config = JsonConfig::Parse(text, "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  return *std::move(config);
}

TEST(JsonConfig, ReadsFieldsByPath) {
  const JsonConfig config =
      Parsed(R"({"i":3,"f":2.5,"whole":4.0,"b":true,"s":"x","n":null,"a":[1,2],"t":["p","q"],)"
             R"("o":{"i":7,"p":{"q":1e3}}})");
  EXPECT_EQ(config.GetInt("i").value(), 3);
  EXPECT_EQ(config.GetInt("whole").value(), 4);
  EXPECT_EQ(config.GetFloat("i").value(), 3.0);
  EXPECT_EQ(config.GetFloat("o.p.q").value(), 1000.0);
  EXPECT_EQ(config.GetInt("o.i").value(), 7);
  EXPECT_TRUE(config.GetBool("b").value());
  EXPECT_EQ(config.GetString("s").value(), "x");
  EXPECT_THAT(config.GetInts("a").value(), ElementsAre(1, 2));
  EXPECT_THAT(config.GetStrings("t").value(), ElementsAre("p", "q"));
  EXPECT_FALSE(config.Has("n"));
  EXPECT_FALSE(config.Has("o.x"));
  EXPECT_FALSE(config.Has("s.x"));
  EXPECT_TRUE(config.IsObject("o"));
  EXPECT_TRUE(config.IsArray("a"));
}

TEST(JsonConfig, NamesFieldAndWhatItHolds) {
  const JsonConfig config = Parsed(R"({"s":"x","f":2.5,"a":[1,"y"],"big":18446744073709551615})");
  EXPECT_EQ(config.GetInt("none").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.GetInt("s").status().message()),
              AllOf(HasSubstr("config.json"), HasSubstr("'s'"), HasSubstr("an integer")));
  EXPECT_FALSE(config.GetInt("f").ok());
  EXPECT_FALSE(config.GetInt("big").ok());
  EXPECT_FALSE(config.GetInts("a").ok());
  EXPECT_FALSE(config.GetBool("s").ok());
}

TEST(JsonConfig, RefusesWhatIsNoObject) {
  const auto message = [](std::string_view text) {
    return std::string(JsonConfig::Parse(text, "f").status().message());
  };
  EXPECT_THAT(message("[1]"), HasSubstr("object at the top"));
  EXPECT_THAT(message("{\"a\":"), HasSubstr("no JSON at byte"));
  EXPECT_THAT(message(""), HasSubstr("no JSON"));
  EXPECT_THAT(message("{\"a\":1e999}"), HasSubstr("no JSON"));
  const std::string deep = "{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}";
  EXPECT_THAT(message(deep), HasSubstr("deeper"));
}

}  // namespace
}  // namespace nsa::engine

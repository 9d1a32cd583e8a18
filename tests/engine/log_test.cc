#include "engine/log.h"

#include <gtest/gtest.h>

#include <string>

#include "nlohmann/json.hpp"

namespace nsa {
namespace {

template <typename Body>
std::string Logged(Body body) {
  testing::internal::CaptureStderr();
  body();
  return testing::internal::GetCapturedStderr();
}

/// Without its time.
std::string Rest(const std::string& line) { return line.substr(line.find(' ') + 1); }

TEST(LogTest, TextNamesTheRequestFirst) {
  EXPECT_EQ(Rest(Logged([] { LOG(INFO) << "words " << 5; })), "INFO words 5\n");
  const log::RequestName both = {.id = "mine", .trace_id = "4bf9"};
  EXPECT_EQ(Rest(Logged([&] { LOG_REQUEST(ERROR, both) << "failed"; })),
            "ERROR request=\"mine\" trace=\"4bf9\" failed\n");
  const log::RequestName id = {.id = "mine", .trace_id = ""};
  EXPECT_EQ(Rest(Logged([&] { LOG_REQUEST(INFO, id) << "x"; })), "INFO request=\"mine\" x\n");
}

TEST(LogTest, AnIdIsNoSecondLine) {
  const log::RequestName name = {.id = "a\" x\n2026 ERROR \xff", .trace_id = ""};
  EXPECT_EQ(Rest(Logged([&] { LOG_REQUEST(INFO, name) << "x"; })),
            "INFO request=\"a\\\" x\\n2026 ERROR \\xff\" x\n");
}

TEST(LogTest, JsonHasFieldsOfTheirOwn) {
  log::SetFormat(log::Format::kJson);
  const log::RequestName name = {.id = "a\"\n\xff", .trace_id = "4bf9"};
  const std::string line = Logged([&] { LOG_REQUEST(WARNING, name) << "x"; });
  const std::string plain = Logged([&] { LOG(INFO) << "y"; });
  log::SetFormat(log::Format::kText);
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["request_id"], "a\"\n\xef\xbf\xbd");
  EXPECT_EQ(json["trace_id"], "4bf9");
  EXPECT_EQ(json["message"], "x");
  EXPECT_EQ(json["severity"], "WARNING");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_FALSE(nlohmann::json::parse(plain).contains("request_id"));
}

}  // namespace
}  // namespace nsa

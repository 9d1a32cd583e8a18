#include "engine/log.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace nsa::log {
namespace {

Format g_format = Format::kText;

const char* Name(Severity severity) {
  switch (severity) {
    case Severity::kInfo:
      return "INFO";
    case Severity::kWarning:
      return "WARNING";
    case Severity::kError:
      return "ERROR";
    case Severity::kFatal:
      return "FATAL";
  }
  return "?";
}

}  // namespace

void SetFormat(Format format) { g_format = format; }

Line::Line(Severity severity, std::string_view file, int line)
    : severity_(severity), file_(file.substr(file.rfind('/') + 1)), line_(line) {}

Line::~Line() {
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string text;
  if (g_format == Format::kJson) {
    const nlohmann::ordered_json object = {
        {"time", time},
        {"severity", Name(severity_)},
        {"source", std::string(file_) + ":" + std::to_string(line_)},
        {"message", stream_.str()}};
    text = object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  } else {
    text = time + " " + Name(severity_) + " " + stream_.str() + "\n";
  }
  std::fwrite(text.data(), 1, text.size(), stderr);  // one call, so lines of two threads do not mix
  if (severity_ == Severity::kFatal) std::abort();
}

}  // namespace nsa::log

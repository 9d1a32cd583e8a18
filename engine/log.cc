#include "engine/log.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/escaping.h"
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

Line::Line(Severity severity, std::string_view file, int line, const RequestName& request)
    : severity_(severity),
      file_(file.substr(file.rfind('/') + 1)),
      line_(line),
      request_id_(request.id),
      trace_id_(request.trace_id) {}

Line::~Line() {
  const std::string time =
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  std::string text;
  if (g_format == Format::kJson) {
    nlohmann::ordered_json object = {{"time", time},
                                     {"severity", Name(severity_)},
                                     {"source", std::string(file_) + ":" + std::to_string(line_)}};
    if (!request_id_.empty()) object["request_id"] = request_id_;
    if (!trace_id_.empty()) object["trace_id"] = trace_id_;
    object["message"] = stream_.str();
    text = object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  } else {
    text = time + " " + Name(severity_) + " ";
    // A client chose the id: it shall not look like another line.
    if (!request_id_.empty()) text += "request=\"" + absl::CHexEscape(request_id_) + "\" ";
    if (!trace_id_.empty()) text += "trace=\"" + absl::CHexEscape(trace_id_) + "\" ";
    text += stream_.str() + "\n";
  }
  std::fwrite(text.data(), 1, text.size(), stderr);  // one call, so lines of two threads do not mix
  if (severity_ == Severity::kFatal) std::abort();
}

}  // namespace nsa::log

#ifndef NSA_SERVER_TRACING_SPAN_H_
#define NSA_SERVER_TRACING_SPAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"

namespace nsa::server {

using AttributeValue = std::variant<std::string, int64_t, double, bool, std::vector<std::string>>;
using Attributes = std::vector<std::pair<std::string, AttributeValue>>;

/// A part of a request, as OpenTelemetry has it; all spans of one request are of its trace.
struct Span {
  enum class Kind : uint8_t { kInternal = 1, kServer = 2 };  // numbers of the wire

  std::string name;
  Kind kind = Kind::kInternal;
  std::string id;         // 16 hexadecimal digits
  std::string parent_id;  // likewise; empty: none
  absl::Time begin;
  absl::Time end;
  Attributes attributes;
  bool failed = false;
  std::string message;  // why, where that is not a client's own text
};

/// The spans of one request, the root first and every parent before its children.
struct SpanTree {
  std::string trace_id;
  std::string trace_state;
  bool has_remote_parent = false;  // of the root
  std::vector<Span> spans;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_SPAN_H_

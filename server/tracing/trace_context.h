#ifndef NSA_SERVER_TRACING_TRACE_CONTEXT_H_
#define NSA_SERVER_TRACING_TRACE_CONTEXT_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nsa::server {

/// A caller's place in a trace (W3C Trace Context).
struct TraceContext {
  std::string trace_id;  // 32 lower-case hexadecimal digits, not all zero
  std::string span_id;   // 16 such digits: the caller's span
  bool sampled = false;
  std::string state;  // tracestate: others' words, passed on as they are; may be empty
};

/// The values of `traceparent` and `tracestate` as they came, each as often as it came. Nothing
/// where there is no traceparent, more than one, or one that the specification calls invalid: the
/// trace then begins here. An invalid tracestate is left out.
std::optional<TraceContext> ParseTraceContext(const std::vector<std::string_view>& parents,
                                              const std::vector<std::string_view>& states);

/// So many random bytes in hexadecimal digits, not all zero. Any thread.
std::string RandomId(int num_bytes);

/// Whether a trace that begins here is recorded: `ratio` of all are, in [0, 1], and everybody who
/// asks with the same ratio decides alike about a trace.
bool IsSampled(std::string_view trace_id, double ratio);

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_TRACE_CONTEXT_H_

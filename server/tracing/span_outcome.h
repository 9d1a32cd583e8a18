#ifndef NSA_SERVER_TRACING_SPAN_OUTCOME_H_
#define NSA_SERVER_TRACING_SPAN_OUTCOME_H_

#include <cstdint>
#include <string_view>

namespace nsa::server {

/// What became of a span: it was lost where too many waited for the file, or the file took none.
enum class SpanOutcome : uint8_t { kWritten, kQueueFull, kWriteFailed };
/// The enumerators as metrics know them.
inline constexpr std::string_view kSpanOutcomes[] = {"written", "queue_full", "write_failed"};

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_SPAN_OUTCOME_H_

#ifndef NSA_SERVER_TRACING_OTLP_JSON_H_
#define NSA_SERVER_TRACING_OTLP_JSON_H_

#include <string>

#include "server/tracing/span.h"

namespace nsa::server {

/// Spans as lines of OTLP/JSON, each a whole TracesData, as OpenTelemetry's file exporter writes
/// and the collector's otlpjsonfile receiver reads them: ids in hexadecimal digits, 64-bit numbers
/// as strings, enumerations as numbers. A line holds at most kMaxSpansOfLine spans, for readers
/// bound their lines. `resource`: who writes. What is not UTF-8 becomes U+FFFD.
std::string ToOtlpJson(const Attributes& resource, const SpanTree& tree);

inline constexpr size_t kMaxSpansOfLine = 256;

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_OTLP_JSON_H_

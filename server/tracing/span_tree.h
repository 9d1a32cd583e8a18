#ifndef NSA_SERVER_TRACING_SPAN_TREE_H_
#define NSA_SERVER_TRACING_SPAN_TREE_H_

#include <string>

#include "absl/status/status.h"
#include "server/tracing/call_record.h"
#include "server/tracing/span.h"

namespace nsa::server {

/// The spans of a call that has ended:
///
///   chat MODEL | text_completion MODEL     the whole call; its parent is the caller's span
///     prepare                              template, tokenizer, grammar
///     queue                                of each choice: accepted to first step
///     prefill                              … to first token
///       chunk                              one step, or several joined
///     decode                               … to the end
///       chunk                              computed again after a preemption
///     stream                               first message to the end of the call
///
/// A child's time lies within its parent's, whatever clocks did meanwhile.
SpanTree MakeSpanTree(const CallRecord& record, const std::string& model_name);

/// gRPC's name of a code: "DEADLINE_EXCEEDED".
std::string StatusName(absl::StatusCode code);

/// Whether the server has failed, rather than its client, by OpenTelemetry's conventions for gRPC.
bool IsServerError(absl::StatusCode code);

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_SPAN_TREE_H_

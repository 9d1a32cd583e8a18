#ifndef NSA_CLIENT_LOAD_TRACE_H_
#define NSA_CLIENT_LOAD_TRACE_H_

#include <istream>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/load/request.h"

namespace nsa::client {

/// Reads one JSON object a line: `prompt_tokens` and `output_tokens`, and where wanted `arrival_s`
/// (never less than the line's before; 0 where absent), `prefix_group` and `prefix_tokens` (both or
/// none), `priority`, `deadline_ms`, `cache_salt`, and `token_ids`, the prompt itself, whose number
/// `prompt_tokens` then is and may be left out. Empty lines are skipped. InvalidArgument names the
/// line, the field and what it may be; so for a trace without requests.
absl::StatusOr<std::vector<PlannedRequest>> ReadTrace(std::istream& input);

/// The same of a file. InvalidArgument where it cannot be read.
absl::StatusOr<std::vector<PlannedRequest>> ReadTraceFile(const std::string& path);

/// A request as such a line: what ReadTrace makes the same request of, but for `index` and
/// `warmup`, which are the reader's.
nlohmann::ordered_json TraceJson(const PlannedRequest& request);

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_TRACE_H_

#ifndef NSA_CLIENT_LOAD_LOAD_FLAGS_H_
#define NSA_CLIENT_LOAD_LOAD_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/load/statistics.h"
#include "client/load/workload.h"
#include "server/command_line/command_line.h"

namespace nsa::client {

struct LoadOptions {
  WorkloadOptions workload;
  std::optional<int64_t> concurrency;   // closed loop; none: open loop
  std::optional<int64_t> num_requests;  // none: no limit
  std::optional<double> duration_s;     // none: no limit
  int64_t warmup_requests = 0;
  std::string trace_file;  // empty: the requests are drawn
  double trace_speed = 1;
  std::string text_file;  // empty: prompts of random token ids
  std::string trace_out;  // empty: none
  std::string plan_out;   // empty: the requests are sent
  Slo slo;
  int64_t num_connections = 1;
  bool stop_at_eos = false;
};

/// The flags that `load` has and no other command.
const std::vector<FlagGroup>& LoadFlagGroups();

/// What --help adds on `load`.
const char* LoadHelp();

/// The name of a flag of `groups` that differs from its default; empty where there is none.
std::string FirstGivenFlag(const std::vector<FlagGroup>& groups);

/// InvalidArgument names a flag that is out of range, contradicts another or is missing.
absl::StatusOr<LoadOptions> LoadOptionsFromFlags();

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_LOAD_FLAGS_H_

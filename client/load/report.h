#ifndef NSA_CLIENT_LOAD_REPORT_H_
#define NSA_CLIENT_LOAD_REPORT_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "client/load/statistics.h"
#include "grpcpp/support/status.h"

namespace nsa::client {

/// "RESOURCE_EXHAUSTED" and so on.
const char* CodeName(grpc::StatusCode code);

/// What a report tells of a run beside its statistics.
struct RunDescription {
  std::string server = {};
  std::string model = {};
  std::string arrivals = {};  // "poisson", "constant", "trace" or "closed"
  double rate = 0;            // asked for, in requests/s; 0: none
  int64_t concurrency = 0;
  uint64_t seed = 0;
  bool interrupted = false;  // by a signal
  bool timed_out = false;    // --timeout_s
};

/// The whole report as one object; README.md lists its fields.
nlohmann::ordered_json ReportJson(const RunDescription& run, const Statistics& statistics);

/// The same for people, with a table of latencies in milliseconds.
std::string ReportText(const RunDescription& run, const Statistics& statistics);

/// One request as a line of --trace_out.
nlohmann::ordered_json RecordJson(const RequestRecord& record, const Slo& slo);

/// How a run ended. OK where every request was completed, rejected (RESOURCE_EXHAUSTED) or late
/// (DEADLINE_EXCEEDED), which a load test may be for, and one at least was completed. Otherwise the
/// code that most of the others, or of all, ended with. CANCELLED where it was interrupted,
/// DEADLINE_EXCEEDED where it timed out.
grpc::Status RunStatus(const RunDescription& run, const Statistics& statistics);

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_REPORT_H_

#ifndef NSA_CLIENT_LOAD_LOAD_H_
#define NSA_CLIENT_LOAD_LOAD_H_

#include "absl/status/status.h"
#include "client/load/load_flags.h"
#include "grpcpp/support/status.h"
#include "nsa/v1/inference.pb.h"

namespace nsa::client {

/// How a run of the load generator ended: with an error of usage (a file that cannot be read,
/// lengths that the server's context cannot hold), or with a status (RunStatus of report.h).
struct LoadOutcome {
  absl::Status usage;
  grpc::Status status;
};

/// Sends the load to ServerAddress() and prints the report to standard output, progress to a
/// terminal on standard error. `common` is what all requests have in common. Signals must be
/// blocked (interrupts.h); the first one cancels what runs and still reports.
LoadOutcome RunLoad(const LoadOptions& options, v1::GenerateRequest common);

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_LOAD_H_

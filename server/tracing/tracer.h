#ifndef NSA_SERVER_TRACING_TRACER_H_
#define NSA_SERVER_TRACING_TRACER_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "engine/request.h"
#include "grpcpp/support/string_ref.h"
#include "nsa/v1/inference.pb.h"
#include "server/tracing/call_record.h"
#include "server/tracing/trace_file.h"

namespace nsa::server {

/// Metadata of a call as gRPC gives it.
using CallMetadata = std::multimap<grpc::string_ref, grpc::string_ref>;

/// The caller's place in a trace; nothing where it says none, or none that can be read.
std::optional<TraceContext> TraceContextOf(const CallMetadata& metadata);

/// Decides which calls are recorded, and where their records go. Any thread.
class Tracer {
 public:
  struct Options {
    /// Of calls without a place in a trace; a caller's own decision holds for the others.
    double ratio = 1;
    bool logs_requests = false;  // a line for each
  };

  /// `file`: null: no spans.
  Tracer(const Options& options, std::unique_ptr<TraceFile> file)
      : options_(options), file_(std::move(file)) {}

  /// Of a call of `method` (CallRecord). A recorder between the engine and `sink`; null where
  /// nothing is wanted of this call.
  std::shared_ptr<CallRecorder> Begin(const std::string& method, const CallMetadata& metadata,
                                      const v1::GenerateRequest& request,
                                      const std::string& request_id,
                                      std::shared_ptr<engine::OutputSink> sink) const;

  /// The call is over; only the first time counts.
  void End(const std::shared_ptr<CallRecorder>& recorder, const absl::Status& status) const;

 private:
  const Options options_;
  const std::unique_ptr<TraceFile> file_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_TRACER_H_

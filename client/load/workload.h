#ifndef NSA_CLIENT_LOAD_WORKLOAD_H_
#define NSA_CLIENT_LOAD_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/load/distribution.h"
#include "client/load/random.h"
#include "client/load/request.h"

namespace nsa::client {

/// The requests of a run, in the order of their arrival.
class Workload {
 public:
  virtual ~Workload() = default;
  /// The next request; none where a trace has ended.
  virtual std::optional<PlannedRequest> Next() = 0;
  /// A request like those of the run; from 0, in order.
  virtual PlannedRequest Warmup(int64_t index) = 0;
};

struct WorkloadOptions {
  uint64_t seed = 0;
  double rate = 1;      // arrivals in a second
  bool poisson = true;  // gaps between arrivals are exponential; else all equal
  LengthDistribution prompt_tokens;
  LengthDistribution output_tokens;
  int64_t shared_prefix_tokens = 0;  // the first tokens of each prompt; 0: none
  int64_t num_prefixes = 1;          // each request begins with one of these, drawn evenly
  WeightedValues priorities;         // empty: 0
  WeightedValues deadlines_ms;       // empty or 0: none
  int64_t num_cache_salts = 0;       // each request has one of these, drawn evenly; 0: none
};

/// Requests drawn from distributions, without end. A prompt holds more than the shared prefix, and
/// prompt and output together at most `max_context` tokens: what is drawn outside is drawn again,
/// both lengths. InvalidArgument where the ends of fixed and uniform lengths break this, or where
/// of 1,000 draws less than 10 keep it.
absl::StatusOr<std::unique_ptr<Workload>> MakeWorkload(const WorkloadOptions& options,
                                                       int64_t max_context);

/// The requests of a trace, arrivals divided by `speed`. InvalidArgument names the first that does
/// not fit into `max_context` tokens.
absl::StatusOr<std::unique_ptr<Workload>> MakeTraceWorkload(std::vector<PlannedRequest> trace,
                                                            double speed, int64_t max_context);

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_WORKLOAD_H_

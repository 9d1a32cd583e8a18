#include "client/load/workload.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nsa::client {
namespace {

constexpr int kCheckDraws = 1000;
constexpr int kLeastFitting = 10;

struct Lengths {
  int64_t prompt = 0;
  int64_t output = 0;
};

/// What decides requests, apart from their arrivals.
struct Draws {
  Draws(uint64_t seed, uint64_t phase)
      : lengths(seed, RandomStream::kLengths, phase),
        prefix_groups(seed, RandomStream::kPrefixGroups, phase),
        priorities(seed, RandomStream::kPriorities, phase),
        deadlines(seed, RandomStream::kDeadlines, phase),
        cache_salts(seed, RandomStream::kCacheSalts, phase) {}
  Random lengths;
  Random prefix_groups;
  Random priorities;
  Random deadlines;
  Random cache_salts;
};

class DrawnWorkload final : public Workload {
 public:
  DrawnWorkload(const WorkloadOptions& options, int64_t max_context)
      : options_(options),
        max_context_(max_context),
        arrivals_(options.seed, RandomStream::kArrivals),
        draws_(options.seed, /*phase=*/0),
        warmup_draws_(options.seed, /*phase=*/1) {}

  absl::Status Check() const {
    const std::optional<int64_t> least = options_.prompt_tokens.smallest();
    if (least.has_value() && *least <= options_.shared_prefix_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--prompt_tokens begins at ", *least,
          "; a prompt is longer than --shared_prefix_tokens, which is part of it and has ",
          options_.shared_prefix_tokens));
    }
    const int64_t most =
        options_.prompt_tokens.largest().value_or(1) + options_.output_tokens.largest().value_or(1);
    if (most > max_context_) {
      return absl::InvalidArgumentError(
          absl::StrCat("--prompt_tokens and --output_tokens reach ", most,
                       " tokens together; the server's context has ", max_context_));
    }
    Random random(options_.seed, RandomStream::kLengthCheck);
    int fitting = 0;
    for (int i = 0; i < kCheckDraws; ++i) fitting += Fits(Draw(random)) ? 1 : 0;
    if (fitting >= kLeastFitting) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("of ", kCheckDraws, " draws of --prompt_tokens and --output_tokens only ",
                     fitting, " fit: a prompt of more than ", options_.shared_prefix_tokens,
                     " tokens, an output of at least 1, together at most ", max_context_,
                     " (the server's context)"));
  }

  std::optional<PlannedRequest> Next() override {
    PlannedRequest request = Fill(draws_);
    request.index = next_index_++;
    const double gap = options_.poisson ? arrivals_.Exponential() : 1;
    // Exact where gaps are equal: no sum of rounded ones.
    elapsed_gaps_ += gap;
    request.arrival_s = elapsed_gaps_ / options_.rate;
    return request;
  }

  PlannedRequest Warmup(int64_t index) override {
    PlannedRequest request = Fill(warmup_draws_);
    request.index = index;
    request.warmup = true;
    request.deadline_ms = 0;
    return request;
  }

 private:
  Lengths Draw(Random& random) const {
    const int64_t prompt = options_.prompt_tokens.Sample(random);
    return {prompt, options_.output_tokens.Sample(random)};
  }

  bool Fits(const Lengths& lengths) const {
    return lengths.prompt > options_.shared_prefix_tokens && lengths.output >= 1 &&
           lengths.prompt + lengths.output <= max_context_;
  }

  PlannedRequest Fill(Draws& draws) const {
    // Ends, for Check has seen that a hundredth of the draws fit.
    Lengths lengths = Draw(draws.lengths);
    while (!Fits(lengths)) lengths = Draw(draws.lengths);
    PlannedRequest request;
    request.prompt_tokens = lengths.prompt;
    request.output_tokens = lengths.output;
    request.prefix_tokens = options_.shared_prefix_tokens;
    if (request.prefix_tokens > 0) {
      request.prefix_group = draws.prefix_groups.Below(options_.num_prefixes);
    }
    if (!options_.priorities.empty()) {
      request.priority = static_cast<int32_t>(options_.priorities.Sample(draws.priorities));
    }
    if (!options_.deadlines_ms.empty()) {
      request.deadline_ms = options_.deadlines_ms.Sample(draws.deadlines);
    }
    if (options_.num_cache_salts > 0) {
      request.cache_salt = absl::StrCat("salt-", draws.cache_salts.Below(options_.num_cache_salts));
    }
    return request;
  }

  const WorkloadOptions options_;
  const int64_t max_context_;
  Random arrivals_;
  Draws draws_;
  Draws warmup_draws_;
  int64_t next_index_ = 0;
  double elapsed_gaps_ = 0;  // in units of a mean gap
};

class TraceWorkload final : public Workload {
 public:
  TraceWorkload(std::vector<PlannedRequest> trace, double speed)
      : trace_(std::move(trace)), speed_(speed) {}

  std::optional<PlannedRequest> Next() override {
    if (next_ == trace_.size()) return std::nullopt;
    PlannedRequest request = trace_[next_++];
    request.arrival_s /= speed_;
    return request;
  }

  PlannedRequest Warmup(int64_t index) override {
    PlannedRequest request = trace_[static_cast<size_t>(index) % trace_.size()];
    request.index = index;
    request.warmup = true;
    request.deadline_ms = 0;
    return request;
  }

 private:
  const std::vector<PlannedRequest> trace_;
  const double speed_;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Workload>> MakeWorkload(const WorkloadOptions& options,
                                                       int64_t max_context) {
  auto workload = std::make_unique<DrawnWorkload>(options, max_context);
  if (absl::Status status = workload->Check(); !status.ok()) return status;
  return workload;
}

absl::StatusOr<std::unique_ptr<Workload>> MakeTraceWorkload(std::vector<PlannedRequest> trace,
                                                            double speed, int64_t max_context) {
  for (const PlannedRequest& request : trace) {
    if (request.prompt_tokens + request.output_tokens > max_context) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--trace_file: request ", request.index, " (from 0) has ", request.prompt_tokens, " + ",
          request.output_tokens, " tokens; the server's context has ", max_context));
    }
  }
  return std::make_unique<TraceWorkload>(std::move(trace), speed);
}

}  // namespace nsa::client

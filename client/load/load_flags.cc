#include "client/load/load_flags.h"

#include "absl/flags/commandlineflag.h"
#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

// Numbers whose absence means something are texts.
ABSL_FLAG(std::string, rate, "",
          "open loop: so many requests arrive in a second, whatever became of others");
ABSL_FLAG(std::string, arrivals, "poisson",
          "of --rate: poisson (gaps are exponential) or constant (all gaps are equal)");
ABSL_FLAG(std::string, concurrency, "",
          "closed loop: so many users, each of whom asks again when answered");
ABSL_FLAG(std::string, trace_file, "",
          "requests and arrivals from JSON lines (below); closed with --concurrency");
ABSL_FLAG(double, trace_speed, 1, "arrivals of the trace come so many times as fast");
ABSL_FLAG(std::string, num_requests, "", "end after so many requests");
ABSL_FLAG(std::string, duration_s, "", "no request begins after so many seconds");
ABSL_FLAG(int64_t, warmup_requests, 0,
          "before the run, outside of its numbers; --concurrency at a time, open loop: 1");
ABSL_FLAG(uint64_t, workload_seed, 0, "decides arrivals, lengths and prompts");
ABSL_FLAG(int64_t, num_connections, 1, "connections that requests go over in turn");
ABSL_FLAG(std::string, prompt_tokens, "512", "lengths of prompts (below), with the shared prefix");
ABSL_FLAG(std::string, output_tokens, "128", "lengths of completions (below)");
ABSL_FLAG(bool, stop_at_eos, false,
          "completions may end at the model's end token; else at their length");
ABSL_FLAG(int64_t, shared_prefix_tokens, 0,
          "each prompt begins with so many tokens that others begin with too");
ABSL_FLAG(int64_t, num_prefixes, 1, "how many such beginnings there are");
ABSL_FLAG(std::string, text_file, "",
          "cut prompts from this text's tokens; default: random token ids");
ABSL_FLAG(std::string, priority_mix, "", "P:WEIGHT, comma-separated: priorities to draw from");
ABSL_FLAG(std::string, deadline_ms, "",
          "MS, or MS:WEIGHT, comma-separated: deadlines from the arrival; 0: none");
ABSL_FLAG(int64_t, num_cache_salts, 0, "tenants: each request has one of so many salts; 0: none");
ABSL_FLAG(std::string, slo_ttft_ms, "", "goodput: longest time to the first token");
ABSL_FLAG(std::string, slo_itl_ms, "", "goodput: longest gap between tokens");
ABSL_FLAG(std::string, slo_tpot_ms, "", "goodput: longest mean time of a token after the first");
ABSL_FLAG(std::string, slo_e2e_ms, "", "goodput: longest time to the end");
ABSL_FLAG(std::string, trace_out, "", "write a JSON line for each request to this file");
ABSL_FLAG(std::string, plan_out, "",
          "write the requests with their prompts' ids to this file, as a trace, and send none");

namespace nsa::client {
namespace {

constexpr double kMostRequests = 1e9;
constexpr double kMostSeconds = 1e6;
constexpr double kMostMs = 1e9;
constexpr double kMostTokens = 1 << 30;

struct Range {
  double low;
  double high;
  const char* expected;
};

absl::Status Bad(const char* flag, const std::string& value, const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is '", value, "', expected ", expected));
}

bool ParseNumber(const std::string& text, double* value) { return absl::SimpleAtod(text, value); }
bool ParseNumber(const std::string& text, int64_t* value) { return absl::SimpleAtoi(text, value); }

/// Sets `value` where the flag was given.
template <typename Number>
absl::Status Read(const absl::Flag<std::string>& flag, const char* name, const Range& range,
                  std::optional<Number>& value) {
  const std::string text = absl::GetFlag(flag);
  if (text.empty()) return absl::OkStatus();
  Number number{};
  // Comparisons are false for NaN.
  if (!ParseNumber(text, &number) ||
      !(static_cast<double>(number) >= range.low && static_cast<double>(number) <= range.high)) {
    return Bad(name, text, range.expected);
  }
  value = number;
  return absl::OkStatus();
}

template <typename Number>
absl::Status Check(const char* name, Number value, const Range& range) {
  const auto number = static_cast<double>(value);
  if (number >= range.low && number <= range.high) return absl::OkStatus();
  return Bad(name, absl::StrCat(value), range.expected);
}

absl::Status FirstError(std::initializer_list<absl::Status> results) {
  for (const absl::Status& status : results) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ReadLengths(const absl::Flag<std::string>& flag, const char* name,
                         LengthDistribution& lengths) {
  auto parsed = LengthDistribution::Parse(absl::GetFlag(flag));
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", name, ": ", parsed.status().message()));
  }
  lengths = *parsed;
  return absl::OkStatus();
}

absl::Status ReadMix(const absl::Flag<std::string>& flag, const char* name, double low, double high,
                     bool whole, WeightedValues& values) {
  auto parsed = WeightedValues::Parse(absl::GetFlag(flag), low, high, whole);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--", name, ": ", parsed.status().message()));
  }
  values = *std::move(parsed);
  return absl::OkStatus();
}

absl::Status ReadWorkload(WorkloadOptions& workload) {
  workload.seed = absl::GetFlag(FLAGS_workload_seed);
  workload.shared_prefix_tokens = absl::GetFlag(FLAGS_shared_prefix_tokens);
  workload.num_prefixes = absl::GetFlag(FLAGS_num_prefixes);
  workload.num_cache_salts = absl::GetFlag(FLAGS_num_cache_salts);
  const std::string arrivals = absl::GetFlag(FLAGS_arrivals);
  workload.poisson = arrivals == "poisson";
  if (!workload.poisson && arrivals != "constant") {
    return Bad("arrivals", arrivals, "poisson or constant");
  }
  std::optional<double> rate;
  const absl::Status status = FirstError({
      Read(FLAGS_rate, "rate", {1e-6, 1e6, "1e-6 to 1e6 requests in a second"}, rate),
      ReadLengths(FLAGS_prompt_tokens, "prompt_tokens", workload.prompt_tokens),
      ReadLengths(FLAGS_output_tokens, "output_tokens", workload.output_tokens),
      Check("shared_prefix_tokens", workload.shared_prefix_tokens, {0, kMostTokens, "0 to 2^30"}),
      Check("num_prefixes", workload.num_prefixes, {1, 1e9, "1 to 1e9"}),
      ReadMix(FLAGS_priority_mix, "priority_mix", -1e9, 1e9, true, workload.priorities),
      ReadMix(FLAGS_deadline_ms, "deadline_ms", 0, kMostMs, false, workload.deadlines_ms),
      Check("num_cache_salts", workload.num_cache_salts, {0, 1e9, "0 to 1e9"}),
  });
  workload.rate = rate.value_or(1);
  return status;
}

absl::Status ReadRun(LoadOptions& options) {
  const Range count = {1, kMostRequests, "1 to 1e9"};
  const Range limit = {1e-3, kMostMs, "0.001 to 1e9 milliseconds"};
  options.warmup_requests = absl::GetFlag(FLAGS_warmup_requests);
  options.trace_file = absl::GetFlag(FLAGS_trace_file);
  options.trace_speed = absl::GetFlag(FLAGS_trace_speed);
  options.text_file = absl::GetFlag(FLAGS_text_file);
  options.trace_out = absl::GetFlag(FLAGS_trace_out);
  options.plan_out = absl::GetFlag(FLAGS_plan_out);
  options.num_connections = absl::GetFlag(FLAGS_num_connections);
  options.stop_at_eos = absl::GetFlag(FLAGS_stop_at_eos);
  return FirstError({
      Read(FLAGS_concurrency, "concurrency", {1, 1e5, "1 to 100000"}, options.concurrency),
      Read(FLAGS_num_requests, "num_requests", count, options.num_requests),
      Read(FLAGS_duration_s, "duration_s", {1e-3, kMostSeconds, "0.001 to 1e6"},
           options.duration_s),
      Check("trace_speed", options.trace_speed, {1e-3, 1e6, "0.001 to 1e6"}),
      Check("warmup_requests", options.warmup_requests, {0, 1e6, "0 to 1e6"}),
      Check("num_connections", options.num_connections, {1, 1024, "1 to 1024"}),
      Read(FLAGS_slo_ttft_ms, "slo_ttft_ms", limit, options.slo.ttft_ms),
      Read(FLAGS_slo_itl_ms, "slo_itl_ms", limit, options.slo.itl_ms),
      Read(FLAGS_slo_tpot_ms, "slo_tpot_ms", limit, options.slo.tpot_ms),
      Read(FLAGS_slo_e2e_ms, "slo_e2e_ms", limit, options.slo.e2e_ms),
  });
}

absl::Status CheckTogether(const LoadOptions& options) {
  const bool open = !absl::GetFlag(FLAGS_rate).empty();
  if (!options.plan_out.empty() && options.concurrency.has_value()) {
    return absl::InvalidArgumentError(
        "--plan_out needs --rate or --trace_file: in a closed loop answers decide the arrivals");
  }
  if (!options.trace_file.empty()) {
    const std::string drawn = FirstGivenFlag(
        {{"",
          {"rate", "arrivals", "prompt_tokens", "output_tokens", "shared_prefix_tokens",
           "num_prefixes", "priority_mix", "deadline_ms", "num_cache_salts"}}});
    if (drawn.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--", drawn, " is for drawn requests; those of --trace_file have their own"));
  }
  if (absl::GetFlag(FLAGS_trace_speed) != 1) {
    return absl::InvalidArgumentError("--trace_speed is for --trace_file");
  }
  if (open == options.concurrency.has_value()) {
    return absl::InvalidArgumentError(
        "give --rate (open loop), --concurrency (closed loop) or --trace_file, one of them");
  }
  if (!options.workload.priorities.empty() && !FirstGivenFlag({{"", {"priority"}}}).empty()) {
    return absl::InvalidArgumentError("give --priority or --priority_mix, not both");
  }
  if (options.workload.num_cache_salts > 0 && !FirstGivenFlag({{"", {"cache_salt"}}}).empty()) {
    return absl::InvalidArgumentError("give --cache_salt or --num_cache_salts, not both");
  }
  if (!options.num_requests.has_value() && !options.duration_s.has_value()) {
    return absl::InvalidArgumentError("give --num_requests, --duration_s or both: the run's end");
  }
  if (options.workload.num_prefixes != 1 && options.workload.shared_prefix_tokens == 0) {
    return absl::InvalidArgumentError("--num_prefixes needs --shared_prefix_tokens");
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<FlagGroup>& LoadFlagGroups() {
  static const auto* const groups = new std::vector<FlagGroup>{
      {"load: arrivals",
       {"rate", "arrivals", "concurrency", "trace_file", "trace_speed", "num_requests",
        "duration_s", "warmup_requests", "workload_seed", "num_connections"}},
      {"load: requests",
       {"prompt_tokens", "output_tokens", "stop_at_eos", "shared_prefix_tokens", "num_prefixes",
        "text_file", "priority_mix", "deadline_ms", "num_cache_salts"}},
      {"load: report",
       {"slo_ttft_ms", "slo_itl_ms", "slo_tpot_ms", "slo_e2e_ms", "trace_out", "plan_out"}},
  };
  return *groups;
}

const char* LoadHelp() {
  return R"(
load sends requests, counts latencies from the arrival that was planned, and reports them.
  Lengths in tokens: N or fixed:N; uniform:A:B, both included; normal:MEAN:SIGMA;
  lognormal:MEDIAN:SIGMA (SIGMA of the logarithm); exponential:MEAN. What does not fit into the
  server's context is drawn again.
  A trace has a JSON object on each line: prompt_tokens and output_tokens; and where wanted
  arrival_s, ascending; prefix_group and prefix_tokens, the tokens at the prompt's beginning that
  requests of the group share; priority; deadline_ms; cache_salt; token_ids, the prompt itself in
  place of prompt_tokens. --plan_out writes one that others can send too: to the same server later,
  or to another one.
  TTFT: from the arrival to the first token. ITL: gaps between messages with tokens. TPOT: mean time
  of a token after the first. E2E: from the arrival to the end. All of completed requests alone.
  Goodput: requests completed within every --slo_* that is given, in a second.
  Flags of Sampling and Stopping apply to each request; --timeout_s to the whole run. Ctrl-C cancels
  what runs and reports what is done. Exit codes: 0 where requests were completed and the others
  rejected (RESOURCE_EXHAUSTED) or late (DEADLINE_EXCEEDED); otherwise the status code that most of
  the others ended with + 10; 11 after Ctrl-C; 14 after --timeout_s.
)";
}

std::string FirstGivenFlag(const std::vector<FlagGroup>& groups) {
  for (const FlagGroup& group : groups) {
    for (const std::string& name : group.flags) {
      const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
      if (flag->CurrentValue() != flag->DefaultValue()) return name;
    }
  }
  return "";
}

absl::StatusOr<LoadOptions> LoadOptionsFromFlags() {
  LoadOptions options;
  const absl::Status status =
      FirstError({ReadWorkload(options.workload), ReadRun(options), CheckTogether(options)});
  if (!status.ok()) return status;
  return options;
}

}  // namespace nsa::client

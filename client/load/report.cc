#include "client/load/report.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace nsa::client {
namespace {

using Json = nlohmann::ordered_json;
using grpc::StatusCode;

Json SummaryJson(const Summary& summary) {
  return {{"count", summary.count}, {"mean", summary.mean}, {"p50", summary.p50},
          {"p90", summary.p90},     {"p99", summary.p99},   {"max", summary.max}};
}

Json SloJson(const Slo& slo) {
  Json json = Json::object();
  const auto add = [&json](const char* name, const std::optional<double>& limit) {
    if (limit.has_value()) json[name] = *limit;
  };
  add("ttft_ms", slo.ttft_ms);
  add("itl_ms", slo.itl_ms);
  add("tpot_ms", slo.tpot_ms);
  add("e2e_ms", slo.e2e_ms);
  return json;
}

double Ratio(double numerator, double denominator) {
  return denominator > 0 ? numerator / denominator : 0;
}

double Share(int64_t part, int64_t whole) {
  return Ratio(static_cast<double>(part), static_cast<double>(whole));
}

/// From the start of the phase to the end of its last request: what rates are of.
double PerSecond(int64_t count, const Statistics& statistics) {
  return Ratio(static_cast<double>(count), statistics.last_end_s());
}

std::string Row(const char* name, const Summary& seconds) {
  return absl::StrFormat("%-12s%10.1f%10.1f%10.1f%10.1f%10.1f\n", name, 1e3 * seconds.mean,
                         1e3 * seconds.p50, 1e3 * seconds.p90, 1e3 * seconds.p99,
                         1e3 * seconds.max);
}

std::string SloText(const Slo& slo) {
  if (!slo.any()) return "no SLO given: all that completed";
  std::string text;
  const Json limits = SloJson(slo);
  for (const auto& [name, limit] : limits.items()) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", name, " <= ", limit.get<double>());
  }
  return text;
}

}  // namespace

const char* CodeName(StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  return code >= 0 && code < std::ssize(kNames) ? kNames[code] : "UNKNOWN";
}

Json ReportJson(const RunDescription& run, const Statistics& s) {
  Json codes = Json::object(), messages = Json::object();
  for (const auto& [code, count] : s.codes()) codes[CodeName(code)] = count;
  for (const auto& [code, message] : s.messages()) messages[CodeName(code)] = message;
  return {
      {"server", run.server},
      {"model", run.model},
      {"arrivals", run.arrivals},
      {"rate", run.rate},
      {"concurrency", run.concurrency},
      {"seed", run.seed},
      {"interrupted", run.interrupted},
      {"timed_out", run.timed_out},
      {"duration_s", s.last_end_s()},
      {"warmup", {{"requests", s.num_warmup()}, {"failed", s.num_warmup_failed()}}},
      {"requests",
       {{"sent", s.num_requests()},
        {"completed", s.num_completed()},
        {"rejected", s.num_rejected()},
        {"failed", s.num_failed()}}},
      {"codes", codes},
      {"messages", messages},
      {"retry_after_ms", SummaryJson(s.retry_after_ms())},
      {"tokens",
       {{"prompt", s.prompt_tokens()},
        {"cached", s.cached_tokens()},
        {"output", s.output_tokens()}}},
      {"throughput",
       {{"requests_per_s", PerSecond(s.num_completed(), s)},
        {"prompt_tokens_per_s", PerSecond(s.prompt_tokens(), s)},
        {"output_tokens_per_s", PerSecond(s.output_tokens(), s)}}},
      {"goodput",
       {{"slo", SloJson(s.slo())},
        {"requests", s.num_good()},
        {"fraction", Share(s.num_good(), s.num_requests())},
        {"requests_per_s", PerSecond(s.num_good(), s)}}},
      {"ttft_s", SummaryJson(s.ttft_s())},
      {"itl_s", SummaryJson(s.itl_s())},
      {"tpot_s", SummaryJson(s.tpot_s())},
      {"e2e_s", SummaryJson(s.e2e_s())},
      {"send_delay_s", SummaryJson(s.send_delay_s())},
  };
}

std::string ReportText(const RunDescription& run, const Statistics& s) {
  std::string text = absl::StrFormat("%s at %s, ", run.model, run.server);
  if (run.concurrency > 0) {
    absl::StrAppend(&text, "closed loop of ", run.concurrency);
  } else {
    absl::StrAppend(&text, "open loop, ", run.arrivals);
    if (run.rate > 0) absl::StrAppend(&text, " at ", run.rate, " requests/s");
  }
  absl::StrAppendFormat(&text, ", seed %d%s\n", run.seed,
                        run.interrupted ? ", interrupted"
                        : run.timed_out ? ", out of time"
                                        : "");
  absl::StrAppendFormat(
      &text, "requests    %d sent in %.2f s: %d completed, %d rejected, %d failed",
      s.num_requests(), s.last_end_s(), s.num_completed(), s.num_rejected(), s.num_failed());
  if (s.num_warmup() > 0) {
    absl::StrAppendFormat(&text, " (before: %d to warm up, %d failed)", s.num_warmup(),
                          s.num_warmup_failed());
  }
  absl::StrAppend(&text, "\n");
  for (const auto& [code, message] : s.messages()) {
    absl::StrAppendFormat(&text, "  %s: %d, first: %s\n", CodeName(code), s.count(code),
                          message.empty() ? "no further words" : message);
  }
  if (const Summary hint = s.retry_after_ms(); hint.count > 0) {
    absl::StrAppendFormat(&text, "  retry hints: %d, mean %.0f ms\n", hint.count, hint.mean);
  }
  absl::StrAppendFormat(&text, "tokens      %d prompt (%d cached), %d output\n", s.prompt_tokens(),
                        s.cached_tokens(), s.output_tokens());
  absl::StrAppendFormat(&text,
                        "throughput  %.2f requests/s, %.1f prompt tokens/s, %.1f output tokens/s\n",
                        PerSecond(s.num_completed(), s), PerSecond(s.prompt_tokens(), s),
                        PerSecond(s.output_tokens(), s));
  absl::StrAppendFormat(&text, "goodput     %.2f requests/s, %.1f %% of those sent (%s)\n",
                        PerSecond(s.num_good(), s), 100 * Share(s.num_good(), s.num_requests()),
                        SloText(s.slo()));
  absl::StrAppendFormat(&text, "%-12s%10s%10s%10s%10s%10s\n", "ms", "mean", "p50", "p90", "p99",
                        "max");
  absl::StrAppend(&text, Row("TTFT", s.ttft_s()), Row("ITL", s.itl_s()), Row("TPOT", s.tpot_s()),
                  Row("E2E", s.e2e_s()), Row("send delay", s.send_delay_s()));
  return text;
}

Json RecordJson(const RequestRecord& record, const Slo& slo) {
  const PlannedRequest& planned = record.planned;
  Json json = {
      {"index", planned.index},
      {"warmup", planned.warmup},
      {"scheduled_s", record.scheduled_s},
      {"sent_s", record.sent_s},
      {"end_s", record.end_s},
      {"code", CodeName(record.code)},
      {"prompt_tokens", planned.prompt_tokens},
      {"prefix_group", planned.prefix_tokens > 0 ? Json(planned.prefix_group) : Json()},
      {"prefix_tokens", planned.prefix_tokens},
      {"cached_tokens", record.cached_tokens},
      {"max_tokens", planned.output_tokens},
      {"output_tokens", record.output_tokens},
      {"priority", planned.priority},
      {"deadline_ms", planned.deadline_ms},
      {"cache_salt", planned.cache_salt},
      {"e2e_s", record.e2e_s()},
      {"good", slo.Met(record)},
  };
  if (record.first_token_s > 0) {
    json["ttft_s"] = record.ttft_s();
    json["max_itl_s"] = record.longest_gap_s();
  }
  if (const auto tpot = record.tpot_s()) json["tpot_s"] = *tpot;
  if (!record.finish_reason.empty()) json["finish_reason"] = record.finish_reason;
  if (!record.message.empty()) json["message"] = record.message;
  if (record.retry_after_ms.has_value()) json["retry_after_ms"] = *record.retry_after_ms;
  return json;
}

grpc::Status RunStatus(const RunDescription& run, const Statistics& statistics) {
  if (run.interrupted) {
    return {StatusCode::CANCELLED, "interrupted; the report tells of what was done"};
  }
  if (run.timed_out) {
    return {StatusCode::DEADLINE_EXCEEDED, "--timeout_s passed; the report tells of what was done"};
  }
  const bool any_completed = statistics.num_completed() > 0;
  StatusCode worst = StatusCode::OK;
  int64_t most = 0;
  for (const auto& [code, count] : statistics.codes()) {
    const bool expected =
        code == StatusCode::OK || (any_completed && (code == StatusCode::RESOURCE_EXHAUSTED ||
                                                     code == StatusCode::DEADLINE_EXCEEDED));
    if (expected || count <= most) continue;
    worst = code;
    most = count;
  }
  if (worst == StatusCode::OK) return grpc::Status::OK;
  return {worst, absl::StrCat(most, " requests, the first: ", statistics.messages().at(worst))};
}

}  // namespace nsa::client

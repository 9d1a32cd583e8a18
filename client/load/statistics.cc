#include "client/load/statistics.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace nsa::client {

double Quantile(const std::vector<double>& sorted, double fraction) {
  if (sorted.empty()) return 0;
  const double at = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  if (below + 1 >= sorted.size()) return sorted.back();
  const double weight = at - static_cast<double>(below);
  return sorted[below] + weight * (sorted[below + 1] - sorted[below]);
}

Summary Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.count = static_cast<int64_t>(values.size()),
          .mean = sum / static_cast<double>(values.size()),
          .p50 = Quantile(values, 0.5),
          .p90 = Quantile(values, 0.9),
          .p99 = Quantile(values, 0.99),
          .max = values.back()};
}

std::optional<double> RequestRecord::tpot_s() const {
  if (output_tokens < 2 || first_token_s <= 0) return std::nullopt;
  return (last_token_s - first_token_s) / static_cast<double>(output_tokens - 1);
}

double RequestRecord::longest_gap_s() const {
  return gaps_s.empty() ? 0 : *std::max_element(gaps_s.begin(), gaps_s.end());
}

bool Slo::Met(const RequestRecord& record) const {
  const auto within = [](double seconds, const std::optional<double>& limit_ms) {
    return !limit_ms.has_value() || 1000 * seconds <= *limit_ms;
  };
  return record.ok() && within(record.ttft_s(), ttft_ms) &&
         within(record.longest_gap_s(), itl_ms) && within(record.tpot_s().value_or(0), tpot_ms) &&
         within(record.e2e_s(), e2e_ms);
}

int64_t Statistics::count(grpc::StatusCode code) const {
  const auto found = codes_.find(code);
  return found == codes_.end() ? 0 : found->second;
}

void Statistics::Add(const RequestRecord& record) {
  if (record.planned.warmup) {
    ++num_warmup_;
    num_warmup_failed_ += record.ok() ? 0 : 1;
    return;
  }
  ++num_requests_;
  ++codes_[record.code];
  last_scheduled_s_ = std::max(last_scheduled_s_, record.scheduled_s);
  last_end_s_ = std::max(last_end_s_, record.end_s);
  send_delay_s_.push_back(record.sent_s - record.scheduled_s);
  if (record.retry_after_ms.has_value()) {
    retry_after_ms_.push_back(static_cast<double>(*record.retry_after_ms));
  }
  if (record.ok()) {
    AddCompleted(record);
  } else {
    messages_.emplace(record.code, record.message);  // keeps the first
  }
}

void Statistics::AddCompleted(const RequestRecord& record) {
  prompt_tokens_ += record.prompt_tokens;
  cached_tokens_ += record.cached_tokens;
  output_tokens_ += record.output_tokens;
  num_good_ += slo_.Met(record) ? 1 : 0;
  ttft_s_.push_back(record.ttft_s());
  e2e_s_.push_back(record.e2e_s());
  gaps_s_.insert(gaps_s_.end(), record.gaps_s.begin(), record.gaps_s.end());
  if (const auto tpot = record.tpot_s()) tpot_s_.push_back(*tpot);
}

}  // namespace nsa::client

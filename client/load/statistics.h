#ifndef NSA_CLIENT_LOAD_STATISTICS_H_
#define NSA_CLIENT_LOAD_STATISTICS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/load/request.h"
#include "grpcpp/support/status.h"

namespace nsa::client {

/// Of a set of numbers. All are 0 where there are none.
struct Summary {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double max = 0;
};

Summary Summarize(std::vector<double> values);

/// The value below which `fraction`, 0 to 1, of `sorted` lies, linear between two neighbours (as
/// numpy.percentile by default); 0 where there is none.
double Quantile(const std::vector<double>& sorted, double fraction);

/// What became of a request. Times are seconds since its phase began.
struct RequestRecord {
  PlannedRequest planned;
  double scheduled_s = 0;  // the planned arrival; closed loop: when it was sent
  double sent_s = 0;
  double first_token_s = 0;  // of the first message with tokens; 0: there was none
  double last_token_s = 0;   // of the last one
  double end_s = 0;
  std::vector<double> gaps_s;  // between messages with tokens
  int64_t prompt_tokens = 0;   // usage, as the server counts; 0 where a request failed
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;                     // seen so far, of a request that failed
  grpc::StatusCode code = grpc::StatusCode::OK;  // ABORTED also where another ended the request
  std::string message;
  std::string finish_reason;              // "stop", "length"; empty where it failed
  std::optional<int64_t> retry_after_ms;  // the server's hint

  bool ok() const { return code == grpc::StatusCode::OK; }
  /// Latencies count from the scheduled arrival: a generator or server that is late does not hide
  /// how long a user would have waited (no coordinated omission).
  double ttft_s() const { return (first_token_s > 0 ? first_token_s : end_s) - scheduled_s; }
  double e2e_s() const { return end_s - scheduled_s; }
  /// Mean time of a token after the first. None of a single one.
  std::optional<double> tpot_s() const;
  /// 0 where there is no gap.
  double longest_gap_s() const;
};

/// Limits that a user would set; each is tested where it is given. Milliseconds.
struct Slo {
  std::optional<double> ttft_ms = {};
  std::optional<double> itl_ms = {};  // of each gap of the request
  std::optional<double> tpot_ms = {};
  std::optional<double> e2e_ms = {};

  bool any() const { return ttft_ms || itl_ms || tpot_ms || e2e_ms; }
  /// Whether the request ended well and within all limits.
  bool Met(const RequestRecord& record) const;
};

/// Collects what the report tells. Warm-up requests are counted apart and touch nothing else.
class Statistics {
 public:
  explicit Statistics(const Slo& slo) : slo_(slo) {}

  void Add(const RequestRecord& record);

  const Slo& slo() const { return slo_; }
  int64_t num_requests() const { return num_requests_; }
  int64_t num_completed() const { return count(grpc::StatusCode::OK); }
  int64_t num_rejected() const { return count(grpc::StatusCode::RESOURCE_EXHAUSTED); }
  /// Neither completed nor rejected.
  int64_t num_failed() const { return num_requests_ - num_completed() - num_rejected(); }
  int64_t count(grpc::StatusCode code) const;

  // Of completed requests alone:
  Summary ttft_s() const { return Summarize(ttft_s_); }
  Summary itl_s() const { return Summarize(gaps_s_); }
  Summary tpot_s() const { return Summarize(tpot_s_); }
  Summary e2e_s() const { return Summarize(e2e_s_); }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t cached_tokens() const { return cached_tokens_; }
  int64_t output_tokens() const { return output_tokens_; }
  int64_t num_good() const { return num_good_; }  // met the SLO

  // Of all:
  /// How much later than scheduled requests were sent: what the generator itself lost.
  Summary send_delay_s() const { return Summarize(send_delay_s_); }
  Summary retry_after_ms() const { return Summarize(retry_after_ms_); }
  const std::map<grpc::StatusCode, int64_t>& codes() const { return codes_; }
  /// The first message of each code but OK.
  const std::map<grpc::StatusCode, std::string>& messages() const { return messages_; }
  double last_scheduled_s() const { return last_scheduled_s_; }
  double last_end_s() const { return last_end_s_; }
  int64_t num_warmup() const { return num_warmup_; }
  int64_t num_warmup_failed() const { return num_warmup_failed_; }

 private:
  void AddCompleted(const RequestRecord& record);

  const Slo slo_;
  int64_t num_requests_ = 0;
  int64_t num_warmup_ = 0;
  int64_t num_warmup_failed_ = 0;
  int64_t num_good_ = 0;
  int64_t prompt_tokens_ = 0;
  int64_t cached_tokens_ = 0;
  int64_t output_tokens_ = 0;
  double last_scheduled_s_ = 0;
  double last_end_s_ = 0;
  std::vector<double> ttft_s_;
  std::vector<double> gaps_s_;
  std::vector<double> tpot_s_;
  std::vector<double> e2e_s_;
  std::vector<double> send_delay_s_;
  std::vector<double> retry_after_ms_;
  std::map<grpc::StatusCode, int64_t> codes_;
  std::map<grpc::StatusCode, std::string> messages_;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_STATISTICS_H_

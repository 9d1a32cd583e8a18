#include "server/tracing/tracer.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/log.h"
#include "server/tracing/request_attributes.h"
#include "server/tracing/span_tree.h"

namespace nsa::server {
namespace {

constexpr int kTraceIdBytes = 16;
// What a request may be called (convert.cc); who sends more is refused, and not quoted in full.
constexpr size_t kMaxIdBytes = 256;

std::vector<std::string_view> ValuesOf(const CallMetadata& metadata, const char* key) {
  std::vector<std::string_view> values;
  const auto [begin, end] = metadata.equal_range(key);
  for (auto it = begin; it != end; ++it) values.emplace_back(it->second.data(), it->second.size());
  return values;
}

/// Of the call: its end, its tokens, and where its time went.
void LogCall(const CallRecord& record) {
  std::vector<std::string> reasons;
  int64_t num_generated = 0;
  engine::Usage usage;
  for (const CallRecord::Choice& choice : record.choices) {
    if (choice.finish_reason.empty()) continue;
    reasons.push_back(choice.finish_reason);
    num_generated += choice.usage.num_generated_tokens;
    usage = choice.usage;
  }
  const auto seconds = [](absl::Duration time) { return absl::ToDoubleSeconds(time); };
  const log::RequestName name = {.id = record.request_id, .trace_id = record.trace_id};
  LOG_REQUEST(INFO, name) << StatusName(record.status.code()) << " ("
                          << absl::StrJoin(reasons, ", ") << "): " << usage.num_prompt_tokens
                          << " prompt tokens, " << usage.num_cached_tokens << " of them cached, "
                          << num_generated << " generated; " << seconds(record.ended - record.began)
                          << " s, of them queue " << seconds(usage.queue_time) << ", prefill "
                          << seconds(usage.prefill_time) << ", decode "
                          << seconds(usage.decode_time);
}

}  // namespace

std::optional<TraceContext> TraceContextOf(const CallMetadata& metadata) {
  return ParseTraceContext(ValuesOf(metadata, "traceparent"), ValuesOf(metadata, "tracestate"));
}

std::shared_ptr<CallRecorder> Tracer::Begin(const std::string& method, const CallMetadata& metadata,
                                            const v1::GenerateRequest& request,
                                            const std::string& request_id,
                                            std::shared_ptr<engine::OutputSink> sink) const {
  CallRecord record;
  record.began = absl::Now();
  record.method = method;
  record.parent = TraceContextOf(metadata);
  if (record.parent.has_value()) {
    record.trace_id = record.parent->trace_id;
    record.sampled = file_ != nullptr && record.parent->sampled;
  } else if (file_ != nullptr) {
    record.trace_id = RandomId(kTraceIdBytes);
    record.sampled = IsSampled(record.trace_id, options_.ratio);
    if (!record.sampled) record.trace_id.clear();  // nobody will find it
  }
  if (!record.sampled && !options_.logs_requests) return nullptr;
  record.request_id = request_id.substr(0, kMaxIdBytes);
  if (record.sampled) record.request_attributes = RequestAttributes(request);
  return std::make_shared<CallRecorder>(std::move(record), std::move(sink));
}

void Tracer::End(const std::shared_ptr<CallRecorder>& recorder, const absl::Status& status) const {
  if (!recorder->End(status)) return;
  if (options_.logs_requests) LogCall(recorder->record());
  if (recorder->record().sampled) file_->Add(recorder);
}

}  // namespace nsa::server

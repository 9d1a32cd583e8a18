#include "server/tracing/span_tree.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace nsa::server {
namespace {

constexpr int kSpanIdBytes = 8;
constexpr char kProvider[] = "nsa-serve";

class TreeBuilder {
 public:
  TreeBuilder(const CallRecord& record, const std::string& model_name)
      : record_(record), model_name_(model_name) {}

  SpanTree Build() {
    tree_.trace_id = record_.trace_id;
    AddRoot();
    if (record_.work_began != absl::InfiniteFuture()) {
      Add(0, "prepare", record_.work_began, PreparedAt());
    }
    for (const CallRecord::Choice& choice : record_.choices) {
      if (!choice.finish_reason.empty()) AddChoice(choice);
    }
    if (record_.first_write != absl::InfiniteFuture()) {
      Span& stream = Add(0, "stream", record_.first_write, record_.ended);
      stream.attributes.emplace_back("nsa.stream.num_messages", record_.num_messages);
      stream.attributes.emplace_back("nsa.stream.num_bytes", record_.num_message_bytes);
    }
    return std::move(tree_);
  }

 private:
  /// The reference holds until the next call.
  Span& Add(size_t parent, std::string name, absl::Time begin, absl::Time end) {
    const Span& above = tree_.spans[parent];
    Span span;
    span.name = std::move(name);
    span.id = RandomId(kSpanIdBytes);
    span.parent_id = above.id;
    span.begin = std::clamp(begin, above.begin, above.end);
    span.end = std::clamp(end, span.begin, above.end);
    return tree_.spans.emplace_back(std::move(span));
  }

  void AddRoot() {
    Span& root = tree_.spans.emplace_back();
    root.id = RandomId(kSpanIdBytes);
    if (record_.parent.has_value()) {
      root.parent_id = record_.parent->span_id;
      tree_.trace_state = record_.parent->state;
      tree_.has_remote_parent = true;
    }
    root.kind = Span::Kind::kServer;
    root.begin = record_.began;
    root.end = std::max(record_.began, record_.ended);
    root.attributes = record_.request_attributes;
    root.name = std::get<std::string>(root.attributes.at(0).second) + " " + model_name_;
    const absl::StatusCode code = record_.status.code();
    root.attributes.emplace_back("gen_ai.provider.name", kProvider);
    root.attributes.emplace_back("gen_ai.request.model", model_name_);
    root.attributes.emplace_back("gen_ai.response.model", model_name_);
    root.attributes.emplace_back("gen_ai.response.id", record_.request_id);
    root.attributes.emplace_back("rpc.system.name", "grpc");
    root.attributes.emplace_back("rpc.method", record_.method);
    root.attributes.emplace_back("rpc.response.status_code", StatusName(code));
    if (IsServerError(code)) {
      root.failed = true;
      root.message = std::string(record_.status.message());
      root.attributes.emplace_back("error.type", StatusName(code));
    }
    AddUsage(root.attributes);
  }

  void AddUsage(Attributes& attributes) const {
    std::vector<std::string> reasons;
    absl::Time first_token = absl::InfiniteFuture();
    int64_t num_generated = 0;
    const engine::Usage* usage = nullptr;
    for (const CallRecord::Choice& choice : record_.choices) {
      if (choice.finish_reason.empty()) continue;
      reasons.push_back(choice.finish_reason);
      num_generated += choice.usage.num_generated_tokens;
      first_token = std::min(first_token, choice.times.first_token);
      usage = &choice.usage;
    }
    if (usage == nullptr) return;
    attributes.emplace_back("gen_ai.response.finish_reasons", std::move(reasons));
    attributes.emplace_back("gen_ai.usage.input_tokens", usage->num_prompt_tokens);
    attributes.emplace_back("gen_ai.usage.cache_read.input_tokens", usage->num_cached_tokens);
    attributes.emplace_back("gen_ai.usage.output_tokens", num_generated);
    if (first_token != absl::InfiniteFuture()) {
      attributes.emplace_back("gen_ai.response.time_to_first_chunk",
                              absl::ToDoubleSeconds(first_token - record_.began));
    }
  }

  /// When the engine had the request, or it was refused.
  absl::Time PreparedAt() const {
    absl::Time arrival = record_.ended;
    for (const CallRecord::Choice& choice : record_.choices) {
      arrival = std::min(arrival, choice.times.arrival);
    }
    return arrival;
  }

  Span& AddStage(const CallRecord::Choice& choice, const char* name, absl::Time begin,
                 absl::Time end) {
    Span& span = Add(0, name, begin, end);
    if (record_.choices.size() > 1) {
      span.attributes.emplace_back("nsa.choice.index", int64_t{choice.index});
    }
    // Where it ended, it failed.
    span.failed = IsServerError(record_.status.code()) && end == choice.times.end;
    return span;
  }

  void AddChoice(const CallRecord::Choice& choice) {
    const engine::Timeline& times = choice.times;
    if (times.arrival == absl::InfiniteFuture()) return;  // never reached the queue
    AddStage(choice, "queue", times.arrival, std::min(times.first_scheduled, times.end));
    if (times.first_scheduled > times.end) return;
    AddStage(choice, "prefill", times.first_scheduled, std::min(times.first_token, times.end));
    const size_t prefill = tree_.spans.size() - 1;
    tree_.spans[prefill].attributes.emplace_back(
        "nsa.prefill.num_tokens", choice.usage.num_prompt_tokens - choice.usage.num_cached_tokens);
    AddChunks(choice, prefill, absl::InfinitePast(), times.first_token);
    if (times.first_token > times.end) return;
    Span& span = AddStage(choice, "decode", times.first_token, times.end);
    span.attributes.emplace_back("gen_ai.usage.output_tokens", choice.usage.num_generated_tokens);
    span.attributes.emplace_back("nsa.decode.num_preemptions", choice.num_preemptions);
    AddChunks(choice, tree_.spans.size() - 1, times.first_token, absl::InfiniteFuture());
  }

  /// Those that began in [begin, end).
  void AddChunks(const CallRecord::Choice& choice, size_t parent, absl::Time begin,
                 absl::Time end) {
    for (const CallRecord::Chunks& chunk : choice.chunks) {
      if (chunk.began < begin || chunk.began >= end) continue;
      Span& span = Add(parent, "chunk", chunk.began, chunk.ended);
      span.attributes.emplace_back("nsa.chunk.position", chunk.position);
      span.attributes.emplace_back("nsa.chunk.num_tokens", chunk.num_tokens);
      span.attributes.emplace_back("nsa.chunk.num_steps", chunk.num_steps);
    }
  }

  const CallRecord& record_;
  const std::string& model_name_;
  SpanTree tree_;
};

}  // namespace

SpanTree MakeSpanTree(const CallRecord& record, const std::string& model_name) {
  return TreeBuilder(record, model_name).Build();
}

std::string StatusName(absl::StatusCode code) { return absl::StatusCodeToString(code); }

bool IsServerError(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace nsa::server

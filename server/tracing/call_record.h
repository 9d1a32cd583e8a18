#ifndef NSA_SERVER_TRACING_CALL_RECORD_H_
#define NSA_SERVER_TRACING_CALL_RECORD_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "server/tracing/span.h"
#include "server/tracing/trace_context.h"

namespace nsa::server {

/// What is noted of one Generate call. Times are InfiniteFuture for what did not come.
struct CallRecord {
  /// Steps that computed tokens of a choice, one or several joined.
  struct Chunks {
    int64_t position = 0;  // of the first token
    int64_t num_tokens = 0;
    int64_t num_steps = 0;
    absl::Time began;
    absl::Time ended;
  };
  struct Choice {
    int32_t index = 0;
    std::vector<Chunks> chunks;  // at most kMaxChunks
    std::string finish_reason;   // engine::FinishedReason; empty: the engine told of no end
    engine::Usage usage;
    engine::Timeline times;
    int64_t num_preemptions = 0;
  };
  static constexpr size_t kMaxChunks = 64;

  std::string method;  // as gRPC names it: package.Service/Method
  std::string request_id;
  std::string trace_id;
  std::optional<TraceContext> parent;
  bool sampled = false;  // spans are wanted
  Attributes request_attributes;
  absl::Time began = absl::InfiniteFuture();
  absl::Time work_began = absl::InfiniteFuture();   // of template, tokenizer and grammar
  absl::Time first_write = absl::InfiniteFuture();  // of the stream's messages
  absl::Time ended = absl::InfiniteFuture();
  int64_t num_messages = 0;
  int64_t num_message_bytes = 0;
  std::vector<Choice> choices;  // that the engine told of
  absl::Status status;          // as the client has it

  /// How many spans it makes at most.
  int64_t MaxSpans() const;
};

/// Keeps a CallRecord, between the engine and the sink that it passes everything on to. Any thread;
/// nothing blocks.
class CallRecorder final : public engine::OutputSink {
 public:
  CallRecorder(CallRecord record, std::shared_ptr<engine::OutputSink> sink)
      : record_(std::move(record)), sink_(std::move(sink)) {}

  void OnWork();
  void OnWrite(int64_t num_bytes);
  /// The call is over; what comes later does not count. True the first time.
  bool End(const absl::Status& status);
  /// After End.
  const CallRecord& record() const { return record_; }

  void OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) override;
  void OnChunk(const engine::Chunk& chunk) override;
  void OnPromptLogprobs(int64_t position,
                        const std::vector<engine::TokenLogprobs>& logprobs) override;
  void OnOutput(engine::Output output) override;
  void OnChoiceDone(const engine::Finish& finish) override;
  void OnDone(const absl::Status& status, const engine::Finish& finish) override;
  bool Ready() const override { return sink_->Ready(); }

 private:
  /// With mutex_ held.
  CallRecord::Choice& ChoiceOf(int32_t index);
  void NoteEnd(const absl::Status& status, const engine::Finish& finish);

  std::mutex mutex_;
  CallRecord record_;
  bool ended_ = false;
  const std::shared_ptr<engine::OutputSink> sink_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_CALL_RECORD_H_

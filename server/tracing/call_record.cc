#include "server/tracing/call_record.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "engine/metrics.h"

namespace nsa::server {
namespace {

constexpr int64_t kSpansOfCall = 3;    // itself, its preparation, its stream
constexpr int64_t kSpansOfChoice = 3;  // its queue, prefill and decode

CallRecord::Chunks Join(const CallRecord::Chunks& first, const CallRecord::Chunks& second) {
  return {.position = first.position,
          .num_tokens = first.num_tokens + second.num_tokens,
          .num_steps = first.num_steps + second.num_steps,
          .began = first.began,
          .ended = second.ended};
}

}  // namespace

int64_t CallRecord::MaxSpans() const {
  int64_t num_spans = kSpansOfCall;
  for (const Choice& choice : choices) {
    num_spans += kSpansOfChoice + static_cast<int64_t>(choice.chunks.size());
  }
  return num_spans;
}

void CallRecorder::OnWork() {
  const std::lock_guard<std::mutex> lock(mutex_);
  record_.work_began = absl::Now();
}

void CallRecorder::OnWrite(int64_t num_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (record_.num_messages++ == 0) record_.first_write = absl::Now();
  record_.num_message_bytes += num_bytes;
}

bool CallRecorder::End(const absl::Status& status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (std::exchange(ended_, true)) return false;
  record_.ended = absl::Now();
  record_.status = status;
  return true;
}

CallRecord::Choice& CallRecorder::ChoiceOf(int32_t index) {
  for (CallRecord::Choice& choice : record_.choices) {
    if (choice.index == index) return choice;
  }
  CallRecord::Choice& choice = record_.choices.emplace_back();
  choice.index = index;
  return choice;
}

void CallRecorder::OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) {
  sink_->OnPrefillProgress(num_processed, num_prompt_tokens);
}

void CallRecorder::OnChunk(const engine::Chunk& chunk) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_) {
      std::vector<CallRecord::Chunks>& chunks = ChoiceOf(chunk.index).chunks;
      if (chunks.size() == CallRecord::kMaxChunks) {
        // Two become one: a long prompt is shown more coarsely, and whole.
        for (size_t i = 0; i < chunks.size() / 2; ++i) {
          chunks[i] = Join(chunks[2 * i], chunks[2 * i + 1]);
        }
        chunks.resize(chunks.size() / 2);
      }
      chunks.push_back({.position = chunk.position,
                        .num_tokens = chunk.num_tokens,
                        .num_steps = 1,
                        .began = chunk.began,
                        .ended = chunk.ended});
    }
  }
  sink_->OnChunk(chunk);
}

void CallRecorder::OnPromptLogprobs(int64_t position,
                                    const std::vector<engine::TokenLogprobs>& logprobs) {
  sink_->OnPromptLogprobs(position, logprobs);
}

void CallRecorder::OnOutput(engine::Output output) { sink_->OnOutput(std::move(output)); }

void CallRecorder::OnChoiceDone(const engine::Finish& finish) {
  NoteEnd(absl::OkStatus(), finish);
  sink_->OnChoiceDone(finish);
}

void CallRecorder::OnDone(const absl::Status& status, const engine::Finish& finish) {
  // Before the sink, which may end the call at once.
  NoteEnd(status, finish);
  sink_->OnDone(status, finish);
}

void CallRecorder::NoteEnd(const absl::Status& status, const engine::Finish& finish) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;
  CallRecord::Choice& choice = ChoiceOf(finish.index);
  choice.finish_reason = engine::FinishedReason(status, finish.reason);
  choice.usage = finish.usage;
  choice.times = finish.times;
  choice.num_preemptions = finish.num_preemptions;
}

}  // namespace nsa::server

#include "server/vllm/response_writer.h"

#include <algorithm>
#include <utility>

namespace nsa::server {
namespace {

void FillTop(const engine::TokenLogprobs& from, wire::TopLogProbs& to) {
  for (const engine::TokenLogprob& token : from.top) {
    to.add_values(token.logprob);
    to.add_token_ids(static_cast<uint32_t>(token.token_id));
  }
}

void AppendLogprobs(const std::vector<engine::TokenLogprobs>& from, bool with_top,
                    wire::OutputLogProbs& to) {
  for (const engine::TokenLogprobs& token : from) {
    to.add_token_logprobs(token.token.logprob);
    to.add_token_ids(static_cast<uint32_t>(token.token.token_id));
    if (with_top) FillTop(token, *to.add_top_logprobs());
  }
}

void AppendIds(const std::vector<int32_t>& from, google::protobuf::RepeatedField<uint32_t>& to) {
  for (const int32_t id : from) to.Add(static_cast<uint32_t>(id));
}

const char* NameOf(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kStopToken:
    case engine::FinishReason::kStopString:
      return "stop";
    case engine::FinishReason::kLength:
      return "length";
    case engine::FinishReason::kAborted:
      return "abort";
  }
  return "error";
}

}  // namespace

ResponseWriter::ResponseWriter(MessageStream<wire::GenerateResponse>* stream, Options options)
    : OutboxSink(stream), options_(std::move(options)) {}

void ResponseWriter::OnPromptLogprobs(int64_t /*position*/,
                                      const std::vector<engine::TokenLogprobs>& logprobs) {
  if (!std::exchange(has_prompt_logprobs_, true)) {
    prompt_logprobs_.add_token_logprobs();
    prompt_logprobs_.add_token_ids(static_cast<uint32_t>(options_.first_prompt_token));
    if (options_.top_prompt_logprobs) prompt_logprobs_.add_top_logprobs();
  }
  for (const engine::TokenLogprobs& token : logprobs) {
    prompt_logprobs_.add_token_logprobs()->set_value(token.token.logprob);
    prompt_logprobs_.add_token_ids(static_cast<uint32_t>(token.token.token_id));
    if (options_.top_prompt_logprobs) FillTop(token, *prompt_logprobs_.add_top_logprobs());
  }
}

void ResponseWriter::OnOutput(engine::Output output) {
  if (!options_.stream) {
    wire::GenerateComplete& complete = gathered_[output.index];
    AppendIds(output.token_ids, *complete.mutable_output_ids());
    if (!output.logprobs.empty()) {
      AppendLogprobs(output.logprobs, options_.top_logprobs, *complete.mutable_output_logprobs());
    }
    return;
  }
  wire::GenerateResponse message;
  wire::GenerateStreamChunk& chunk = *message.mutable_chunk();
  chunk.set_index(static_cast<uint32_t>(output.index));
  AppendIds(output.token_ids, *chunk.mutable_token_ids());
  chunk.set_prompt_tokens(static_cast<uint32_t>(options_.num_prompt_tokens));
  chunk.set_completion_tokens(static_cast<uint32_t>(output.token_ids.size()));
  if (!output.logprobs.empty()) {
    AppendLogprobs(output.logprobs, options_.top_logprobs, *chunk.mutable_output_logprobs());
  }
  if (std::exchange(has_prompt_logprobs_, false)) {
    chunk.mutable_input_logprobs()->Swap(&prompt_logprobs_);
  }
  outbox().Push(std::move(message));
}

void ResponseWriter::OnChoiceDone(const engine::Finish& finish) {
  wire::GenerateResponse message;
  wire::GenerateComplete& complete = *message.mutable_complete();
  if (const auto gathered = gathered_.find(finish.index); gathered != gathered_.end()) {
    complete.Swap(&gathered->second);
    gathered_.erase(gathered);
  }
  complete.set_index(static_cast<uint32_t>(finish.index));
  complete.set_finish_reason(NameOf(finish.reason));
  complete.set_prompt_tokens(static_cast<uint32_t>(finish.usage.num_prompt_tokens));
  complete.set_cached_tokens(static_cast<uint32_t>(finish.usage.num_cached_tokens));
  complete.set_completion_tokens(static_cast<uint32_t>(finish.usage.num_generated_tokens));
  if (!options_.stream && has_prompt_logprobs_) {
    *complete.mutable_input_logprobs() = prompt_logprobs_;
  }
  const bool own =
      std::ranges::find(options_.stop_ids, finish.stop_token_id) != options_.stop_ids.end();
  if (finish.reason == engine::FinishReason::kStopToken && !own) {
    complete.set_matched_token_id(static_cast<uint32_t>(finish.stop_token_id));
  } else if (finish.reason == engine::FinishReason::kStopString) {
    complete.set_matched_stop_str(finish.stop_string);
  }
  outbox().Push(std::move(message));
}

}  // namespace nsa::server

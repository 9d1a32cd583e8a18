#include "server/stream_writer.h"

#include <algorithm>
#include <utility>

#include "server/convert.h"

namespace nsa::server {
namespace {

constexpr size_t kPromptLogprobs = 512;  // of a message

}  // namespace

void StreamWriter::OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) {
  if (!options_.prefill_progress) return;
  v1::GenerateResponse message;
  message.mutable_prefill_progress()->set_processed_tokens(num_processed);
  message.mutable_prefill_progress()->set_prompt_tokens(num_prompt_tokens);
  // A newer state replaces one that has not left yet.
  outbox().Push(std::move(message),
                [](const v1::GenerateResponse& last) { return last.has_prefill_progress(); });
}

void StreamWriter::OnOutput(engine::Output output) {
  // Nothing to see yet?
  if (output.text.empty() && !options_.token_ids && output.logprobs.empty()) return;
  v1::GenerateResponse message;
  v1::Delta& delta = *message.mutable_delta();
  delta.set_index(output.index);
  for (const engine::TokenLogprobs& token : output.logprobs) {
    FillLogprobs(token, *delta.add_logprobs());
  }
  delta.set_text(std::move(output.text));
  if (options_.token_ids)
    delta.mutable_token_ids()->Assign(output.token_ids.begin(), output.token_ids.end());
  outbox().Push(std::move(message));
}

void StreamWriter::OnPromptLogprobs(int64_t position,
                                    const std::vector<engine::TokenLogprobs>& logprobs) {
  // In parts, for clients take messages of 4 MiB at most where they do not say otherwise.
  for (size_t begin = 0; begin < logprobs.size(); begin += kPromptLogprobs) {
    v1::GenerateResponse message;
    v1::PromptLogprobs& part = *message.mutable_prompt_logprobs();
    part.set_position(position + static_cast<int64_t>(begin));
    const size_t end = std::min(logprobs.size(), begin + kPromptLogprobs);
    for (size_t i = begin; i < end; ++i) FillLogprobs(logprobs[i], *part.add_tokens());
    outbox().Push(std::move(message));
  }
}

void StreamWriter::OnChoiceDone(const engine::Finish& finish) {
  v1::GenerateResponse message;
  FillFinished(finish, options_.request_id, *message.mutable_finished());
  outbox().Push(std::move(message));
}

}  // namespace nsa::server

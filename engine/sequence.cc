#include "engine/sequence.h"

#include <algorithm>
#include <utility>

namespace nsa::engine {

Sequence::Sequence(Request request_in, std::shared_ptr<OutputSink> sink_in,
                   const Tokenizer& tokenizer, int64_t max_tokens_in, uint64_t seed,
                   absl::Time arrival_in)
    : request(std::move(request_in)),
      sink(std::move(sink_in)),
      tokens(std::exchange(request.prompt_token_ids, {})),
      max_tokens(max_tokens_in),
      arrival(arrival_in),
      sampler(request.sampling, tokens, StopIds(request, tokenizer), tokenizer, seed),
      num_prompt_tokens_(static_cast<int64_t>(tokens.size())),
      stop_ids_(StopIds(request, tokenizer)),
      detokenizer_(&tokenizer, request.sampling.skip_special_tokens),
      stop_matcher_(request.sampling.stop, request.sampling.include_stop_str_in_output) {}

void Sequence::Join(std::shared_ptr<ChoiceGroup> choices, int32_t choice) {
  group = std::move(choices);
  index = finish.index = choice;
  arrival += absl::Nanoseconds(choice);  // the first choice is the first in line
}

std::vector<int32_t> Sequence::StopIds(const Request& request, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = request.sampling.stop_token_ids;
  if (!request.sampling.ignore_eos) {
    const std::vector<int32_t>& own = tokenizer.stop_ids();
    ids.insert(ids.end(), own.begin(), own.end());
  }
  return ids;
}

bool Sequence::IsStopToken(int32_t token_id) const {
  return std::find(stop_ids_.begin(), stop_ids_.end(), token_id) != stop_ids_.end();
}

void Sequence::AwaitToken(int32_t place) {
  tokens.push_back(kernels::kNoToken);
  awaited_place = place;
}

bool Sequence::AcceptToken(int32_t token_id, absl::Time now, std::vector<TokenLogprobs> logprobs) {
  FlushPromptLogprobs();
  sampler.Accept(token_id);
  if (std::exchange(awaited_place, -1) >= 0) tokens.pop_back();
  tokens.push_back(token_id);
  if (first_token == absl::InfiniteFuture()) first_token = now;
  last_token = now;
  Output output;
  output.index = index;
  output.token_ids.push_back(token_id);
  output.logprobs = std::move(logprobs);
  const bool ended = AcceptText(token_id, output.text);
  sink->OnOutput(std::move(output));
  return ended;
}

void Sequence::FlushPromptLogprobs() {
  if (prompt_logprobs.empty()) return;
  const int64_t position = num_prompt_logprobs - static_cast<int64_t>(prompt_logprobs.size());
  sink->OnPromptLogprobs(position, prompt_logprobs);
  prompt_logprobs.clear();
}

bool Sequence::AcceptText(int32_t token_id, std::string& text) {
  if (IsStopToken(token_id)) {
    // The stop token itself is not shown: what is held back before it is.
    text = stop_matcher_.Append(detokenizer_.Flush()).text + stop_matcher_.Flush();
    finish.reason = FinishReason::kStopToken;
    finish.stop_token_id = token_id;
    return true;
  }
  std::string piece = detokenizer_.Append(token_id);
  if (num_generated() < request.sampling.min_tokens) {
    // Stop strings do not count yet, so the matcher does not see this text.
    text = std::move(piece);
  } else {
    StopMatcher::Result match = stop_matcher_.Append(piece);
    text = std::move(match.text);
    if (match.stop_string.has_value()) {
      finish.reason = FinishReason::kStopString;
      finish.stop_string = *std::move(match.stop_string);
      return true;
    }
  }
  if (num_generated() < max_tokens) return false;
  StopMatcher::Result rest = stop_matcher_.Append(detokenizer_.Flush());
  text += rest.text;
  if (!rest.stop_string.has_value()) text += stop_matcher_.Flush();
  finish.reason = FinishReason::kLength;
  return true;
}

void Sequence::Finish(const absl::Status& status, FinishReason reason, absl::Time now) {
  finish.reason = reason;
  if (std::exchange(awaited_place, -1) >= 0) tokens.pop_back();  // nobody will hear of it
  Usage& usage = finish.usage;
  usage.num_prompt_tokens = num_prompt_tokens_;
  usage.num_cached_tokens = group->num_cached_tokens;
  usage.num_generated_tokens = num_generated();
  const absl::Time scheduled = std::min(first_scheduled, now);
  const absl::Time answered = std::min(first_token, now);
  usage.queue_time = scheduled - arrival;
  usage.prefill_time = answered - scheduled;
  usage.decode_time = now - answered;
  finish.times = {.arrival = arrival,
                  .first_scheduled = first_scheduled,
                  .first_token = first_token,
                  .end = now};
  finish.num_preemptions = num_preemptions;
  if (group->num_open == 0) return;
  group->num_open = status.ok() ? group->num_open - 1 : 0;
  if (group->num_open > 0) {
    sink->OnChoiceDone(finish);
  } else {
    sink->OnDone(status, finish);
  }
}

}  // namespace nsa::engine

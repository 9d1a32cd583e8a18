#include "server/vllm/request.h"

#include <algorithm>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace nsa::server {
namespace {

constexpr uint32_t kMaxInt32 = std::numeric_limits<int32_t>::max();
// Numbers (token ids, log-probabilities) of an answer in one message: some 64 MiB.
constexpr int64_t kMaxAnswer = int64_t{1} << 23;
constexpr int64_t kMaxFactor = 128;

/// Numbers that nsa.v1 has with a sign.
absl::Status CheckFits(const std::string& field, uint32_t value) {
  if (value <= kMaxInt32) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, ", expected at most ", kMaxInt32));
}

absl::Status CopyIds(const char* field, const google::protobuf::RepeatedField<uint32_t>& ids,
                     google::protobuf::RepeatedField<int32_t>& target) {
  target.Reserve(ids.size());
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] > kMaxInt32) return CheckFits(absl::StrCat(field, "[", i, "]"), ids[i]);
    target.AddAlreadyReserved(static_cast<int32_t>(ids[i]));
  }
  return absl::OkStatus();
}

absl::Status CheckServed(const wire::GenerateRequest& request) {
  const char* const field = request.has_mm_inputs()                 ? "mm_inputs"
                            : request.extra_mm_inputs_size() > 0    ? "extra_mm_inputs"
                            : request.has_media_refs()              ? "media_refs"
                            : request.has_kv_transfer_params()      ? "kv_transfer_params"
                            : request.has_kv_transfer_params_json() ? "kv_transfer_params_json"
                            : request.sampling_params().has_structural_tag()
                                ? "sampling_params.structural_tag"
                                : nullptr;
  if (field != nullptr) {
    return absl::UnimplementedError(absl::StrCat(field, " is set; this server has text alone, one ",
                                                 "cache, and no structural tags"));
  }
  if (request.data_parallel_rank() == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "data_parallel_rank is ", request.data_parallel_rank(), ", expected 0: the only one"));
}

absl::Status CopySampling(const wire::SamplingParams& from, v1::SamplingParams& to) {
  if (from.has_temperature()) to.set_temperature(from.temperature());
  // Zero is the default of fields that cannot be absent.
  if (from.top_p() != 0) to.set_top_p(from.top_p());
  if (from.min_p() != 0) to.set_min_p(from.min_p());
  if (from.frequency_penalty() != 0) to.set_frequency_penalty(from.frequency_penalty());
  if (from.presence_penalty() != 0) to.set_presence_penalty(from.presence_penalty());
  if (from.repetition_penalty() != 0) to.set_repetition_penalty(from.repetition_penalty());
  if (absl::Status s = CheckFits("sampling.top_k", from.top_k()); !s.ok()) return s;
  to.set_top_k(static_cast<int32_t>(from.top_k()));
  if (absl::Status s = CheckFits("sampling.n", from.n()); !s.ok()) return s;
  if (from.n() != 0) to.set_n(static_cast<int32_t>(from.n()));
  if (from.has_logprobs()) to.set_logprobs(from.logprobs());
  if (from.has_prompt_logprobs()) to.set_prompt_logprobs(from.prompt_logprobs());
  if (from.has_seed()) to.set_seed(static_cast<uint64_t>(int64_t{from.seed()}));
  for (const auto& [id, bias] : from.logit_bias()) {
    v1::LogitBias& added = *to.add_logit_bias();
    added.set_token_id(id);
    added.set_bias(bias);
  }
  return absl::OkStatus();
}

absl::Status CopyStopping(const wire::SamplingParams& from, v1::StoppingParams& to) {
  if (from.has_max_tokens()) to.set_max_tokens(from.max_tokens());
  to.set_min_tokens(from.min_tokens());
  *to.mutable_stop() = from.stop();
  to.set_ignore_eos(from.ignore_eos());
  to.set_include_stop_str_in_output(from.include_stop_str_in_output());
  return CopyIds("stopping.stop_token_ids", from.stop_token_ids(), *to.mutable_stop_token_ids());
}

void CopyConstraint(const wire::SamplingParams& from, v1::GenerateRequest& to) {
  switch (from.constraint_case()) {
    case wire::SamplingParams::kJsonSchema:
      return to.mutable_structured_output()->set_json_schema(from.json_schema());
    case wire::SamplingParams::kRegex:
      return to.mutable_structured_output()->set_regex(from.regex());
    case wire::SamplingParams::kGrammar:
      return to.mutable_structured_output()->set_grammar(from.grammar());
    case wire::SamplingParams::kJsonObject:
      return to.mutable_structured_output()->set_json_object(from.json_object());
    case wire::SamplingParams::kChoice:
      *to.mutable_structured_output()->mutable_choice()->mutable_options() =
          from.choice().choices();
      return;
    default:
      return;
  }
}

absl::Status CopyPrompt(const wire::GenerateRequest& from, int64_t max_context,
                        v1::GenerateRequest& to) {
  const wire::SamplingParams& sampling = from.sampling_params();
  if (from.input_case() == wire::GenerateRequest::kText) {
    if (sampling.has_truncate_prompt_tokens() || sampling.has_prompt_logprobs()) {
      return absl::InvalidArgumentError(
          "truncate_prompt_tokens or prompt_logprobs is set, expected only with "
          "tokenized.input_ids");
    }
    to.set_text(from.text());
  }
  if (from.input_case() != wire::GenerateRequest::kTokenized) return absl::OkStatus();
  auto& ids = *to.mutable_token_ids()->mutable_ids();
  if (auto s = CopyIds("prompt.token_ids", from.tokenized().input_ids(), ids); !s.ok()) return s;
  if (!sampling.has_truncate_prompt_tokens()) return absl::OkStatus();
  const int64_t wanted = sampling.truncate_prompt_tokens();
  if (wanted < 1 && wanted != -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("truncate_prompt_tokens is ", wanted, ", expected at least 1, or -1"));
  }
  const int64_t kept = wanted == -1 ? max_context - 1 : wanted;
  if (ids.size() > kept) ids.erase(ids.begin(), ids.end() - kept);
  return absl::OkStatus();
}

/// What comes in one message must fit into one.
absl::Status CheckAnswer(const wire::GenerateRequest& request, int64_t max_context) {
  const wire::SamplingParams& s = request.sampling_params();
  const int64_t most = s.has_max_tokens() ? s.max_tokens() : max_context;
  // What is out of range is refused later, and must not overflow here.
  const int64_t logprobs = std::clamp<int64_t>(s.logprobs(), 0, kMaxFactor);
  const int64_t per_token = s.has_logprobs() ? 2 + logprobs : 1;
  const int64_t n = std::clamp<int64_t>(s.n(), 1, kMaxFactor);
  const int64_t answer = n * std::min(most, max_context) * per_token;
  if (request.stream() || answer <= kMaxAnswer) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "n, max_tokens and logprobs are ", s.n(), ", ", most, " and ", s.logprobs(), ", which makes ",
      answer, " numbers; expected at most ", kMaxAnswer, " without stream"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<v1::GenerateRequest>> FromVllm(const wire::GenerateRequest& request,
                                                              int64_t max_context) {
  if (absl::Status s = CheckServed(request); !s.ok()) return s;
  auto made = std::make_unique<v1::GenerateRequest>();
  const wire::SamplingParams& sampling = request.sampling_params();
  made->set_request_id(request.request_id());
  if (absl::Status s = CopyPrompt(request, max_context, *made); !s.ok()) return s;
  if (absl::Status s = CopySampling(sampling, *made->mutable_sampling()); !s.ok()) return s;
  if (absl::Status s = CopyStopping(sampling, *made->mutable_stopping()); !s.ok()) return s;
  CopyConstraint(sampling, *made);
  made->mutable_response()->set_skip_special_tokens(sampling.skip_special_tokens());
  made->mutable_response()->set_spaces_between_special_tokens(
      sampling.spaces_between_special_tokens());
  if (absl::Status s = CheckAnswer(request, max_context); !s.ok()) return s;
  return made;
}

}  // namespace nsa::server

#include "server/convert.h"

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace nsa::server {
namespace {

constexpr int kMaxIdBytes = 256;
constexpr int kMaxStops = 16;
constexpr int kMaxStopBytes = 1024;
constexpr int kMaxStopTokens = 128;
constexpr int kMaxBadWords = 128;
constexpr int kMaxBadWordBytes = 256;
constexpr int kMaxBiases = 1024;
constexpr int kMaxChoices = 128;
constexpr int kMaxOptions = 1024;
constexpr int kMaxOptionBytes = 1024;
constexpr int kMaxLogprobs = 20;

// Numbers are written as their own type has them: a double would round a large integer.
template <typename Number>
absl::Status OutOfRange(const std::string& field, Number value, const std::string& range) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, ", expected ", range));
}

absl::Status TooMany(const char* field, int64_t count, int64_t most) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", count, " entries, expected at most ", most));
}

absl::Status TooLong(const std::string& field, size_t bytes, int64_t least, int64_t most) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " has ", bytes, " bytes, expected ", least, " to ", most));
}

std::string Indexed(const char* field, int64_t index) {
  return absl::StrCat(field, "[", index, "]");
}

absl::Status CheckTokenId(const std::string& field, int32_t id, int32_t vocabulary) {
  if (id >= 0 && id < vocabulary) return absl::OkStatus();
  return OutOfRange(field, id, absl::StrCat("0 to ", vocabulary - 1));
}

absl::Status CheckTokenIds(const char* field, const google::protobuf::RepeatedField<int32_t>& ids,
                           int64_t most, int32_t vocabulary) {
  if (ids.size() > most) return TooMany(field, ids.size(), most);
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary) continue;  // the common case builds no name
    return CheckTokenId(Indexed(field, i), ids[i], vocabulary);
  }
  return absl::OkStatus();
}

absl::Status CheckStrings(const char* field,
                          const google::protobuf::RepeatedPtrField<std::string>& strings,
                          int64_t most, size_t most_bytes) {
  if (strings.size() > most) return TooMany(field, strings.size(), most);
  for (int i = 0; i < strings.size(); ++i) {
    const size_t bytes = strings[i].size();
    if (bytes < 1 || bytes > most_bytes) return TooLong(Indexed(field, i), bytes, 1, most_bytes);
  }
  return absl::OkStatus();
}

/// An optional float with its range. The comparisons are false for NaN, so NaN is out of range.
struct FloatRange {
  const char* field;
  bool present;
  float value;
  float low;
  float high;
  bool low_excluded;
  const char* range;
};

absl::Status CheckFloats(const v1::SamplingParams& s) {
  const FloatRange ranges[] = {
      {"sampling.temperature", s.has_temperature(), s.temperature(), 0, 100, false, "0 to 100"},
      {"sampling.top_p", s.has_top_p(), s.top_p(), 0, 1, true, "above 0 and at most 1"},
      {"sampling.min_p", s.has_min_p(), s.min_p(), 0, 1, false, "0 to 1"},
      {"sampling.presence_penalty", s.has_presence_penalty(), s.presence_penalty(), -2, 2, false,
       "-2 to 2"},
      {"sampling.frequency_penalty", s.has_frequency_penalty(), s.frequency_penalty(), -2, 2, false,
       "-2 to 2"},
      {"sampling.repetition_penalty", s.has_repetition_penalty(), s.repetition_penalty(), 0, 10,
       true, "above 0 and at most 10"},
  };
  for (const FloatRange& r : ranges) {
    if (!r.present) continue;
    const bool inside =
        r.value >= r.low && r.value <= r.high && !(r.low_excluded && r.value == r.low);
    if (!inside) return OutOfRange(r.field, r.value, r.range);
  }
  return absl::OkStatus();
}

absl::Status CheckCounts(const v1::SamplingParams& s) {
  if (s.has_n() && (s.n() < 1 || s.n() > kMaxChoices)) {
    return OutOfRange("sampling.n", s.n(), absl::StrCat("1 to ", kMaxChoices));
  }
  const std::string range = absl::StrCat("0 to ", kMaxLogprobs);
  if (s.logprobs() < 0 || s.logprobs() > kMaxLogprobs) {
    return OutOfRange("sampling.logprobs", s.logprobs(), range);
  }
  if (s.prompt_logprobs() < 0 || s.prompt_logprobs() > kMaxLogprobs) {
    return OutOfRange("sampling.prompt_logprobs", s.prompt_logprobs(), range);
  }
  return absl::OkStatus();
}

absl::Status CheckPromptLength(int64_t num_tokens, const engine::ModelInfo& model) {
  if (num_tokens == 0) {
    return absl::InvalidArgumentError("prompt is empty, expected at least 1 token");
  }
  if (num_tokens < model.max_context) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("prompt has ", num_tokens, " tokens, expected at most ", model.max_context - 1,
                   " (max_context ", model.max_context, " less one to generate)"));
}

absl::Status CheckLogitBias(const v1::SamplingParams& s, int32_t vocabulary) {
  const char* const field = "sampling.logit_bias";
  if (s.logit_bias_size() > kMaxBiases) return TooMany(field, s.logit_bias_size(), kMaxBiases);
  absl::flat_hash_set<int32_t> biased;
  for (int i = 0; i < s.logit_bias_size(); ++i) {
    const v1::LogitBias& bias = s.logit_bias(i);
    const std::string name = Indexed(field, i);
    absl::Status status = CheckTokenId(name + ".token_id", bias.token_id(), vocabulary);
    if (!status.ok()) return status;
    if (!(bias.bias() >= -100 && bias.bias() <= 100)) {
      return OutOfRange(name + ".bias", bias.bias(), "-100 to 100");
    }
    if (!biased.insert(bias.token_id()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ".token_id is ", bias.token_id(), ", expected each token once"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const v1::SamplingParams& s, int32_t vocabulary) {
  if (absl::Status status = CheckFloats(s); !status.ok()) return status;
  if (s.top_k() < 0) return OutOfRange("sampling.top_k", s.top_k(), "at least 0 (0: off)");
  if (absl::Status status = CheckCounts(s); !status.ok()) return status;
  if (absl::Status status = CheckLogitBias(s, vocabulary); !status.ok()) return status;
  absl::Status status =
      CheckTokenIds("sampling.allowed_token_ids", s.allowed_token_ids(), vocabulary, vocabulary);
  if (!status.ok()) return status;
  return CheckStrings("sampling.bad_words", s.bad_words(), kMaxBadWords, kMaxBadWordBytes);
}

absl::Status CheckStopping(const v1::StoppingParams& s, const engine::ModelInfo& model) {
  const int64_t context = model.max_context - 1;  // the prompt has at least one token
  if (s.has_max_tokens() && (s.max_tokens() < 1 || s.max_tokens() > context)) {
    return OutOfRange("stopping.max_tokens", s.max_tokens(),
                      absl::StrCat("1 to ", context, " (max_context ", model.max_context,
                                   " less at least 1 prompt token)"));
  }
  const int64_t most = s.has_max_tokens() ? s.max_tokens() : context;
  if (s.min_tokens() < 0 || s.min_tokens() > most) {
    return OutOfRange("stopping.min_tokens", s.min_tokens(),
                      absl::StrCat("0 to ", most, s.has_max_tokens() ? " (max_tokens)" : ""));
  }
  absl::Status status = CheckStrings("stopping.stop", s.stop(), kMaxStops, kMaxStopBytes);
  if (!status.ok()) return status;
  return CheckTokenIds("stopping.stop_token_ids", s.stop_token_ids(), kMaxStopTokens,
                       model.vocabulary_size);
}

absl::Status CheckAttention(const v1::AttentionParams& attention) {
  if (!v1::AttentionMode_IsValid(attention.mode())) {
    return OutOfRange("attention.mode", static_cast<int>(attention.mode()), "0 to 2");
  }
  if (attention.num_selected_blocks() < 0) {
    return OutOfRange("attention.num_selected_blocks", attention.num_selected_blocks(),
                      "at least 0 (0: the server's own)");
  }
  return absl::OkStatus();  // the upper end is the engine's, which knows its workspace
}

/// What can be said of the prompt before it is tokenized.
absl::Status CheckPrompt(const v1::GenerateRequest& wire, const engine::ModelInfo& model) {
  if (wire.prompt_case() == v1::GenerateRequest::PROMPT_NOT_SET) {
    return absl::InvalidArgumentError("prompt is missing, expected text, token_ids or chat");
  }
  if (wire.prompt_case() == v1::GenerateRequest::kText) return absl::OkStatus();
  const char* const field = wire.has_parse_special_tokens() ? "parse_special_tokens"
                            : wire.has_add_special_tokens() ? "add_special_tokens"
                                                            : nullptr;
  if (field != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " is set, expected only with prompt.text"));
  }
  if (wire.prompt_case() != v1::GenerateRequest::kTokenIds) return absl::OkStatus();
  const auto& ids = wire.token_ids().ids();
  if (absl::Status status = CheckPromptLength(ids.size(), model); !status.ok()) return status;
  return CheckTokenIds("prompt.token_ids", ids, ids.size(), model.vocabulary_size);
}

absl::Status CheckStructuredOutput(const v1::GenerateRequest& wire) {
  if (!wire.has_structured_output()) return absl::OkStatus();
  const v1::StructuredOutput& s = wire.structured_output();
  if (wire.stopping().ignore_eos()) {
    return absl::InvalidArgumentError(
        "stopping.ignore_eos is true, expected false with structured_output, which ends with the "
        "checkpoint's own end token");
  }
  switch (s.constraint_case()) {
    case v1::StructuredOutput::CONSTRAINT_NOT_SET:
      return absl::InvalidArgumentError(
          "structured_output is empty, expected json_schema, json_object, regex, grammar or "
          "choice");
    case v1::StructuredOutput::kJsonObject:
      if (s.json_object()) return absl::OkStatus();
      return absl::InvalidArgumentError(
          "structured_output.json_object is false, expected true or another constraint");
    case v1::StructuredOutput::kChoice: {
      const char* const field = "structured_output.choice.options";
      if (s.choice().options_size() > 0) {
        return CheckStrings(field, s.choice().options(), kMaxOptions, kMaxOptionBytes);
      }
      return absl::InvalidArgumentError(absl::StrCat(field, " is empty, expected at least 1"));
    }
    default:
      return absl::OkStatus();  // what the text must be is the compiler's to say
  }
}

engine::GrammarSpec ToGrammarSpec(const v1::StructuredOutput& wire) {
  using Kind = engine::GrammarSpec::Kind;
  switch (wire.constraint_case()) {
    case v1::StructuredOutput::kJsonSchema:
      return {Kind::kJsonSchema, wire.json_schema(), {}};
    case v1::StructuredOutput::kRegex:
      return {Kind::kRegex, wire.regex(), {}};
    case v1::StructuredOutput::kGrammar:
      return {Kind::kGrammar, wire.grammar(), {}};
    case v1::StructuredOutput::kChoice:
      return {Kind::kChoice, "", {wire.choice().options().begin(), wire.choice().options().end()}};
    default:
      return {Kind::kJsonObject, "", {}};
  }
}

engine::SamplingParams ToSampling(const v1::GenerateRequest& wire) {
  const v1::SamplingParams& s = wire.sampling();
  const v1::StoppingParams& stopping = wire.stopping();
  engine::SamplingParams p;
  if (s.has_temperature()) p.temperature = s.temperature();
  if (s.has_top_p()) p.top_p = s.top_p();
  p.top_k = s.top_k();
  p.min_p = s.min_p();
  p.presence_penalty = s.presence_penalty();
  p.frequency_penalty = s.frequency_penalty();
  if (s.has_repetition_penalty()) p.repetition_penalty = s.repetition_penalty();
  for (const v1::LogitBias& bias : s.logit_bias()) {
    p.logit_bias.emplace_back(bias.token_id(), bias.bias());
  }
  p.allowed_token_ids.assign(s.allowed_token_ids().begin(), s.allowed_token_ids().end());
  p.bad_words.assign(s.bad_words().begin(), s.bad_words().end());
  if (s.has_seed()) p.seed = s.seed();
  if (s.has_n()) p.n = s.n();
  if (s.has_logprobs()) p.logprobs = s.logprobs();
  if (s.has_prompt_logprobs()) p.prompt_logprobs = s.prompt_logprobs();
  if (stopping.has_max_tokens()) p.max_tokens = stopping.max_tokens();
  p.min_tokens = stopping.min_tokens();
  p.stop.assign(stopping.stop().begin(), stopping.stop().end());
  p.stop_token_ids.assign(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  p.ignore_eos = stopping.ignore_eos();
  p.include_stop_str_in_output = stopping.include_stop_str_in_output();
  const v1::ResponseOptions& response = wire.response();
  if (response.has_skip_special_tokens()) p.skip_special_tokens = response.skip_special_tokens();
  if (response.has_spaces_between_special_tokens()) {
    p.spaces_between_special_tokens = response.spaces_between_special_tokens();
  }
  return p;
}

absl::StatusOr<std::string> RenderChat(const v1::ChatMessages& chat, const engine::Engine& engine) {
  if (engine.chat_template() == nullptr) {
    return absl::InvalidArgumentError(
        "prompt.chat: this checkpoint has no usable chat template; send prompt.text");
  }
  if (chat.messages_size() == 0) {
    return absl::InvalidArgumentError("prompt.chat.messages is empty, expected at least 1");
  }
  std::vector<engine::ChatMessage> messages;
  messages.reserve(static_cast<size_t>(chat.messages_size()));
  for (const v1::ChatMessage& message : chat.messages()) {
    if (message.role().empty() || message.role().size() > kMaxIdBytes) {
      const auto index = static_cast<int64_t>(messages.size());
      return TooLong(Indexed("prompt.chat.messages", index) + ".role", message.role().size(), 1,
                     kMaxIdBytes);
    }
    messages.push_back({message.role(), message.content()});
  }
  const bool generation = !chat.has_add_generation_prompt() || chat.add_generation_prompt();
  return engine.chat_template()->Render(messages, generation);
}

/// A rendered template holds its own begin-of-sequence token, so none is added to it.
absl::StatusOr<std::vector<int32_t>> ChatTokens(const v1::ChatMessages& chat,
                                                const engine::Engine& engine) {
  const auto text = RenderChat(chat, engine);
  if (!text.ok()) return text.status();
  return engine.tokenizer().Encode(*text,
                                   {.add_special_tokens = false, .parse_special_tokens = true});
}

std::vector<int32_t> TextTokens(const std::string& text, bool add_special, bool parse_special,
                                const engine::Engine& engine) {
  return engine.tokenizer().Encode(
      text, {.add_special_tokens = add_special, .parse_special_tokens = parse_special});
}

}  // namespace

absl::Status CheckGenerateRequest(const v1::GenerateRequest& wire, const engine::ModelInfo& model) {
  if (wire.request_id().size() > kMaxIdBytes) {
    return TooLong("request_id", wire.request_id().size(), 0, kMaxIdBytes);
  }
  if (wire.cache_salt().size() > kMaxIdBytes) {
    return TooLong("cache_salt", wire.cache_salt().size(), 0, kMaxIdBytes);
  }
  if (absl::Status status = CheckStructuredOutput(wire); !status.ok()) return status;
  if (absl::Status status = CheckAttention(wire.attention()); !status.ok()) return status;
  if (absl::Status status = CheckSampling(wire.sampling(), model.vocabulary_size); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckStopping(wire.stopping(), model); !status.ok()) return status;
  return CheckPrompt(wire, model);
}

absl::StatusOr<engine::Request> ToRequest(const v1::GenerateRequest& wire,
                                          const engine::Engine& engine, std::string request_id,
                                          absl::Time deadline) {
  if (absl::Status status = CheckGenerateRequest(wire, engine.model_info()); !status.ok()) {
    return status;
  }
  engine::Request request;
  request.id = std::move(request_id);
  request.deadline = deadline;
  request.priority = wire.priority();
  request.cache_salt = wire.cache_salt();
  request.bypass_prefix_cache = wire.bypass_prefix_cache();
  request.sampling = ToSampling(wire);
  request.attention.mode = static_cast<engine::AttentionMode>(wire.attention().mode());
  request.attention.num_selected_blocks = wire.attention().num_selected_blocks();
  switch (wire.prompt_case()) {
    case v1::GenerateRequest::kTokenIds:
      request.prompt_token_ids.assign(wire.token_ids().ids().begin(), wire.token_ids().ids().end());
      break;
    case v1::GenerateRequest::kChat: {
      auto tokens = ChatTokens(wire.chat(), engine);
      if (!tokens.ok()) return tokens.status();
      request.prompt_token_ids = *std::move(tokens);
      break;
    }
    default:
      request.prompt_token_ids =
          TextTokens(wire.text(), !wire.has_add_special_tokens() || wire.add_special_tokens(),
                     !wire.has_parse_special_tokens() || wire.parse_special_tokens(), engine);
  }
  const auto num_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  if (absl::Status status = CheckPromptLength(num_tokens, engine.model_info()); !status.ok()) {
    return status;
  }
  if (wire.has_structured_output()) {
    auto grammar = engine.CompileGrammar(ToGrammarSpec(wire.structured_output()));
    if (!grammar.ok()) return grammar.status();
    request.grammar = *std::move(grammar);
  }
  return request;
}

absl::StatusOr<std::vector<int32_t>> ToTokens(const v1::TokenizeRequest& wire,
                                              const engine::Engine& engine) {
  if (wire.input_case() == v1::TokenizeRequest::kChat) {
    if (wire.has_parse_special_tokens() || wire.has_add_special_tokens()) {
      return absl::InvalidArgumentError(
          "parse_special_tokens or add_special_tokens is set, expected only with input.text");
    }
    return ChatTokens(wire.chat(), engine);
  }
  if (wire.input_case() == v1::TokenizeRequest::INPUT_NOT_SET) {
    return absl::InvalidArgumentError("input is missing, expected text or chat");
  }
  return TextTokens(wire.text(), !wire.has_add_special_tokens() || wire.add_special_tokens(),
                    !wire.has_parse_special_tokens() || wire.parse_special_tokens(), engine);
}

absl::StatusOr<std::string> ToText(const v1::DetokenizeRequest& wire,
                                   const engine::Engine& engine) {
  const int32_t vocabulary = engine.model_info().vocabulary_size;
  absl::Status status =
      CheckTokenIds("token_ids", wire.token_ids(), wire.token_ids_size(), vocabulary);
  if (!status.ok()) return status;
  return engine.tokenizer().Decode({wire.token_ids().begin(), wire.token_ids().end()},
                                   wire.skip_special_tokens());
}

int64_t PromptBytes(const v1::GenerateRequest& wire) {
  if (wire.prompt_case() == v1::GenerateRequest::kTokenIds) return wire.token_ids().ids_size();
  if (wire.prompt_case() != v1::GenerateRequest::kChat)
    return static_cast<int64_t>(wire.text().size());
  int64_t bytes = 0;
  for (const v1::ChatMessage& message : wire.chat().messages()) {
    bytes += static_cast<int64_t>(message.role().size() + message.content().size());
  }
  return bytes;
}

void FillLogprobs(const engine::TokenLogprobs& logprobs, v1::TokenLogprobs& wire) {
  const auto fill = [](const engine::TokenLogprob& token, v1::TokenLogprob& target) {
    target.set_token_id(token.token_id);
    target.set_logprob(token.logprob);
    target.set_token(token.bytes);
  };
  fill(logprobs.token, *wire.mutable_token());
  wire.set_rank(logprobs.rank);
  for (const engine::TokenLogprob& token : logprobs.top) fill(token, *wire.add_top());
}

void FillFinished(const engine::Finish& finish, const std::string& request_id, v1::Finished& wire) {
  switch (finish.reason) {
    case engine::FinishReason::kStopToken:
      wire.mutable_stop()->set_token_id(finish.stop_token_id);
      break;
    case engine::FinishReason::kStopString:
      wire.mutable_stop()->set_stop_string(finish.stop_string);
      break;
    case engine::FinishReason::kLength:
      wire.mutable_length();
      break;
    case engine::FinishReason::kAborted:
      wire.mutable_aborted();
      break;
  }
  wire.set_index(finish.index);
  v1::Usage& usage = *wire.mutable_usage();
  usage.set_prompt_tokens(finish.usage.num_prompt_tokens);
  usage.set_cached_tokens(finish.usage.num_cached_tokens);
  usage.set_generated_tokens(finish.usage.num_generated_tokens);
  usage.set_queue_seconds(absl::ToDoubleSeconds(finish.usage.queue_time));
  usage.set_prefill_seconds(absl::ToDoubleSeconds(finish.usage.prefill_time));
  usage.set_decode_seconds(absl::ToDoubleSeconds(finish.usage.decode_time));
  wire.set_request_id(request_id);
}

void FillModelInfo(const engine::ModelInfo& info, bool has_chat_template,
                   v1::GetModelInfoResponse& wire) {
  wire.set_name(info.name);
  wire.set_path(info.path);
  wire.set_family(info.family);
  wire.set_architecture(info.architecture);
  wire.set_weight_type(info.weight_type);
  wire.set_kv_cache_dtype(info.kv_cache_dtype);
  wire.set_tokenizer_kind(info.tokenizer_kind);
  wire.set_attention(info.attention);
  wire.set_attention_source(info.attention_source);
  wire.set_backend(info.backend);
  wire.set_num_parameters(info.num_parameters);
  wire.set_weight_bytes(info.weight_bytes);
  wire.set_kv_pool_bytes(info.kv_pool_bytes);
  wire.set_num_pages(info.num_pages);
  wire.set_max_context(info.max_context);
  wire.set_trained_context(info.trained_context);
  wire.set_num_layers(info.num_layers);
  wire.set_num_q_heads(info.num_q_heads);
  wire.set_num_kv_heads(info.num_kv_heads);
  wire.set_head_dim(info.head_dim);
  wire.set_hidden_size(info.hidden_size);
  wire.set_vocabulary_size(info.vocabulary_size);
  wire.set_num_selected_blocks(info.num_selected_blocks);
  wire.set_window_size(info.window_size);
  wire.set_has_chat_template(has_chat_template);
}

}  // namespace nsa::server

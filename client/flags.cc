#include "client/flags.h"

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/channel.h"
#include "client/load/load_flags.h"

ABSL_FLAG(std::string, server, "127.0.0.1:50051", "HOST:PORT of nsa_server");
ABSL_FLAG(bool, json, false, "print each message as one JSON object");
ABSL_FLAG(int32_t, retries, 3,
          "how often complete and chat ask a full server again, when it says that they may");
ABSL_FLAG(double, timeout_s, 0, "give up after so many seconds; 0: never");
ABSL_FLAG(std::string, prompt, "", "the prompt itself");
ABSL_FLAG(std::string, prompt_file, "", "file that holds the prompt; -: standard input");
ABSL_FLAG(std::string, system, "", "chat: the system message; empty: the template's own");
ABSL_FLAG(std::string, question, "", "a question that follows the prompt (a document)");
ABSL_FLAG(std::string, max_tokens, "", "tokens to generate at most; default: to the context's end");
ABSL_FLAG(std::string, min_tokens, "", "tokens before an end is allowed");
ABSL_FLAG(std::string, temperature, "", "0 to 100; 0: always the best token; default 1");
ABSL_FLAG(std::string, top_p, "", "above 0 and at most 1; default 1");
ABSL_FLAG(std::string, top_k, "", "0: off");
ABSL_FLAG(std::string, min_p, "", "0 to 1; default 0");
ABSL_FLAG(std::string, presence_penalty, "", "-2 to 2; default 0");
ABSL_FLAG(std::string, frequency_penalty, "", "-2 to 2; default 0");
ABSL_FLAG(std::string, repetition_penalty, "", "above 0 and at most 10; default 1");
ABSL_FLAG(std::string, seed, "", "of the draw; default: a random one");
ABSL_FLAG(std::string, logit_bias, "", "ID:BIAS, comma-separated; each bias -100 to 100");
ABSL_FLAG(std::vector<std::string>, allowed_token_ids, {}, "the only ids to choose from");
ABSL_FLAG(std::vector<std::string>, bad_words, {}, "strings never to generate, comma-separated");
ABSL_FLAG(std::vector<std::string>, stop_token_ids, {}, "ids that end the completion");
ABSL_FLAG(bool, include_stop_str_in_output, false, "leave the stop string in the text");
ABSL_FLAG(std::string, cache_salt, "", "share prefixes only with requests of the same salt");
ABSL_FLAG(bool, bypass_prefix_cache, false, "neither use nor leave cached prefixes");
ABSL_FLAG(std::vector<std::string>, stop, {}, "strings that end the completion, comma-separated");
ABSL_FLAG(bool, ignore_eos, false, "do not stop at the model's end token");
ABSL_FLAG(bool, skip_special_tokens, true, "leave special tokens out of the text");
ABSL_FLAG(std::string, attention, "", "nsa or full; default: the server's");
ABSL_FLAG(std::string, num_selected_blocks, "",
          "NSA blocks for this request; default: the server's");
ABSL_FLAG(std::string, request_id, "", "complete, chat: name of the request; abort: which to end");
ABSL_FLAG(int32_t, priority, 0, "lower runs first");

namespace nsa::client {
namespace {

constexpr double kLongestTimeoutSeconds = 1e6;
constexpr int32_t kMostRetries = 1000;

absl::Status BadValue(const char* flag, const std::string& value) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, " does not take '", value, "'"));
}

bool Parse(const std::string& text, float* value) { return absl::SimpleAtof(text, value); }
template <typename Integer>
bool Parse(const std::string& text, Integer* value) {
  return absl::SimpleAtoi(text, value);
}

/// Sets a field with presence only where the flag was given, so that the server's default stands.
template <typename T, typename Setter>
absl::Status SetIfGiven(const absl::Flag<std::string>& flag, const char* name, Setter set) {
  const std::string text = absl::GetFlag(flag);
  if (text.empty()) return absl::OkStatus();
  T value{};
  if (!Parse(text, &value)) return BadValue(name, text);
  set(value);
  return absl::OkStatus();
}

absl::Status FillIds(const absl::Flag<std::vector<std::string>>& flag, const char* name,
                     google::protobuf::RepeatedField<int32_t>& ids) {
  for (const std::string& word : absl::GetFlag(flag)) {
    int32_t id = 0;
    if (!Parse(word, &id)) return BadValue(name, word);
    ids.Add(id);
  }
  return absl::OkStatus();
}

absl::Status FillLogitBias(v1::SamplingParams& sampling) {
  const std::string text = absl::GetFlag(FLAGS_logit_bias);
  for (const absl::string_view word : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    int32_t id = 0;
    float bias = 0;
    if (parts.size() != 2 || !Parse(parts[0], &id) || !Parse(parts[1], &bias)) {
      return BadValue("logit_bias", std::string(word));
    }
    v1::LogitBias& entry = *sampling.add_logit_bias();
    entry.set_token_id(id);
    entry.set_bias(bias);
  }
  return absl::OkStatus();
}

absl::Status FillSampling(v1::GenerateRequest& request) {
  v1::SamplingParams& s = *request.mutable_sampling();
  v1::StoppingParams& stopping = *request.mutable_stopping();
  const absl::Status results[] = {
      SetIfGiven<float>(FLAGS_temperature, "temperature", [&](float v) { s.set_temperature(v); }),
      SetIfGiven<float>(FLAGS_top_p, "top_p", [&](float v) { s.set_top_p(v); }),
      SetIfGiven<int32_t>(FLAGS_top_k, "top_k", [&](int32_t v) { s.set_top_k(v); }),
      SetIfGiven<float>(FLAGS_min_p, "min_p", [&](float v) { s.set_min_p(v); }),
      SetIfGiven<float>(FLAGS_presence_penalty, "presence_penalty",
                        [&](float v) { s.set_presence_penalty(v); }),
      SetIfGiven<float>(FLAGS_frequency_penalty, "frequency_penalty",
                        [&](float v) { s.set_frequency_penalty(v); }),
      SetIfGiven<float>(FLAGS_repetition_penalty, "repetition_penalty",
                        [&](float v) { s.set_repetition_penalty(v); }),
      SetIfGiven<uint64_t>(FLAGS_seed, "seed", [&](uint64_t v) { s.set_seed(v); }),
      SetIfGiven<int64_t>(FLAGS_max_tokens, "max_tokens",
                          [&](int64_t v) { stopping.set_max_tokens(v); }),
      SetIfGiven<int64_t>(FLAGS_min_tokens, "min_tokens",
                          [&](int64_t v) { stopping.set_min_tokens(v); }),
      SetIfGiven<int32_t>(
          FLAGS_num_selected_blocks, "num_selected_blocks",
          [&](int32_t v) { request.mutable_attention()->set_num_selected_blocks(v); }),
      FillLogitBias(s),
      FillIds(FLAGS_allowed_token_ids, "allowed_token_ids", *s.mutable_allowed_token_ids()),
      FillIds(FLAGS_stop_token_ids, "stop_token_ids", *stopping.mutable_stop_token_ids()),
  };
  for (const absl::Status& status : results) {
    if (!status.ok()) return status;
  }
  for (const std::string& stop : absl::GetFlag(FLAGS_stop)) stopping.add_stop(stop);
  for (const std::string& word : absl::GetFlag(FLAGS_bad_words)) s.add_bad_words(word);
  stopping.set_ignore_eos(absl::GetFlag(FLAGS_ignore_eos));
  stopping.set_include_stop_str_in_output(absl::GetFlag(FLAGS_include_stop_str_in_output));
  return absl::OkStatus();
}

absl::Status FillAttention(v1::GenerateRequest& request) {
  const std::string attention = absl::GetFlag(FLAGS_attention);
  if (attention == "nsa") {
    request.mutable_attention()->set_mode(v1::ATTENTION_MODE_NSA);
  } else if (attention == "full") {
    request.mutable_attention()->set_mode(v1::ATTENTION_MODE_FULL);
  } else if (!attention.empty()) {
    return BadValue("attention", attention);
  }
  return absl::OkStatus();
}

std::string WithQuestion(std::string text) {
  const std::string question = absl::GetFlag(FLAGS_question);
  if (!question.empty()) absl::StrAppend(&text, text.empty() ? "" : "\n\n", question);
  return text;
}

void FillChat(const std::string& text, v1::ChatMessages& chat) {
  const std::string system = absl::GetFlag(FLAGS_system);
  if (!system.empty()) {
    v1::ChatMessage& message = *chat.add_messages();
    message.set_role("system");
    message.set_content(system);
  }
  v1::ChatMessage& message = *chat.add_messages();
  message.set_role("user");
  message.set_content(text);
}

}  // namespace

const std::vector<FlagGroup>& ClientFlagGroups() {
  static const auto* const groups = [] {
    auto* const all = new std::vector<FlagGroup>{
        {"Connection", {"server", "timeout_s", "retries", "json"}},
        SecurityFlagGroup(),
        {"Prompt", {"prompt", "prompt_file", "question", "system"}},
        {"Sampling",
         {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
          "repetition_penalty", "logit_bias", "allowed_token_ids", "bad_words", "seed"}},
        {"Stopping",
         {"max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos",
          "include_stop_str_in_output"}},
        {"Other",
         {"attention", "num_selected_blocks", "skip_special_tokens", "request_id", "priority",
          "cache_salt", "bypass_prefix_cache"}},
    };
    all->insert(all->end(), LoadFlagGroups().begin(), LoadFlagGroups().end());
    return all;
  }();
  return *groups;
}

std::string ServerAddress() { return absl::GetFlag(FLAGS_server); }
bool JsonOutput() { return absl::GetFlag(FLAGS_json); }
int32_t Retries() { return absl::GetFlag(FLAGS_retries); }
double TimeoutSeconds() { return absl::GetFlag(FLAGS_timeout_s); }
std::string RequestId() { return absl::GetFlag(FLAGS_request_id); }

absl::Status CheckFlags() {
  if (Retries() < 0 || Retries() > kMostRetries) {
    return absl::InvalidArgumentError(
        absl::StrCat("--retries is ", Retries(), ", expected 0 to ", kMostRetries));
  }
  // The comparison is false for NaN.
  const double timeout = TimeoutSeconds();
  if (timeout >= 0 && timeout <= kLongestTimeoutSeconds) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--timeout_s is ", timeout, ", expected 0 to ",
                                                 kLongestTimeoutSeconds, " (0: never)"));
}

absl::StatusOr<std::string> PromptText() {
  std::string prompt = absl::GetFlag(FLAGS_prompt);
  const std::string path = absl::GetFlag(FLAGS_prompt_file);
  if (!prompt.empty() && !path.empty()) {
    return absl::InvalidArgumentError("give --prompt or --prompt_file, not both");
  }
  if (path.empty()) {
    if (!prompt.empty() || !absl::GetFlag(FLAGS_question).empty()) return prompt;
    return absl::InvalidArgumentError(
        "a prompt is missing: give --prompt, or --prompt_file (-: standard input)");
  }
  absl::Status unreadable =
      absl::InvalidArgumentError(absl::StrCat("--prompt_file: cannot read '", path, "'"));
  // A folder opens like a file; reading it then throws.
  if (path != "-" && std::filesystem::is_directory(path)) return unreadable;
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  std::istream& input = path == "-" ? std::cin : file;
  std::string text(std::istreambuf_iterator<char>(input), {});
  if (input.bad() || (path != "-" && !file.is_open())) return unreadable;
  return text;
}

absl::StatusOr<v1::GenerateRequest> RequestWithoutPrompt() {
  v1::GenerateRequest request;
  if (absl::Status status = FillSampling(request); !status.ok()) return status;
  if (absl::Status status = FillAttention(request); !status.ok()) return status;
  request.set_request_id(RequestId());
  request.set_priority(absl::GetFlag(FLAGS_priority));
  request.mutable_response()->set_prefill_progress(true);
  request.mutable_response()->set_token_ids(JsonOutput());
  request.mutable_response()->set_skip_special_tokens(absl::GetFlag(FLAGS_skip_special_tokens));
  request.set_cache_salt(absl::GetFlag(FLAGS_cache_salt));
  request.set_bypass_prefix_cache(absl::GetFlag(FLAGS_bypass_prefix_cache));
  return request;
}

absl::StatusOr<v1::GenerateRequest> GenerateRequestFromFlags(bool chat) {
  auto text = PromptText();
  if (!text.ok()) return text.status();
  auto request = RequestWithoutPrompt();
  if (!request.ok()) return request;
  if (chat) {
    FillChat(WithQuestion(*std::move(text)), *request->mutable_chat());
  } else {
    request->set_text(WithQuestion(*std::move(text)));
  }
  return request;
}

absl::StatusOr<v1::DetokenizeRequest> DetokenizeRequestFrom(const std::vector<std::string>& words) {
  v1::DetokenizeRequest request;
  request.set_skip_special_tokens(false);
  for (const std::string& word : words) {
    int32_t id = 0;
    if (!Parse(word, &id)) {
      return absl::InvalidArgumentError(absl::StrCat("'", word, "' is no token id"));
    }
    request.add_token_ids(id);
  }
  return request;
}

absl::StatusOr<v1::TokenizeRequest> TokenizeRequestFromFlags() {
  auto text = PromptText();
  if (!text.ok()) return text.status();
  v1::TokenizeRequest request;
  request.set_text(WithQuestion(*std::move(text)));
  return request;
}

}  // namespace nsa::client

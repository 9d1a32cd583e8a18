#include "client/load/trace.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace nsa::client {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostRequests = 10'000'000;
constexpr double kLongestTokens = 1 << 30;
constexpr double kLongestSeconds = 1e7;
constexpr size_t kLongestSaltBytes = 256;  // the proto's limit

absl::Status Bad(absl::string_view field, absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat("'", field, "' must be ", expected));
}

/// A number within [low, high], a whole one where `whole`; `value` stays where the field is absent.
absl::Status Read(const Json& line, const char* field, double low, double high, bool whole,
                  double& value) {
  const auto found = line.find(field);
  if (found == line.end()) return absl::OkStatus();
  const bool good =
      whole ? found->is_number_integer() : found->is_number();  // 5.0 is no number of tokens
  const double number = good ? found->get<double>() : 0;
  if (!good || !(number >= low && number <= high)) {
    return Bad(field, absl::StrCat(whole ? "a whole number from " : "a number from ",
                                   static_cast<int64_t>(low), " to ", static_cast<int64_t>(high)));
  }
  value = number;
  return absl::OkStatus();
}

absl::Status CheckFields(const Json& line) {
  static constexpr absl::string_view kFields[] = {"arrival_s",    "prompt_tokens", "output_tokens",
                                                  "prefix_group", "prefix_tokens", "priority",
                                                  "deadline_ms",  "cache_salt",    "token_ids"};
  if (!line.is_object()) return absl::InvalidArgumentError("expected one JSON object");
  for (const auto& [field, value] : line.items()) {
    if (std::find(std::begin(kFields), std::end(kFields), field) == std::end(kFields)) {
      return absl::InvalidArgumentError(absl::StrCat("'", field, "' is no field of a trace"));
    }
  }
  if (!line.contains("prompt_tokens") && !line.contains("token_ids")) {
    return absl::InvalidArgumentError("no 'prompt_tokens' and no 'token_ids'");
  }
  if (!line.contains("output_tokens")) return absl::InvalidArgumentError("no 'output_tokens'");
  if (line.contains("prefix_group") != line.contains("prefix_tokens")) {
    return absl::InvalidArgumentError("'prefix_group' and 'prefix_tokens' need each other");
  }
  return absl::OkStatus();
}

/// The prompt's ids; `prompt_tokens` becomes their number where the line does not have it.
absl::Status ReadTokenIds(const Json& line, std::vector<int32_t>& ids, double& prompt_tokens) {
  const auto found = line.find("token_ids");
  if (found == line.end()) return absl::OkStatus();
  constexpr int64_t kLargestId = std::numeric_limits<int32_t>::max();
  const auto is_id = [](const Json& id) {
    return id.is_number_unsigned() && id.get<uint64_t>() <= uint64_t{kLargestId};
  };
  if (!found->is_array() || found->empty() || !std::all_of(found->begin(), found->end(), is_id)) {
    return Bad("token_ids", absl::StrCat("a list of whole numbers from 0 to ", kLargestId));
  }
  if (!line.contains("prompt_tokens")) prompt_tokens = static_cast<double>(found->size());
  if (prompt_tokens != static_cast<double>(found->size())) {
    return Bad("prompt_tokens", absl::StrCat("the number of token_ids, ", found->size()));
  }
  ids = found->get<std::vector<int32_t>>();
  return absl::OkStatus();
}

absl::StatusOr<PlannedRequest> ParseLine(const std::string& text) {
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (line.is_discarded()) return absl::InvalidArgumentError("no JSON");
  if (absl::Status status = CheckFields(line); !status.ok()) return status;
  double prompt = 1, output = 1, group = 0, prefix = 0, priority = 0;
  PlannedRequest request;
  const absl::Status results[] = {
      Read(line, "arrival_s", 0, kLongestSeconds, false, request.arrival_s),
      Read(line, "prompt_tokens", 1, kLongestTokens, true, prompt),
      ReadTokenIds(line, request.token_ids, prompt),
      Read(line, "output_tokens", 1, kLongestTokens, true, output),
      Read(line, "prefix_group", 0, kLongestTokens, true, group),
      Read(line, "prefix_tokens", 0, prompt, true, prefix),
      Read(line, "priority", -1e9, 1e9, true, priority),
      Read(line, "deadline_ms", 0, 1e3 * kLongestSeconds, false, request.deadline_ms),
  };
  for (const absl::Status& status : results) {
    if (!status.ok()) return status;
  }
  if (const auto salt = line.find("cache_salt"); salt != line.end()) {
    if (!salt->is_string() || salt->get_ref<const std::string&>().size() > kLongestSaltBytes) {
      return Bad("cache_salt", "a string of at most 256 bytes");
    }
    request.cache_salt = salt->get<std::string>();
  }
  request.prompt_tokens = static_cast<int64_t>(prompt);
  request.output_tokens = static_cast<int64_t>(output);
  request.prefix_group = static_cast<int64_t>(group);
  request.prefix_tokens = static_cast<int64_t>(prefix);
  request.priority = static_cast<int32_t>(priority);
  return request;
}

}  // namespace

nlohmann::ordered_json TraceJson(const PlannedRequest& request) {
  nlohmann::ordered_json line = {{"arrival_s", request.arrival_s},
                                 {"prompt_tokens", request.prompt_tokens},
                                 {"output_tokens", request.output_tokens}};
  if (request.prefix_tokens > 0) {
    line["prefix_group"] = request.prefix_group;
    line["prefix_tokens"] = request.prefix_tokens;
  }
  if (request.priority != 0) line["priority"] = request.priority;
  if (request.deadline_ms > 0) line["deadline_ms"] = request.deadline_ms;
  if (!request.cache_salt.empty()) line["cache_salt"] = request.cache_salt;
  if (!request.token_ids.empty()) line["token_ids"] = request.token_ids;
  return line;
}

absl::StatusOr<std::vector<PlannedRequest>> ReadTrace(std::istream& input) {
  std::vector<PlannedRequest> requests;
  std::string text;
  for (int64_t number = 1; std::getline(input, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    auto request = ParseLine(text);
    absl::Status status = request.status();
    if (status.ok() && !requests.empty() && request->arrival_s < requests.back().arrival_s) {
      status = Bad("arrival_s", "at least the line's before");
    }
    if (status.ok() && requests.size() == kMostRequests) {
      status = absl::InvalidArgumentError("more than 10,000,000 requests");
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
    }
    request->index = static_cast<int64_t>(requests.size());
    requests.push_back(*std::move(request));
  }
  if (requests.empty()) return absl::InvalidArgumentError("it holds no request");
  return requests;
}

absl::StatusOr<std::vector<PlannedRequest>> ReadTraceFile(const std::string& path) {
  // A folder opens like a file.
  std::ifstream file;
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) file.open(path, std::ios::binary);
  if (!file.is_open()) {
    return absl::InvalidArgumentError(absl::StrCat("--trace_file: cannot read '", path, "'"));
  }
  auto requests = ReadTrace(file);
  if (requests.ok()) return requests;
  return absl::InvalidArgumentError(
      absl::StrCat("--trace_file '", path, "': ", requests.status().message()));
}

}  // namespace nsa::client

#include "server/tracing/otlp_json.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <variant>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/version.h"

namespace nsa::server {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kScope[] = "nsa_server";
constexpr int kStatusError = 2;
// Span.flags: W3C's sampled flag, and whether the parent is another process.
constexpr uint32_t kSampled = 0x1, kKnowsRemote = 0x100, kIsRemote = 0x200;

Json ToJson(const AttributeValue& value) {
  return std::visit(
      [](const auto& v) -> Json {
        using Type = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<Type, std::string>) return {{"stringValue", v}};
        if constexpr (std::is_same_v<Type, int64_t>) return {{"intValue", std::to_string(v)}};
        if constexpr (std::is_same_v<Type, double>) return {{"doubleValue", v}};
        if constexpr (std::is_same_v<Type, bool>) return {{"boolValue", v}};
        if constexpr (std::is_same_v<Type, std::vector<std::string>>) {
          Json values = Json::array();
          for (const std::string& word : v) values.push_back({{"stringValue", word}});
          return {{"arrayValue", {{"values", std::move(values)}}}};
        }
      },
      value);
}

Json ToJson(const Attributes& attributes) {
  Json list = Json::array();
  for (const auto& [key, value] : attributes) {
    list.push_back({{"key", key}, {"value", ToJson(value)}});
  }
  return list;
}

Json ToJson(const SpanTree& tree, const Span& span) {
  const bool is_root = &span == &tree.spans.front();
  Json json = {{"traceId", tree.trace_id}, {"spanId", span.id}};
  if (!span.parent_id.empty()) json["parentSpanId"] = span.parent_id;
  if (!tree.trace_state.empty()) json["traceState"] = tree.trace_state;
  const bool remote = is_root && tree.has_remote_parent;
  json["flags"] = kSampled | kKnowsRemote | (remote ? kIsRemote : 0);
  json["name"] = span.name;
  json["kind"] = static_cast<int>(span.kind);
  json["startTimeUnixNano"] = std::to_string(absl::ToUnixNanos(span.begin));
  json["endTimeUnixNano"] = std::to_string(absl::ToUnixNanos(span.end));
  if (!span.attributes.empty()) json["attributes"] = ToJson(span.attributes);
  if (span.failed) {
    json["status"] = {{"code", kStatusError}};
    if (!span.message.empty()) json["status"]["message"] = span.message;
  }
  return json;
}

}  // namespace

std::string ToOtlpJson(const Attributes& resource, const SpanTree& tree) {
  std::string lines;
  const Json attributes = ToJson(resource);
  for (size_t begin = 0; begin < tree.spans.size(); begin += kMaxSpansOfLine) {
    Json spans = Json::array();
    const size_t end = std::min(tree.spans.size(), begin + kMaxSpansOfLine);
    for (size_t i = begin; i < end; ++i) spans.push_back(ToJson(tree, tree.spans[i]));
    const Json scope = {{"scope", {{"name", kScope}, {"version", kVersion}}},
                        {"spans", std::move(spans)}};
    const Json whole = {{"resourceSpans", Json::array({{{"resource", {{"attributes", attributes}}},
                                                        {"scopeSpans", Json::array({scope})}}})}};
    lines += whole.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  }
  return lines;
}

}  // namespace nsa::server

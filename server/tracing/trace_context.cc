#include "server/tracing/trace_context.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace nsa::server {
namespace {

// version "-" trace-id "-" parent-id "-" flags
constexpr size_t kTraceIdBegin = 3, kTraceIdDigits = 32;
constexpr size_t kSpanIdBegin = 36, kSpanIdDigits = 16;
constexpr size_t kFlagsBegin = 53;
constexpr size_t kLength = 55;
// Of tracestate; the specification asks for no more.
constexpr size_t kMaxStateBytes = 512;
constexpr size_t kMaxStateMembers = 32;
// Of a trace id's random end, by which ratios are decided.
constexpr size_t kRandomDigits = 14;
constexpr double kRandomValues = 0x1p56;

bool IsHex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

int HexValue(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

std::optional<TraceContext> ParseParent(std::string_view text) {
  if (text.size() < kLength) return std::nullopt;
  const std::string_view version = text.substr(0, 2);
  if (!IsHex(version) || version == "ff") return std::nullopt;
  // Later versions may append fields.
  if (text.size() > kLength && (version == "00" || text[kLength] != '-')) return std::nullopt;
  if (text[2] != '-' || text[kSpanIdBegin - 1] != '-' || text[kFlagsBegin - 1] != '-') {
    return std::nullopt;
  }
  const std::string_view trace_id = text.substr(kTraceIdBegin, kTraceIdDigits);
  const std::string_view span_id = text.substr(kSpanIdBegin, kSpanIdDigits);
  const std::string_view flags = text.substr(kFlagsBegin, 2);
  if (!IsId(trace_id) || !IsId(span_id) || !IsHex(flags)) return std::nullopt;
  return TraceContext{.trace_id = std::string(trace_id),
                      .span_id = std::string(span_id),
                      .sampled = (HexValue(flags[1]) & 1) != 0,
                      .state = ""};
}

/// Keys are not looked at: they are passed on, not used.
bool IsState(const std::string& text) {
  if (text.size() > kMaxStateBytes) return false;
  if (!std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; })) return false;
  const std::vector<std::string> members = absl::StrSplit(text, ',');
  return members.size() <= kMaxStateMembers && std::ranges::all_of(members, [](const auto& member) {
           const bool empty = member.find_first_not_of(' ') == std::string::npos;
           return empty || member.find('=') != std::string::npos;
         });
}

}  // namespace

std::optional<TraceContext> ParseTraceContext(const std::vector<std::string_view>& parents,
                                              const std::vector<std::string_view>& states) {
  if (parents.size() != 1) return std::nullopt;
  auto context = ParseParent(parents.front());
  if (!context.has_value()) return std::nullopt;
  std::string state;
  for (const std::string_view part : states) {
    if (state.size() + part.size() > kMaxStateBytes) return context;
    if (!state.empty()) state += ',';
    state += part;
  }
  if (IsState(state)) context->state = std::move(state);
  return context;
}

std::string RandomId(int num_bytes) {
  static thread_local std::mt19937_64 random{std::random_device{}() ^
                                             (static_cast<uint64_t>(std::random_device{}()) << 32)};
  std::string id;
  do {
    id.clear();
    for (int i = 0; i < num_bytes; i += 8) id += absl::StrFormat("%016x", random());
    id.resize(2 * static_cast<size_t>(num_bytes));
  } while (!IsId(id));
  return id;
}

bool IsSampled(std::string_view trace_id, double ratio) {
  double value = 0;
  for (const char c : trace_id.substr(trace_id.size() - kRandomDigits)) {
    value = value * 16 + HexValue(c);
  }
  return value < ratio * kRandomValues;
}

}  // namespace nsa::server

#include "engine/stop_matcher.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace nsa::engine {

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {}

StopMatcher::Result StopMatcher::Append(const std::string& piece) {
  if (stops_.empty()) return {piece, std::nullopt};
  pending_ += piece;
  size_t first = std::string::npos;
  const std::string* found = nullptr;
  for (const std::string& stop : stops_) {
    const size_t position = pending_.find(stop);
    if (position < first) {
      first = position;
      found = &stop;
    }
  }
  Result result;
  if (found != nullptr) {
    result.text = pending_.substr(0, first + (include_stop_ ? found->size() : 0));
    result.stop_string = *found;
    pending_.clear();
    return result;
  }
  const size_t num_safe = pending_.size() - HeldBack();
  result.text = pending_.substr(0, num_safe);
  pending_.erase(0, num_safe);
  return result;
}

std::string StopMatcher::Flush() { return std::exchange(pending_, std::string()); }

size_t StopMatcher::HeldBack() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    size_t length = std::min(stop.size() - 1, pending_.size());
    while (length > longest && !pending_.ends_with(std::string_view(stop).substr(0, length))) {
      --length;
    }
    longest = std::max(longest, length);
  }
  // Cutting inside a character would show half of it: keep whole characters back.
  size_t begin = pending_.size() - longest;
  while (longest > 0 && begin > 0 && (static_cast<unsigned char>(pending_[begin]) & 0xC0) == 0x80) {
    --begin;
  }
  return pending_.size() - begin;
}

}  // namespace nsa::engine

#include "client/retry_hint.h"

#include <string>

#include "absl/strings/numbers.h"

namespace nsa::client {

std::optional<int64_t> RetryHint(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto found = metadata.find("retry-after-ms");
  int64_t value = 0;
  if (found == metadata.end()) return std::nullopt;
  const std::string text(found->second.data(), found->second.size());
  if (!absl::SimpleAtoi(text, &value) || value < 0) return std::nullopt;
  return value;
}

}  // namespace nsa::client

#include "server/security/call_check.h"

#include <string>
#include <string_view>

namespace nsa::server {
namespace {

constexpr std::string_view kHealth = "/grpc.health.v1.Health/";
constexpr std::string_view kScheme = "bearer ";

std::string_view ViewOf(const grpc::string_ref& text) { return {text.data(), text.size()}; }

/// The key of "Bearer KEY"; schemes are not case-sensitive (RFC 9110, 11.1).
std::string_view KeyOf(std::string_view authorization) {
  if (authorization.size() < kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i) {
    const char c = authorization[i];
    if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != kScheme[i]) return {};
  }
  return authorization.substr(kScheme.size());
}

grpc::Status Unauthenticated(const char* message) {
  return {grpc::StatusCode::UNAUTHENTICATED, message};
}

}  // namespace

std::string_view ApiKeyOf(const grpc::AuthMetadataProcessor::InputMetadata& metadata) {
  const auto [first, end] = metadata.equal_range("authorization");
  if (first == end || std::next(first) != end) return {};
  return KeyOf(ViewOf(first->second));
}

grpc::Status CallCheck::Process(const InputMetadata& metadata, grpc::AuthContext* context,
                                OutputMetadata* /*consumed*/, OutputMetadata* /*response*/) {
  const auto path = metadata.find(":path");
  if (path != metadata.end() && ViewOf(path->second).starts_with(kHealth)) return {};
  if (needs_certificate_ && !context->IsPeerAuthenticated()) {
    return Unauthenticated("a client certificate is needed");
  }
  if (keys_ == nullptr) return {};
  const auto [first, end] = metadata.equal_range("authorization");
  if (first == end) return Unauthenticated("an API key is needed: authorization: Bearer KEY");
  if (std::next(first) != end) return Unauthenticated("more than one authorization");
  if (keys_->NameOf(ApiKeyOf(metadata)).empty()) return Unauthenticated("the API key is not known");
  return {};
}

}  // namespace nsa::server

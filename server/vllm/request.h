#ifndef NSA_SERVER_VLLM_REQUEST_H_
#define NSA_SERVER_VLLM_REQUEST_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "nsa/v1/inference.pb.h"
#include "server/vllm/wire.h"

namespace nsa::server {

/// What a VllmEngine request asks for, as an nsa.v1 request, by whose ranges it is then checked.
/// InvalidArgument where nsa.v1 could not hold a value, or one message could not hold the answer;
/// Unimplemented for what this server has not: other modalities, transfer of caches, structural
/// tags. `max_context`: in tokens.
absl::StatusOr<std::unique_ptr<v1::GenerateRequest>> FromVllm(const wire::GenerateRequest& request,
                                                              int64_t max_context);

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_REQUEST_H_

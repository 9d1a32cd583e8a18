#ifndef NSA_CLIENT_RETRY_HINT_H_
#define NSA_CLIENT_RETRY_HINT_H_

#include <cstdint>
#include <optional>

#include "grpcpp/client_context.h"

namespace nsa::client {

/// After how many milliseconds a server that is full wants to be asked again; none where it does
/// not say. For a call that has ended.
std::optional<int64_t> RetryHint(const grpc::ClientContext& context);

}  // namespace nsa::client

#endif  // NSA_CLIENT_RETRY_HINT_H_

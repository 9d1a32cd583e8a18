#ifndef NSA_CLIENT_HEALTH_H_
#define NSA_CLIENT_HEALTH_H_

#include <chrono>
#include <memory>

#include "grpcpp/grpcpp.h"

namespace nsa::client {

/// Asks grpc.health.v1.Health/Check for the whole server. OK: it serves; UNAVAILABLE: it says that
/// it does not, or does not answer.
grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         std::chrono::system_clock::time_point deadline);

}  // namespace nsa::client

#endif  // NSA_CLIENT_HEALTH_H_

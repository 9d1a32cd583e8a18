#ifndef NSA_SERVER_VLLM_WIRE_H_
#define NSA_SERVER_VLLM_WIRE_H_

#include "vllm/common.pb.h"
#include "vllm/vllm_engine.pb.h"

/// Short names for others' packages.
namespace nsa::server {
namespace wire = ::vllm::grpc::engine;
namespace wire_common = ::smg::grpc::common;
}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_WIRE_H_

#ifndef NSA_SERVER_TRACING_REQUEST_ATTRIBUTES_H_
#define NSA_SERVER_TRACING_REQUEST_ATTRIBUTES_H_

#include "nsa/v1/inference.pb.h"
#include "server/tracing/span.h"

namespace nsa::server {

/// What a request asks for, under OpenTelemetry's names for generative models and, where these have
/// none, ours. Numbers and words of the API alone: no prompt, no stop string, no salt, nothing else
/// that a client wrote. The first is gen_ai.operation.name.
Attributes RequestAttributes(const v1::GenerateRequest& request);

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_REQUEST_ATTRIBUTES_H_

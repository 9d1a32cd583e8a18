#ifndef NSA_SERVER_VLLM_VLLM_SERVICE_H_
#define NSA_SERVER_VLLM_VLLM_SERVICE_H_

#include "server/intake.h"
#include "server/vllm/kv_event_stream.h"
#include "server/vllm/tokenizer_bundle.h"
#include "server/vllm/wire.h"
#include "vllm/vllm_engine.grpc.pb.h"

namespace nsa::server {

/// vllm.grpc.engine.VllmEngine: the same engine and the same queue as nsa.v1, in the words of the
/// gateway SMG. What it does not override answers UNIMPLEMENTED.
class VllmService final : public wire::VllmEngine::CallbackService {
 public:
  /// Both outlive the service and the server that it is registered with.
  VllmService(Intake* intake, TokenizerBundle* tokenizer)
      : intake_(intake), tokenizer_(tokenizer) {}

  /// Ends the streams that would not end by themselves.
  void Shutdown() { event_streams_.EndAll(); }

  grpc::ServerWriteReactor<wire::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const wire::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* HealthCheck(grpc::CallbackServerContext* context,
                                        const wire::HealthCheckRequest* request,
                                        wire::HealthCheckResponse* response) override;
  grpc::ServerUnaryReactor* FlushCache(grpc::CallbackServerContext* context,
                                       const wire_common::FlushCacheRequest* request,
                                       wire_common::FlushCacheResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const wire::AbortRequest* request,
                                  wire::AbortResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const wire::GetModelInfoRequest* request,
                                         wire::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const wire::GetServerInfoRequest* request,
                                          wire::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext* context,
                                     const wire::GetLoadsRequest* request,
                                     wire::GetLoadsResponse* response) override;
  grpc::ServerWriteReactor<wire_common::GetTokenizerChunk>* GetTokenizer(
      grpc::CallbackServerContext* context,
      const wire_common::GetTokenizerRequest* request) override;
  grpc::ServerWriteReactor<wire_common::KvEventBatch>* SubscribeKvEvents(
      grpc::CallbackServerContext* context,
      const wire_common::SubscribeKvEventsRequest* request) override;

 private:
  Intake* const intake_;
  TokenizerBundle* const tokenizer_;
  KvEventStreams event_streams_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_VLLM_SERVICE_H_

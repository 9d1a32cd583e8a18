#ifndef NSA_SERVER_INFERENCE_SERVICE_H_
#define NSA_SERVER_INFERENCE_SERVICE_H_

#include <functional>

#include "engine/engine.h"
#include "nsa/v1/inference.grpc.pb.h"
#include "server/intake.h"

namespace nsa::server {

/// nsa.v1.InferenceService over an engine, with gRPC's callback API. Handlers only hand work on:
/// prompts are tokenized by a small pool, results come from the engine thread.
class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  /// `intake` outlives the service and the server that it is registered with.
  explicit InferenceService(Intake* intake) : engine_(&intake->engine()), intake_(intake) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const v1::AbortRequest* request,
                                  v1::AbortResponse* response) override;
  grpc::ServerUnaryReactor* FlushCache(grpc::CallbackServerContext* context,
                                       const v1::FlushCacheRequest* request,
                                       v1::FlushCacheResponse* response) override;

 private:
  /// Gives `work`, which finishes the call, to the intake; where that is full the call ends here.
  void AddOrRefuse(grpc::ServerUnaryReactor* reactor, std::function<void()> work);

  engine::Engine* const engine_;
  Intake* const intake_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_INFERENCE_SERVICE_H_

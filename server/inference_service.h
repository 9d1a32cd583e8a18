#ifndef NSA_SERVER_INFERENCE_SERVICE_H_
#define NSA_SERVER_INFERENCE_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "nsa/v1/inference.grpc.pb.h"
#include "server/generate_call.h"
#include "server/tracing/tracer.h"
#include "server/work_pool.h"

namespace nsa::server {

/// nsa.v1.InferenceService over an engine, with gRPC's callback API. Handlers only hand work on:
/// prompts are tokenized by a small pool, results come from the engine thread.
class InferenceService final : public v1::InferenceService::CallbackService {
 public:
  struct Info {
    std::string served_model_name;
    int64_t max_message_bytes = 0;
    int32_t max_running_requests = 0;
    int32_t max_queued_requests = 0;
    // These outlive the service.
    const Tracer* tracer = nullptr;    // null: no call is recorded
    const ApiKeyFile* keys = nullptr;  // null: there are none
  };

  /// `engine` and `metrics` (may be null) outlive the service and the server that it is registered
  /// with.
  InferenceService(engine::Engine* engine, engine::MetricsObserver* metrics, const Info& info);

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
  std::string MakeRequestId();
  /// Gives `work`, which finishes the call, to the pool; where that is full the call ends here.
  void AddOrRefuse(grpc::ServerUnaryReactor* reactor, std::function<void()> work);

  engine::Engine* const engine_;
  engine::MetricsObserver no_metrics_;
  GenerateCall::Shared shared_;
  const Info info_;
  const absl::Time started_;
  const uint64_t id_prefix_;
  std::atomic<uint64_t> next_id_{0};
  WorkPool work_;
  WorkPool grammar_work_;  // requests whose grammars may take seconds to compile
};

}  // namespace nsa::server

#endif  // NSA_SERVER_INFERENCE_SERVICE_H_

#include "server/inference_service.h"

#include <utility>

#include "absl/status/status.h"
#include "server/convert.h"
#include "server/status.h"
#include "server/stream_writer.h"
#include "server/version.h"

namespace nsa::server {

void InferenceService::AddOrRefuse(grpc::ServerUnaryReactor* reactor, std::function<void()> work) {
  if (!intake_->Add(std::move(work))) reactor->Finish(ToGrpc(intake_->QueueFull()));
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const std::string id = intake_->IdFor(request->request_id());
  auto* call = new GenerateReactor<v1::GenerateResponse, StreamWriter>(
      intake_->shared(), context, request, id,
      {.request_id = id,
       .token_ids = request->response().token_ids(),
       .prefill_progress = request->response().prefill_progress()});  // deletes itself in OnDone
  intake_->Run(call);
  return call;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  AddOrRefuse(reactor, [this, reactor, request, response] {
    const auto tokens = ToTokens(*request, *engine_);
    if (tokens.ok()) {
      response->mutable_token_ids()->Assign(tokens->begin(), tokens->end());
      response->set_count(static_cast<int64_t>(tokens->size()));
    }
    reactor->Finish(ToGrpc(tokens.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  AddOrRefuse(reactor, [this, reactor, request, response] {
    auto text = ToText(*request, *engine_);
    const absl::Status status = text.status();
    if (text.ok()) response->set_text(*std::move(text));
    reactor->Finish(ToGrpc(status));
  });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest*,
                                                         v1::GetModelInfoResponse* response) {
  FillModelInfo(engine_->model_info(), engine_->chat_template() != nullptr, *response);
  response->set_served_model_name(intake_->info().served_model_name);
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
  response->set_version(kVersion);
  const ServiceInfo& info = intake_->info();
  response->set_uptime_seconds(absl::ToDoubleSeconds(intake_->uptime()));
  response->set_max_message_bytes(info.max_message_bytes);
  response->set_max_running_requests(info.max_running_requests);
  response->set_max_queued_requests(info.max_queued_requests);
  response->set_healthy(engine_->healthy());
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetLoad(grpc::CallbackServerContext* context,
                                                    const v1::GetLoadRequest*,
                                                    v1::GetLoadResponse* response) {
  const engine::EngineLoad load = engine_->load();
  response->set_num_running(load.num_running);
  response->set_num_waiting(load.num_waiting);
  response->set_num_waiting_tokens(load.num_waiting_tokens);
  response->set_num_pages_total(load.num_pages_total);
  response->set_num_pages_free(load.num_pages_free);
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::Abort(grpc::CallbackServerContext* context,
                                                  const v1::AbortRequest* request,
                                                  v1::AbortResponse*) {
  intake_->Abort(request->request_id());
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::FlushCache(grpc::CallbackServerContext* context,
                                                       const v1::FlushCacheRequest*,
                                                       v1::FlushCacheResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  engine_->FlushCache([reactor, response](int32_t num_pages) {
    response->set_num_pages_dropped(num_pages);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

}  // namespace nsa::server

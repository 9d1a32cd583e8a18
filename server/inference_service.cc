#include "server/inference_service.h"

#include <random>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/admission.h"
#include "server/convert.h"
#include "server/status.h"
#include "server/version.h"

namespace nsa::server {
namespace {

constexpr int kTokenizerThreads = 2;
// Prompts waiting to be tokenized; the engine's own queue is bounded apart from this.
constexpr size_t kMaxQueuedPrompts = 256;
// For such; a prompt takes milliseconds.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);
// Grammars wait for one another, and for nobody else.
constexpr int kGrammarThreads = 1;
constexpr size_t kMaxQueuedGrammars = 32;

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace

InferenceService::InferenceService(engine::Engine* engine, engine::MetricsObserver* metrics,
                                   const Info& info)
    : engine_(engine),
      shared_{engine, metrics != nullptr ? metrics : &no_metrics_, {}, info.tracer, info.keys},
      info_(info),
      started_(absl::Now()),
      id_prefix_(std::random_device{}()),
      work_("nsa-tokenize", kTokenizerThreads, kMaxQueuedPrompts),
      grammar_work_("nsa-grammar", kGrammarThreads, kMaxQueuedGrammars) {}

std::string InferenceService::MakeRequestId() {
  return absl::StrFormat("nsa-%08x-%d", id_prefix_, next_id_.fetch_add(1));
}

void InferenceService::AddOrRefuse(grpc::ServerUnaryReactor* reactor, std::function<void()> work) {
  if (work_.Add(std::move(work))) return;
  reactor->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED,
                   absl::StrCat("the queue is full: ", kMaxQueuedPrompts, " texts wait")});
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const std::string id = request->request_id().empty() ? MakeRequestId() : request->request_id();
  auto* call = new GenerateCall(&shared_, context, request, id);  // deletes itself in OnDone
  if (const absl::Status admitted = call->Admit(); !admitted.ok()) {
    call->Reject(admitted);
    return call;
  }
  WorkPool& work = request->has_structured_output() ? grammar_work_ : work_;
  if (!work.Add([call] { call->Start(); })) {
    shared_.metrics->OnRejected("queue_full");
    call->Reject(engine::WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", work.max_queued(),
                                                  " prompts wait to be tokenized")),
        kRetryDelay));
  }
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
  response->set_served_model_name(info_.served_model_name);
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
  response->set_version(kVersion);
  response->set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - started_));
  response->set_max_message_bytes(info_.max_message_bytes);
  response->set_max_running_requests(info_.max_running_requests);
  response->set_max_queued_requests(info_.max_queued_requests);
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
  // In this order: what is no longer pending is the engine's.
  shared_.pending.Abort(request->request_id());
  engine_->Abort(request->request_id());
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

#include "server/vllm/vllm_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/status.h"
#include "server/version.h"
#include "server/vllm/request.h"
#include "server/vllm/response_writer.h"
#include "server/vllm/streams.h"

namespace nsa::server {
namespace {

// A gateway asks GetTokenizer only if there is a path, and only after it has failed to load from
// it; where no file of that name exists it asks a hub of models in between. This one exists
// everywhere and holds no tokenizer.
constexpr char kNoTokenizer[] = "/dev/null";

ResponseWriter::Options WriterOptions(const wire::GenerateRequest& from,
                                      const v1::GenerateRequest& request,
                                      const engine::Engine& engine) {
  ResponseWriter::Options options;
  options.stream = from.stream();
  options.num_prompt_tokens = request.token_ids().ids_size();
  if (options.num_prompt_tokens > 0) options.first_prompt_token = request.token_ids().ids(0);
  options.top_logprobs = request.sampling().logprobs() > 0;
  options.top_prompt_logprobs = request.sampling().prompt_logprobs() > 0;
  options.stop_ids = engine.tokenizer().stop_ids();
  return options;
}

}  // namespace

grpc::ServerWriteReactor<wire::GenerateResponse>* VllmService::Generate(
    grpc::CallbackServerContext* context, const wire::GenerateRequest* request) {
  const engine::Engine& engine = intake_->engine();
  auto made = FromVllm(*request, engine.model_info().max_context);
  const absl::Status status = made.status();
  auto owned = made.ok() ? *std::move(made) : std::make_unique<v1::GenerateRequest>();
  owned->set_request_id(request->request_id());
  const auto options = WriterOptions(*request, *owned, engine);
  auto* call = new GenerateReactor<wire::GenerateResponse, ResponseWriter>(
      intake_->shared(), context, nullptr, intake_->IdFor(request->request_id()), options,
      std::move(owned));  // deletes itself in OnDone
  if (status.ok()) {
    intake_->Run(call);
  } else {
    call->Reject(status);
  }
  return call;
}

grpc::ServerUnaryReactor* VllmService::HealthCheck(grpc::CallbackServerContext* context,
                                                   const wire::HealthCheckRequest*,
                                                   wire::HealthCheckResponse* response) {
  response->set_healthy(intake_->serving());
  response->set_message(response->healthy() ? "serving" : "not serving");
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmService::FlushCache(grpc::CallbackServerContext* context,
                                                  const wire_common::FlushCacheRequest*,
                                                  wire_common::FlushCacheResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  intake_->engine().FlushCache([reactor, response](int32_t num_pages) {
    response->set_success(true);
    response->set_message(absl::StrCat(num_pages, " pages dropped"));
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* VllmService::Abort(grpc::CallbackServerContext* context,
                                             const wire::AbortRequest* request,
                                             wire::AbortResponse*) {
  for (const std::string& id : request->request_ids()) intake_->Abort(id);
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmService::GetModelInfo(grpc::CallbackServerContext* context,
                                                    const wire::GetModelInfoRequest*,
                                                    wire::GetModelInfoResponse* response) {
  const engine::Engine& engine = intake_->engine();
  const engine::ModelInfo& info = engine.model_info();
  response->set_model_path(info.path);
  response->set_tokenizer_path(kNoTokenizer);
  response->set_served_model_name(intake_->info().served_model_name);
  response->set_is_generation(true);
  response->set_max_context_length(static_cast<uint32_t>(info.max_context));
  response->set_max_req_input_len(static_cast<int32_t>(info.max_context - 1));
  response->set_vocab_size(static_cast<uint32_t>(info.vocabulary_size));
  response->set_model_type(info.family);
  response->add_architectures(info.architecture);
  const auto& stop_ids = engine.tokenizer().stop_ids();
  response->mutable_eos_token_ids()->Assign(stop_ids.begin(), stop_ids.end());
  response->set_bos_token_id(engine.tokenizer().bos_id());
  response->set_pad_token_id(stop_ids.empty() ? 0 : stop_ids.front());
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmService::GetServerInfo(grpc::CallbackServerContext* context,
                                                     const wire::GetServerInfoRequest*,
                                                     wire::GetServerInfoResponse* response) {
  const engine::EngineLoad load = intake_->engine().load();
  response->set_active_requests(static_cast<uint32_t>(load.num_running + load.num_waiting));
  response->set_uptime_seconds(absl::ToDoubleSeconds(intake_->uptime()));
  response->set_server_type("nsa-serve");
  response->set_data_parallel_size(1);
  response->set_kv_cache_dtype(intake_->engine().model_info().kv_cache_dtype);
  response->set_block_size(static_cast<int32_t>(engine::kCachePageTokens));
  response->set_attention_backend(intake_->engine().model_info().backend);
  response->set_max_num_seqs(intake_->info().max_running_requests);
  response->set_constrained_decoding_start("first_token");
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* VllmService::GetLoads(grpc::CallbackServerContext* context,
                                                const wire::GetLoadsRequest*,
                                                wire::GetLoadsResponse* response) {
  const engine::EngineLoad load = intake_->engine().load();
  const int64_t used = load.num_pages_total - load.num_pages_free;
  response->set_timestamp(absl::FormatTime(absl::RFC3339_full, absl::Now(), absl::UTCTimeZone()));
  response->set_version(kVersion);
  response->set_dp_rank_count(1);
  wire::SchedulerLoad& rank = *response->add_loads();
  rank.set_num_running_reqs(load.num_running);
  rank.set_num_waiting_reqs(load.num_waiting);
  rank.set_num_total_reqs(load.num_running + load.num_waiting);
  rank.set_num_used_tokens(static_cast<int32_t>(used * engine::kCachePageTokens));
  rank.set_max_total_num_tokens(
      static_cast<int32_t>(load.num_pages_total * engine::kCachePageTokens));
  if (load.num_pages_total > 0) {
    rank.set_token_usage(static_cast<double>(used) / static_cast<double>(load.num_pages_total));
  }
  rank.set_max_running_requests(intake_->info().max_running_requests);
  rank.set_num_waiting_uncached_tokens(static_cast<int32_t>(load.num_waiting_tokens));
  return Reply(context, absl::OkStatus());
}

grpc::ServerWriteReactor<wire_common::GetTokenizerChunk>* VllmService::GetTokenizer(
    grpc::CallbackServerContext* /*context*/, const wire_common::GetTokenizerRequest*) {
  auto* call = new TokenizerCall();  // deletes itself in OnDone
  if (!intake_->Add([call, this] { call->Run(*tokenizer_); })) {
    call->Finish(ToGrpc(intake_->QueueFull()));
  }
  return call;
}

grpc::ServerWriteReactor<wire_common::KvEventBatch>* VllmService::SubscribeKvEvents(
    grpc::CallbackServerContext* /*context*/,
    const wire_common::SubscribeKvEventsRequest* request) {
  auto* call = new KvEventCall(&intake_->engine());  // as above
  if (request->start_sequence_number() != 0) {
    call->Finish(absl::OutOfRangeError(
        absl::StrCat("start_sequence_number is ", request->start_sequence_number(),
                     ", expected 0: a stream begins with all that is cached")));
  } else if (const absl::Status added = event_streams_.Add(call->events()); !added.ok()) {
    call->Finish(added);
  } else {
    call->StartSendInitialMetadata();
  }
  return call;
}

}  // namespace nsa::server

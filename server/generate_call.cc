#include "server/generate_call.h"

#include <chrono>
#include <utility>

#include "server/convert.h"

namespace nsa::server {
namespace {

// What a client that met a full queue is told to wait; a step takes tens of milliseconds.
constexpr char kRetryAfterMs[] = "1000";

absl::Time ToTime(std::chrono::system_clock::time_point time) {
  // gRPC's "no deadline" is far in the future; absl's own infinity is not needed for comparison.
  return absl::FromChrono(time);
}

}  // namespace

GenerateCall::GenerateCall(engine::Engine* engine, grpc::CallbackServerContext* context,
                           const v1::GenerateRequest* request, std::string request_id)
    : engine_(engine),
      context_(context),
      request_(request),
      request_id_(std::move(request_id)),
      deadline_(ToTime(context->deadline())),
      writer_(std::make_shared<StreamWriter>(
          this, StreamWriter::Options{.request_id = request_id_,
                                      .token_ids = request->response().token_ids(),
                                      .prefill_progress = request->response().prefill_progress()})) {
}

void GenerateCall::Reject(const absl::Status& status) {
  if (absl::IsResourceExhausted(status)) {
    context_->AddTrailingMetadata("retry-after-ms", kRetryAfterMs);
  }
  grpc::ServerWriteReactor<v1::GenerateResponse>::Finish(ToGrpc(status));
}

void GenerateCall::Start() {
  if (progress_->cancelled) {
    // Nothing of it has reached the engine; the client has its status already.
    return Reject(absl::CancelledError("cancelled before it started"));
  }
  auto request = ToRequest(*request_, *engine_, request_id_, deadline_);
  if (!request.ok()) return Reject(request.status());
  // After a successful Submit the engine may end the call at any moment, and this with it.
  const std::string id = request_id_;
  engine::Engine* const engine = engine_;
  const std::shared_ptr<Progress> progress = progress_;
  const absl::Status status = engine->Submit(*std::move(request), writer_);
  if (!status.ok()) return Reject(status);
  progress->submitted = true;
  if (progress->cancelled) engine->Abort(id);
}

void GenerateCall::StartWrite(const v1::GenerateResponse* message) {
  grpc::ServerWriteReactor<v1::GenerateResponse>::StartWrite(message);
}

void GenerateCall::Finish(const absl::Status& status) {
  grpc::ServerWriteReactor<v1::GenerateResponse>::Finish(ToGrpc(status));
}

void GenerateCall::OnWriteDone(bool ok) {
  if (!ok) engine_->Abort(request_id_);
  writer_->OnWriteDone(ok);
}

void GenerateCall::OnCancel() {
  progress_->cancelled = true;
  if (progress_->submitted) engine_->Abort(request_id_);
}

void GenerateCall::OnDone() { delete this; }

}  // namespace nsa::server

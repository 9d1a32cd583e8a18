#include "server/generate_call.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/admission.h"
#include "engine/log.h"
#include "server/convert.h"
#include "server/security/call_check.h"
#include "server/status.h"

namespace nsa::server {
namespace {

// Metadata by which a gateway says for whom it asks. Without it all are one tenant.
constexpr char kTenantKey[] = "nsa-tenant";
constexpr size_t kMaxTenantBytes = 256;
// A client's deadline comes as the time that is left, so its clock runs out before ours does.
constexpr absl::Duration kDeadlineTravel = absl::Milliseconds(100);

/// Who has a key cannot call himself otherwise; without one only gateways come as far, on a port of
/// their own. Longer names are cut: they only decide whose turn it is.
std::string TenantOf(const grpc::CallbackServerContext& context, const ApiKeyFile* keys) {
  if (keys != nullptr) {
    const std::string name = keys->NameOf(ApiKeyOf(context.client_metadata()));
    if (!name.empty()) return name;
  }
  const auto found = context.client_metadata().find(kTenantKey);
  if (found == context.client_metadata().end()) return "";
  return {found->second.data(), std::min(found->second.size(), kMaxTenantBytes)};
}

/// Neither the client's doing nor load: whoever runs the server should know.
bool IsOurFault(const absl::Status& status) {
  return absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsDataLoss(status);
}

/// A word for the metrics. Null: the engine has counted it, or knows the reason better.
const char* RejectionReason(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return "invalid_argument";
    case absl::StatusCode::kUnimplemented:
      return "unimplemented";
    case absl::StatusCode::kAlreadyExists:
      return "request_id_in_use";
    case absl::StatusCode::kUnavailable:
      return "unavailable";
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    default:
      return nullptr;
  }
}

}  // namespace

GenerateCall::GenerateCall(Shared* shared, grpc::CallbackServerContext* context,
                           const v1::GenerateRequest* request, std::string request_id)
    : shared_(shared),
      context_(context),
      request_(request),
      request_id_(std::move(request_id)),
      // Without a deadline gRPC says a time in the far future, which is as good.
      deadline_(absl::FromChrono(context->deadline())),
      tenant_(TenantOf(*context, shared->keys)) {
  // The client's own id may hold bytes that metadata cannot.
  if (request->request_id().empty()) context->AddInitialMetadata("request-id", request_id_);
}

void GenerateCall::SetWriter(std::shared_ptr<CallSink> writer, const char* method) {
  writer_ = std::move(writer);
  sink_ = writer_;
  if (shared_->tracer == nullptr) return;
  recorder_ =
      shared_->tracer->Begin(method, context_->client_metadata(), *request_, request_id_, writer_);
  if (recorder_ != nullptr) sink_ = recorder_;
}

absl::Status GenerateCall::Admit() {
  if (!shared_->engine->healthy()) {
    return absl::UnavailableError("the engine has stopped; the server must be restarted");
  }
  const engine::Arrival arrival = {
      .prompt_bytes = PromptBytes(*request_), .tenant = tenant_, .priority = request_->priority()};
  absl::Status status = shared_->engine->Admit(arrival);
  if (!status.ok()) return status;
  pending_ = shared_->pending.Add(request_id_, progress_);
  if (pending_) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("request_id '", request_id_, "' is in use by a waiting request"));
}

void GenerateCall::Reject(const absl::Status& status) {
  if (const char* reason = RejectionReason(status)) shared_->metrics->OnRejected(reason);
  if (pending_) shared_->pending.Remove(request_id_);
  NoteStatus(status);
  FinishCall(ToGrpc(status));
}

void GenerateCall::EndUnstarted() {
  if (!progress_->aborted) {
    // The client has its status already.
    return Reject(absl::CancelledError("cancelled before it started"));
  }
  shared_->metrics->OnRejected("cancelled");
  shared_->pending.Remove(request_id_);
  engine::Finish finish;
  finish.reason = engine::FinishReason::kAborted;
  const std::shared_ptr<engine::OutputSink> sink = sink_;  // the end may take this call away
  sink->OnDone(absl::OkStatus(), finish);
}

void GenerateCall::Start() {
  if (recorder_ != nullptr) recorder_->OnWork();
  if (progress_->cancelled) return EndUnstarted();
  if (absl::Now() >= deadline_) {
    return Reject(absl::DeadlineExceededError("deadline passed before the prompt was tokenized"));
  }
  auto request = ToRequest(*request_, *shared_->engine, request_id_, deadline_);
  if (!request.ok()) return Reject(request.status());
  request->tenant = tenant_;
  if (progress_->cancelled) return EndUnstarted();
  // After a successful Submit the engine may end the call at any moment, and this with it.
  Shared* const shared = shared_;
  const std::string id = request_id_;
  const std::shared_ptr<CallProgress> progress = progress_;
  const std::shared_ptr<CallSink> writer = writer_;
  std::shared_ptr<engine::OutputSink> sink = sink_;
  pending_ = false;
  const absl::Status status = shared->pending.HandOver(
      id, [&] { return shared->engine->Submit(*std::move(request), std::move(sink)); });
  if (!status.ok()) return Reject(status);
  progress->submitted = true;
  if (progress->cancelled && !writer->engine_done()) shared->engine->Abort(id);
}

void GenerateCall::WriteFailed() {
  if (!writer_->engine_done()) shared_->engine->Abort(request_id_);
}

void GenerateCall::Cancel() {
  progress_->cancelled = true;
  if (progress_->submitted && !writer_->engine_done()) shared_->engine->Abort(request_id_);
}

void GenerateCall::NoteStatus(const absl::Status& status) {
  status_ = status;
  if (const auto delay = engine::RetryAfterOf(status)) {
    context_->AddTrailingMetadata("retry-after-ms",
                                  absl::StrCat(absl::ToInt64Milliseconds(*delay)));
  }
  if (!IsOurFault(status)) return;
  // Such a message is the engine's own words; those of a bad request may quote it.
  const auto trace = TraceContextOf(context_->client_metadata()).value_or(TraceContext());
  const log::RequestName name = {.id = request_id_, .trace_id = trace.trace_id};
  LOG_REQUEST(ERROR, name) << "failed: " << status;
}

absl::Status GenerateCall::FinalStatus() const {
  const bool left = progress_->cancelled && !progress_->aborted;
  if (!left || !(status_.ok() || absl::IsCancelled(status_))) return status_;
  return absl::Now() >= deadline_ - kDeadlineTravel
             ? absl::DeadlineExceededError("the deadline passed")
             : absl::CancelledError("the client has gone");
}

void GenerateCall::End() {
  if (recorder_ != nullptr) shared_->tracer->End(recorder_, FinalStatus());
}

}  // namespace nsa::server

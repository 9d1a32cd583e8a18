#ifndef NSA_SERVER_GENERATE_CALL_H_
#define NSA_SERVER_GENERATE_CALL_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "grpcpp/grpcpp.h"
#include "nsa/v1/inference.pb.h"
#include "server/call_sink.h"
#include "server/outbox.h"
#include "server/pending_calls.h"
#include "server/security/api_key_file.h"
#include "server/status.h"
#include "server/tracing/tracer.h"

namespace nsa::server {

/// One Generate call from its first byte to its end, whatever protocol it speaks: what it asks for
/// is an nsa.v1 request. That reaches the engine at most once; where it did, the engine's OnDone
/// leads to the call's end.
class GenerateCall {
 public:
  /// What all calls share; outlives them.
  struct Shared {
    engine::Engine* engine = nullptr;
    engine::MetricsObserver* metrics =
        nullptr;  // told of what is refused before the engine's queue
    PendingCalls pending;
    const Tracer* tracer = nullptr;    // null: nothing is recorded
    const ApiKeyFile* keys = nullptr;  // null: tenants are called as clients say
  };

  virtual ~GenerateCall() = default;

  /// Tests what needs no token ids. Where it is OK, Start must follow, or Reject.
  absl::Status Admit();

  /// Checks, tokenizes and submits; on a worker's thread.
  void Start();

  /// Ends the call before it reached the engine.
  void Reject(const absl::Status& status);

  const v1::GenerateRequest& request() const { return *request_; }

 protected:
  /// `request` lives as long as the call.
  GenerateCall(Shared* shared, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request, std::string request_id);

  /// Where the request's output goes, of a call of `method` as gRPC names it; before all else.
  void SetWriter(std::shared_ptr<CallSink> writer, const char* method);
  template <typename Message>
  void NoteWrite(const Message& message) {
    if (recorder_ != nullptr) recorder_->OnWrite(static_cast<int64_t>(message.ByteSizeLong()));
  }
  /// The status goes to the client, and its retry hint with it.
  void NoteStatus(const absl::Status& status);
  /// gRPC is done with the call.
  void End();
  /// The client is gone, or its deadline has passed.
  void Cancel();
  /// A write did not reach the client.
  void WriteFailed();

 private:
  virtual void FinishCall(const grpc::Status& status) = 0;
  void EndUnstarted();
  /// As the client has it, which may have gone before the end.
  absl::Status FinalStatus() const;

  Shared* const shared_;
  grpc::CallbackServerContext* const context_;
  const v1::GenerateRequest* const request_;
  const std::string request_id_;
  const absl::Time deadline_;
  const std::string tenant_;
  std::shared_ptr<CallSink> writer_;
  std::shared_ptr<CallRecorder> recorder_;    // null: nothing is recorded
  std::shared_ptr<engine::OutputSink> sink_;  // writer_, or recorder_ in front of it
  // Whichever of Start and a cancellation comes second sees the other's mark and aborts; an id that
  // was never accepted, or is done, is left alone, for it may be another's.
  const std::shared_ptr<CallProgress> progress_ = std::make_shared<CallProgress>();
  bool pending_ = false;  // it is among shared_->pending
  absl::Status status_;   // what Finish said
};

/// A GenerateCall on a gRPC stream, which Writer (a CallSink with an outbox of Responses, and the
/// method's name) fills. gRPC deletes it through OnDone, after Finish.
template <typename Response, typename Writer>
class GenerateReactor final : public grpc::ServerWriteReactor<Response>,
                              public MessageStream<Response>,
                              public GenerateCall {
 public:
  /// `request` lives as long as the call, or `owned` does and is what it asks for.
  GenerateReactor(Shared* shared, grpc::CallbackServerContext* context,
                  const v1::GenerateRequest* request, std::string request_id,
                  typename Writer::Options options,
                  std::unique_ptr<const v1::GenerateRequest> owned = nullptr)
      : GenerateCall(shared, context, owned != nullptr ? owned.get() : request,
                     std::move(request_id)),
        owned_(std::move(owned)),
        writer_(std::make_shared<Writer>(this, std::move(options))) {
    SetWriter(writer_, Writer::kMethod);
  }

  // MessageStream.
  void StartWrite(const Response* message) override {
    NoteWrite(*message);
    grpc::ServerWriteReactor<Response>::StartWrite(message);
  }
  void Finish(const absl::Status& status) override {
    NoteStatus(status);
    FinishCall(ToGrpc(status));
  }

  // Reactor.
  void OnWriteDone(bool ok) override {
    if (!ok) WriteFailed();
    writer_->OnWriteDone(ok);
  }
  void OnCancel() override { Cancel(); }
  void OnDone() override {
    End();
    delete this;
  }

 private:
  void FinishCall(const grpc::Status& status) override {
    grpc::ServerWriteReactor<Response>::Finish(status);
  }

  const std::unique_ptr<const v1::GenerateRequest> owned_;
  const std::shared_ptr<Writer> writer_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_GENERATE_CALL_H_

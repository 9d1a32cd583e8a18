#ifndef NSA_SERVER_GENERATE_CALL_H_
#define NSA_SERVER_GENERATE_CALL_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "nsa/v1/inference.grpc.pb.h"
#include "server/pending_calls.h"
#include "server/security/api_key_file.h"
#include "server/stream_writer.h"
#include "server/tracing/tracer.h"

namespace nsa::server {

/// One Generate call from its first byte to its end. gRPC deletes it through OnDone, after Finish.
/// Its request reaches the engine at most once; where it did, the engine's OnDone leads to Finish.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public MessageStream {
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

  GenerateCall(Shared* shared, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request, std::string request_id);

  /// Tests what needs no token ids. Where it is OK, Start must follow, or Reject.
  absl::Status Admit();

  /// Checks, tokenizes and submits; on a worker's thread.
  void Start();

  /// Ends the call before it reached the engine. A status' retry hint goes with it.
  void Reject(const absl::Status& status);

  // MessageStream.
  void StartWrite(const v1::GenerateResponse* message) override;
  void Finish(const absl::Status& status) override;

  // Reactor.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void EndUnstarted();
  /// The status goes to the client.
  void NoteStatus(const absl::Status& status);
  /// As the client has it, which may have gone before the end.
  absl::Status FinalStatus() const;

  Shared* const shared_;
  grpc::CallbackServerContext* const context_;
  const v1::GenerateRequest* const request_;  // lives as long as the call
  const std::string request_id_;
  const absl::Time deadline_;
  const std::string tenant_;
  const std::shared_ptr<StreamWriter> writer_;
  const std::shared_ptr<CallRecorder> recorder_;    // null: nothing is recorded
  const std::shared_ptr<engine::OutputSink> sink_;  // writer_, or recorder_ in front of it
  // Whichever of Start and a cancellation comes second sees the other's mark and aborts; an id that
  // was never accepted, or is done, is left alone, for it may be another's.
  const std::shared_ptr<CallProgress> progress_ = std::make_shared<CallProgress>();
  bool pending_ = false;  // it is among shared_->pending
  absl::Status status_;   // what Finish said
};

}  // namespace nsa::server

#endif  // NSA_SERVER_GENERATE_CALL_H_

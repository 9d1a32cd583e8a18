#ifndef NSA_SERVER_GENERATE_CALL_H_
#define NSA_SERVER_GENERATE_CALL_H_

#include <atomic>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "nsa/v1/inference.grpc.pb.h"
#include "server/stream_writer.h"

namespace nsa::server {

/// One Generate call from its first byte to its end. gRPC deletes it through OnDone, after Finish.
/// Its request reaches the engine at most once; where it did, the engine's OnDone leads to Finish.
class GenerateCall final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public MessageStream {
 public:
  GenerateCall(engine::Engine* engine, grpc::CallbackServerContext* context,
               const v1::GenerateRequest* request, std::string request_id);

  /// Checks, tokenizes and submits; on a worker's thread.
  void Start();

  /// Ends the call before it reached the engine. RESOURCE_EXHAUSTED gets a retry hint.
  void Reject(const absl::Status& status);

  // MessageStream.
  void StartWrite(const v1::GenerateResponse* message) override;
  void Finish(const absl::Status& status) override;

  // Reactor.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  engine::Engine* engine_;
  grpc::CallbackServerContext* context_;
  const v1::GenerateRequest* request_;  // lives as long as the call
  const std::string request_id_;
  const absl::Time deadline_;
  std::shared_ptr<StreamWriter> writer_;

  /// Outlives the call: the engine may end it while Submit returns. Whichever of Start and OnCancel
  /// comes second sees the other's mark and aborts; an id that was never accepted is left alone, for
  /// it may be another's.
  struct Progress {
    std::atomic<bool> cancelled{false};
    std::atomic<bool> submitted{false};
  };
  std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
};

}  // namespace nsa::server

#endif  // NSA_SERVER_GENERATE_CALL_H_

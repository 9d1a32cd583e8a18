#ifndef NSA_SERVER_STREAM_WRITER_H_
#define NSA_SERVER_STREAM_WRITER_H_

#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/request.h"
#include "nsa/v1/inference.pb.h"

namespace nsa::server {

/// What a StreamWriter needs of a gRPC stream; a test gives its own.
class MessageStream {
 public:
  virtual ~MessageStream() = default;
  /// Begins a write; OnWriteDone follows later. `message` stays until then.
  virtual void StartWrite(const v1::GenerateResponse* message) = 0;
  /// Ends the stream. Nothing follows.
  virtual void Finish(const absl::Status& status) = 0;
};

/// One request's way out: takes the engine's results, keeps a bounded outbox, and has one write in
/// flight. A slow reader fills its own outbox, Ready() turns false, and its request alone pauses.
/// The stream ends when the engine is done and the outbox is empty. OutputSink calls come from the
/// engine thread, the others from gRPC's; none blocks.
class StreamWriter final : public engine::OutputSink {
 public:
  struct Options {
    std::string request_id;
    bool token_ids = false;
    bool prefill_progress = false;
  };

  /// Messages that may wait for a slow reader before its request pauses. Those of the step that
  /// then runs, and the last one, still come: the outbox holds a few more at most.
  static constexpr size_t kMaxOutbox = 64;

  /// `stream` lives until Finish has been called on it.
  StreamWriter(MessageStream* stream, Options options)
      : stream_(stream), options_(std::move(options)) {}

  void OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) override;
  void OnPromptLogprobs(int64_t position,
                        const std::vector<engine::TokenLogprobs>& logprobs) override;
  void OnOutput(engine::Output output) override;
  void OnChoiceDone(const engine::Finish& finish) override;
  void OnDone(const absl::Status& status, const engine::Finish& finish) override;
  bool Ready() const override;

  /// True once the engine has ended the request, whose id another may then have.
  bool engine_done() const;

  /// A write ended; `ok` is false where the client is gone: what is left is dropped.
  void OnWriteDone(bool ok);

 private:
  void Push(v1::GenerateResponse message);
  void Pump();

  MessageStream* stream_;
  const Options options_;
  mutable std::mutex mutex_;
  std::deque<v1::GenerateResponse> outbox_;  // front: in flight where writing_
  bool writing_ = false;
  bool client_gone_ = false;
  bool finished_ = false;
  std::optional<absl::Status> final_status_;  // set when the engine is done
};

}  // namespace nsa::server

#endif  // NSA_SERVER_STREAM_WRITER_H_

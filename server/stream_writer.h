#ifndef NSA_SERVER_STREAM_WRITER_H_
#define NSA_SERVER_STREAM_WRITER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "nsa/v1/inference.pb.h"
#include "server/call_sink.h"
#include "server/outbox.h"

namespace nsa::server {

/// One request's way out through nsa.v1: turns the engine's results into messages in a bounded
/// outbox. A slow reader fills its own outbox, Ready() turns false, and its request alone pauses.
/// OutputSink calls come from the engine thread, the others from gRPC's; none blocks.
class StreamWriter final : public CallSink {
 public:
  struct Options {
    std::string request_id;
    bool token_ids = false;
    bool prefill_progress = false;
  };

  /// `stream` lives until Finish has been called on it.
  StreamWriter(MessageStream<v1::GenerateResponse>* stream, Options options)
      : options_(std::move(options)), outbox_(stream) {}

  void OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) override;
  void OnPromptLogprobs(int64_t position,
                        const std::vector<engine::TokenLogprobs>& logprobs) override;
  void OnOutput(engine::Output output) override;
  void OnChoiceDone(const engine::Finish& finish) override;
  void OnDone(const absl::Status& status, const engine::Finish& finish) override;
  bool Ready() const override { return outbox_.HasRoom(kMaxOutbox); }
  bool engine_done() const override { return outbox_.closed(); }

  void OnWriteDone(bool ok) { outbox_.OnWriteDone(ok); }

 private:
  const Options options_;
  Outbox<v1::GenerateResponse> outbox_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_STREAM_WRITER_H_

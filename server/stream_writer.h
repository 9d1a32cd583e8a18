#ifndef NSA_SERVER_STREAM_WRITER_H_
#define NSA_SERVER_STREAM_WRITER_H_

#include <string>
#include <utility>
#include <vector>

#include "nsa/v1/inference.pb.h"
#include "server/call_sink.h"

namespace nsa::server {

/// One request's way out through nsa.v1: turns the engine's results into its messages.
class StreamWriter final : public OutboxSink<v1::GenerateResponse> {
 public:
  static constexpr char kMethod[] = "nsa.v1.InferenceService/Generate";

  struct Options {
    std::string request_id;
    bool token_ids = false;
    bool prefill_progress = false;
  };

  /// `stream` lives until Finish has been called on it.
  StreamWriter(MessageStream<v1::GenerateResponse>* stream, Options options)
      : OutboxSink(stream), options_(std::move(options)) {}

  void OnPrefillProgress(int64_t num_processed, int64_t num_prompt_tokens) override;
  void OnPromptLogprobs(int64_t position,
                        const std::vector<engine::TokenLogprobs>& logprobs) override;
  void OnOutput(engine::Output output) override;
  void OnChoiceDone(const engine::Finish& finish) override;

 private:
  const Options options_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_STREAM_WRITER_H_

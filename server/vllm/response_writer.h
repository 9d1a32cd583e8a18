#ifndef NSA_SERVER_VLLM_RESPONSE_WRITER_H_
#define NSA_SERVER_VLLM_RESPONSE_WRITER_H_

#include <cstdint>
#include <map>
#include <vector>

#include "server/call_sink.h"
#include "server/vllm/wire.h"

namespace nsa::server {

/// One request's way out through VllmEngine. Without `stream` what a completion needs is gathered
/// until it ends, and nobody is waited for.
class ResponseWriter final : public OutboxSink<wire::GenerateResponse> {
 public:
  static constexpr char kMethod[] = "vllm.grpc.engine.VllmEngine/Generate";

  struct Options {
    bool stream = false;
    int64_t num_prompt_tokens = 0;     // for chunks; 0: not known before the end
    int32_t first_prompt_token = 0;    // for log-probabilities of the prompt, which begin behind it
    bool top_logprobs = false;         // those of likely tokens were asked for
    bool top_prompt_logprobs = false;  // the same for the prompt
    std::vector<int32_t> stop_ids{};   // the checkpoint's own, which are nothing to tell
  };

  /// `stream` lives until Finish has been called on it.
  ResponseWriter(MessageStream<wire::GenerateResponse>* stream, Options options);

  void OnPromptLogprobs(int64_t position,
                        const std::vector<engine::TokenLogprobs>& logprobs) override;
  void OnOutput(engine::Output output) override;
  void OnChoiceDone(const engine::Finish& finish) override;

 private:
  const Options options_;
  // The engine thread's own.
  wire::InputLogProbs prompt_logprobs_;  // until the first output has taken it
  bool has_prompt_logprobs_ = false;
  std::map<int32_t, wire::GenerateComplete> gathered_;  // by index, without `stream`
};

}  // namespace nsa::server

#endif  // NSA_SERVER_VLLM_RESPONSE_WRITER_H_

#ifndef NSA_SERVER_CONVERT_H_
#define NSA_SERVER_CONVERT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "nsa/v1/inference.pb.h"

/// The one place where the wire becomes the engine's types and back. Nothing is clamped: what is
/// out of range is InvalidArgument with field, value and range.
namespace nsa::server {

/// Ranges that need no tokens: sampling, stopping, sizes.
absl::Status CheckGenerateRequest(const v1::GenerateRequest& wire, const engine::ModelInfo& model);

/// Checks, renders the template, tokenizes and compiles a grammar. May take long for a long prompt
/// or a large grammar.
absl::StatusOr<engine::Request> ToRequest(const v1::GenerateRequest& wire,
                                          const engine::Engine& engine, std::string request_id,
                                          absl::Time deadline);

/// The token ids of a Tokenize request.
absl::StatusOr<std::vector<int32_t>> ToTokens(const v1::TokenizeRequest& wire,
                                              const engine::Engine& engine);

/// The text of a Detokenize request.
absl::StatusOr<std::string> ToText(const v1::DetokenizeRequest& wire, const engine::Engine& engine);

/// Bytes that a prompt brings, before it is tokenized.
int64_t PromptBytes(const v1::GenerateRequest& wire);

void FillLogprobs(const engine::TokenLogprobs& logprobs, v1::TokenLogprobs& wire);
void FillFinished(const engine::Finish& finish, const std::string& request_id, v1::Finished& wire);
void FillModelInfo(const engine::ModelInfo& info, bool has_chat_template,
                   v1::GetModelInfoResponse& wire);

}  // namespace nsa::server

#endif  // NSA_SERVER_CONVERT_H_

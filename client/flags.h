#ifndef NSA_CLIENT_FLAGS_H_
#define NSA_CLIENT_FLAGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nsa/v1/inference.pb.h"
#include "server/command_line/command_line.h"

namespace nsa::client {

/// Of all commands, load's own among them.
const std::vector<FlagGroup>& ClientFlagGroups();

std::string ServerAddress();
bool JsonOutput();
double TimeoutSeconds();  // 0: none
int32_t Retries();        // of a request that a full server refused
std::string RequestId();

/// What every command needs to be in range.
absl::Status CheckFlags();

/// The text that the command works on: --prompt, or --prompt_file ("-": standard input).
/// InvalidArgument where both are given, or neither and no --question, or the file cannot be read.
absl::StatusOr<std::string> PromptText();

/// A request from the flags; `chat` puts the prompt into a conversation with --system and
/// --question.
absl::StatusOr<v1::GenerateRequest> GenerateRequestFromFlags(bool chat);

/// The same without a prompt, for load: sampling, stopping and the rest.
absl::StatusOr<v1::GenerateRequest> RequestWithoutPrompt();

/// Ids from the words of the command line.
absl::StatusOr<v1::DetokenizeRequest> DetokenizeRequestFrom(const std::vector<std::string>& words);

/// The same prompt for Tokenize.
absl::StatusOr<v1::TokenizeRequest> TokenizeRequestFromFlags();

}  // namespace nsa::client

#endif  // NSA_CLIENT_FLAGS_H_

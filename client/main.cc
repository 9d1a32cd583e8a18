// nsa_client: the command line of nsa-serve. Exit codes: 0 done, 2 usage, otherwise the gRPC status
// code + 10.

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "client/channel.h"
#include "client/flags.h"
#include "client/generate.h"
#include "client/health.h"
#include "client/interrupts.h"
#include "client/load/load.h"
#include "client/load/load_flags.h"
#include "client/load/report.h"
#include "google/protobuf/util/json_util.h"
#include "grpcpp/grpcpp.h"

namespace nsa::client {
namespace {

constexpr int kExitUsage = 2;
constexpr int kExitStatusBase = 10;
constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;

constexpr char kSynopsis[] =
    "nsa_client COMMAND [flags]\n"
    "  complete     streams a completion of the prompt\n"
    "  chat         the same for a user's message, through the model's chat template\n"
    "  tokenize     token ids of the prompt\n"
    "  detokenize   text of ids: nsa_client detokenize 1 2 3\n"
    "  info         what is served, and how busy it is\n"
    "  health       whether the server serves: exit code 0, or 24\n"
    "  abort        ends the request named by --request_id\n"
    "  load         sends many requests and reports latencies, throughput and goodput\n";

int Usage(const std::string& message) {
  std::fprintf(stderr, "nsa_client: %s\n", message.c_str());
  return kExitUsage;
}

int Report(const grpc::Status& status) {
  if (status.ok()) return 0;
  const std::string& message = status.error_message();
  std::fprintf(stderr, "nsa_client: %s: %s\n", CodeName(status.error_code()),
               message.empty() ? "no further words" : message.c_str());
  return kExitStatusBase + static_cast<int>(status.error_code());
}

/// A connection and the deadline for one short call.
struct Connection {
  std::unique_ptr<v1::InferenceService::Stub> stub;
  grpc::ClientContext context;
};

/// --timeout_s from now, or so many seconds where it is not given.
std::chrono::system_clock::time_point DeadlineOr(double default_seconds) {
  const double seconds = TimeoutSeconds() > 0 ? TimeoutSeconds() : default_seconds;
  return std::chrono::system_clock::now() +
         std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

std::unique_ptr<Connection> Connect() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(kMaxMessageBytes));
  auto connection = std::make_unique<Connection>();
  connection->stub = v1::InferenceService::NewStub(NewChannel(arguments));
  connection->context.set_deadline(DeadlineOr(60));
  return connection;
}

void PrintMessage(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  options.add_whitespace = !JsonOutput();
  std::string json;
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  std::printf("%s%s", json.c_str(), JsonOutput() ? "\n" : "");
}

int RunGenerate(bool chat) {
  const auto request = GenerateRequestFromFlags(chat);
  if (!request.ok()) return Usage(std::string(request.status().message()));
  BlockInterrupts();
  return Report(Generate(*request));
}

int RunTokenize() {
  const auto request = TokenizeRequestFromFlags();
  if (!request.ok()) return Usage(std::string(request.status().message()));
  const auto connection = Connect();
  v1::TokenizeResponse response;
  const grpc::Status status = connection->stub->Tokenize(&connection->context, *request, &response);
  if (!status.ok()) return Report(status);
  if (JsonOutput()) {
    PrintMessage(response);
  } else {
    for (const int32_t id : response.token_ids()) std::printf("%d\n", id);
    std::fprintf(stderr, "%lld tokens\n", static_cast<long long>(response.count()));
  }
  return 0;
}

int RunDetokenize(const std::vector<std::string>& words) {
  const auto request = DetokenizeRequestFrom(words);
  if (!request.ok()) return Usage(std::string(request.status().message()));
  const auto connection = Connect();
  v1::DetokenizeResponse response;
  const grpc::Status status =
      connection->stub->Detokenize(&connection->context, *request, &response);
  if (!status.ok()) return Report(status);
  if (JsonOutput()) {
    PrintMessage(response);
  } else {
    std::fwrite(response.text().data(), 1, response.text().size(), stdout);
    std::printf("\n");
  }
  return 0;
}

int RunInfo() {
  const auto connection = Connect();
  v1::GetModelInfoResponse model;
  grpc::Status status = connection->stub->GetModelInfo(&connection->context, {}, &model);
  if (!status.ok()) return Report(status);
  PrintMessage(model);
  const auto second = Connect();
  v1::GetServerInfoResponse server;
  status = second->stub->GetServerInfo(&second->context, {}, &server);
  if (!status.ok()) return Report(status);
  PrintMessage(server);
  const auto third = Connect();
  v1::GetLoadResponse load;
  status = third->stub->GetLoad(&third->context, {}, &load);
  if (status.ok()) PrintMessage(load);
  return Report(status);
}

int RunHealth() {
  const grpc::Status status = CheckHealth(NewChannel({}), DeadlineOr(5));
  if (status.ok()) std::printf("SERVING\n");
  return Report(status);
}

int RunAbort() {
  if (RequestId().empty()) return Usage("abort needs --request_id");
  v1::AbortRequest abort;
  abort.set_request_id(RequestId());
  const auto connection = Connect();
  v1::AbortResponse response;
  return Report(connection->stub->Abort(&connection->context, abort, &response));
}

/// Prompt and length of each request are load's own.
const std::vector<FlagGroup>& FlagGroupsNotForLoad() {
  static const auto* const groups =
      new std::vector<FlagGroup>{{"",
                                  {"prompt", "prompt_file", "question", "system", "max_tokens",
                                   "min_tokens", "ignore_eos", "request_id"}}};
  return *groups;
}

int RunLoadCommand() {
  if (const std::string flag = FirstGivenFlag(FlagGroupsNotForLoad()); !flag.empty()) {
    return Usage("load makes its own requests and takes no --" + flag);
  }
  const auto options = LoadOptionsFromFlags();
  if (!options.ok()) return Usage(std::string(options.status().message()));
  auto common = RequestWithoutPrompt();
  if (!common.ok()) return Usage(std::string(common.status().message()));
  BlockInterrupts();
  const LoadOutcome outcome = RunLoad(*options, *std::move(common));
  if (!outcome.usage.ok()) return Usage(std::string(outcome.usage.message()));
  return Report(outcome.status);
}

int Main(const std::vector<std::string>& arguments) {
  const auto words = ParseFlags(arguments, ClientFlagGroups());
  for (const std::string& argument : arguments) {
    if (argument != "--help" && argument != "-h") continue;
    std::printf("%s%s%s", kSynopsis, FlagHelp(ClientFlagGroups()).c_str(), LoadHelp());
    return 0;
  }
  if (!words.ok()) return Usage(std::string(words.status().message()));
  if (const absl::Status status = CheckFlags(); !status.ok()) {
    return Usage(std::string(status.message()));
  }
  if (const absl::Status status = ReadSecurityFiles(); !status.ok()) {
    return Usage(std::string(status.message()));
  }
  if (words->empty()) return Usage(std::string("a command is missing\n") + kSynopsis);
  const std::string& command = words->front();
  const std::vector<std::string> rest(words->begin() + 1, words->end());
  if (command != "load") {
    const std::string flag = FirstGivenFlag(LoadFlagGroups());
    if (!flag.empty()) return Usage("--" + flag + " is for load alone");
  }
  if (command == "detokenize") return RunDetokenize(rest);
  if (!rest.empty()) return Usage("unexpected argument '" + rest.front() + "'");
  if (command == "load") return RunLoadCommand();
  if (command == "complete") return RunGenerate(false);
  if (command == "chat") return RunGenerate(true);
  if (command == "tokenize") return RunTokenize();
  if (command == "info") return RunInfo();
  if (command == "health") return RunHealth();
  if (command == "abort") return RunAbort();
  return Usage("unknown command '" + command + "'\n" + kSynopsis);
}

}  // namespace
}  // namespace nsa::client

int main(int argc, char** argv) {
  return nsa::client::Main(std::vector<std::string>(argv + 1, argv + argc));
}

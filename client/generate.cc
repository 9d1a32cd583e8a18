#include "client/generate.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "client/channel.h"
#include "client/flags.h"
#include "client/interrupts.h"
#include "client/library/client.h"
#include "google/protobuf/util/json_util.h"

namespace nsa::client {
namespace {

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string json;
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  std::printf("%s\n", json.c_str());
  std::fflush(stdout);
}

/// Shows the prompt's progress on a terminal, and clears it when text comes.
class ProgressLine {
 public:
  void Show(int64_t processed, int64_t total) {
    if (!terminal_) return;
    std::fprintf(stderr, "\rreading the prompt: %lld of %lld tokens",
                 static_cast<long long>(processed), static_cast<long long>(total));
    shown_ = true;
  }
  void Clear() {
    if (shown_) std::fprintf(stderr, "\r\033[K");
    shown_ = false;
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  bool shown_ = false;
};

const char* Reason(const v1::Finished& finished) {
  switch (finished.reason_case()) {
    case v1::Finished::kStop:
      return finished.stop().cause_case() == v1::Finished::Stop::kStopString ? "stop string"
                                                                             : "stop token";
    case v1::Finished::kLength:
      return "length";
    default:
      return "aborted";
  }
}

void PrintUsage(const v1::Finished& finished) {
  const v1::Usage& usage = finished.usage();
  const double prefill = usage.prefill_seconds(), decode = usage.decode_seconds();
  const auto later_tokens = static_cast<double>(usage.generated_tokens() - 1);
  std::fprintf(stderr,
               "\n[%s] prompt %lld tokens in %.2f s (%.0f tokens/s), %lld generated in %.2f s "
               "(%.1f tokens/s), queued %.2f s\n",
               Reason(finished), static_cast<long long>(usage.prompt_tokens()), prefill,
               prefill > 0 ? static_cast<double>(usage.prompt_tokens()) / prefill : 0.0,
               static_cast<long long>(usage.generated_tokens()), decode,
               decode > 0 && later_tokens > 0 ? later_tokens / decode : 0.0, usage.queue_seconds());
}

/// As --retries says; nobody waits for a server that is not there.
Retry RetryOfFlags() {
  Retry retry;
  retry.max_attempts = Retries() + 1;
  retry.longest_wait = std::chrono::milliseconds::max();
  retry.first_wait = std::chrono::milliseconds(0);
  retry.jitter = 0;
  retry.on_wait = [](std::chrono::milliseconds wait) {
    std::fprintf(stderr, "the server is full; next try in %lld ms\n",
                 static_cast<long long>(wait.count()));
  };
  return retry;
}

}  // namespace

grpc::Status Generate(const v1::GenerateRequest& request) {
  ConnectOptions connection = TheConnection();
  connection.retry = RetryOfFlags();
  std::unique_ptr<Client> client;
  if (const grpc::Status status = Client::Connect(connection, client); !status.ok()) return status;
  const auto stream = client->Generate(
      request,
      {.timeout = std::chrono::milliseconds(static_cast<int64_t>(TimeoutSeconds() * 1000))});
  const InterruptGuard guard([&stream] { stream->Cancel(); });
  ProgressLine progress;
  v1::GenerateResponse message;
  bool aborted = false;
  while (stream->Next(message)) {
    aborted = aborted || message.finished().has_aborted();
    if (JsonOutput()) {
      PrintJson(message);
    } else if (message.has_prefill_progress()) {
      progress.Show(message.prefill_progress().processed_tokens(),
                    message.prefill_progress().prompt_tokens());
    } else if (message.has_delta()) {
      progress.Clear();
      std::fwrite(message.delta().text().data(), 1, message.delta().text().size(), stdout);
      std::fflush(stdout);
    } else if (message.has_finished()) {
      progress.Clear();
      PrintUsage(message.finished());
    }
  }
  progress.Clear();
  if (!stream->status().ok() || !aborted) return stream->status();
  return {grpc::StatusCode::ABORTED, "the request was aborted on the server"};
}

}  // namespace nsa::client

#include "client/generate.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "client/flags.h"
#include "client/interrupts.h"
#include "client/retry_hint.h"
#include "google/protobuf/util/json_util.h"
#include "grpcpp/client_context.h"

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

using Clock = std::chrono::system_clock;

/// False where it was interrupted, or where `deadline` comes first.
bool WaitToRetry(std::chrono::milliseconds delay, Clock::time_point deadline) {
  std::atomic<bool> interrupted{false};
  const InterruptGuard guard([&interrupted] { interrupted = true; });
  const Clock::time_point end = Clock::now() + delay;
  if (end >= deadline) return false;
  while (Clock::now() < end && !interrupted) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return !interrupted;
}

grpc::Status Attempt(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request,
                     Clock::time_point deadline, grpc::ClientContext& context) {
  if (deadline != Clock::time_point::max()) context.set_deadline(deadline);
  const InterruptGuard guard([&context] { context.TryCancel(); });
  const auto reader = stub.Generate(&context, request);
  ProgressLine progress;
  v1::GenerateResponse message;
  bool finished = false, aborted = false;
  while (reader->Read(&message)) {
    finished = finished || message.has_finished();
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
  grpc::Status status = reader->Finish();
  if (!status.ok()) return status;
  if (!finished) return {grpc::StatusCode::INTERNAL, "the stream ended without its last message"};
  if (aborted) return {grpc::StatusCode::ABORTED, "the request was aborted on the server"};
  return status;
}

}  // namespace

grpc::Status Generate(v1::InferenceService::Stub& stub, const v1::GenerateRequest& request) {
  const auto deadline =
      TimeoutSeconds() > 0
          ? Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(TimeoutSeconds() * 1000))
          : Clock::time_point::max();
  for (int retries = Retries();; --retries) {
    grpc::ClientContext context;
    const grpc::Status status = Attempt(stub, request, deadline, context);
    if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED || retries == 0) return status;
    const auto delay_ms = RetryHint(context);
    if (!delay_ms.has_value()) return status;
    std::fprintf(stderr, "the server is full; next try in %lld ms\n",
                 static_cast<long long>(*delay_ms));
    if (!WaitToRetry(std::chrono::milliseconds(*delay_ms), deadline)) return status;
  }
}

}  // namespace nsa::client

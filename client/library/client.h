#ifndef NSA_CLIENT_LIBRARY_CLIENT_H_
#define NSA_CLIENT_LIBRARY_CLIENT_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "nsa/v1/inference.grpc.pb.h"

/// C++ client of nsa-serve. Installed as <nsa_serve/client.h>, with the generated messages beside
/// it; target nsa_serve::client of find_package(nsa_serve).
namespace nsa::client {

/// What the connection is encrypted with: PEM texts. `cert` and `key` are for mutual TLS.
struct Tls {
  std::string ca;  // who signed the server's certificate
  std::string cert;
  std::string key;
};

/// Reads PEM files; empty names are left out. INVALID_ARGUMENT names one that cannot be read.
grpc::Status ReadTls(const std::string& ca_file, const std::string& cert_file,
                     const std::string& key_file, Tls& tls);

/// How often a stream that was refused before its first message is begun again.
struct Retry {
  int max_attempts = 5;  // 1: never again
  /// Of a server that is full: waits as long as it says, where that is not longer than this.
  std::chrono::milliseconds longest_wait{10'000};
  /// Of one that does not answer (UNAVAILABLE): doubled each time; 0: not tried again.
  std::chrono::milliseconds first_wait{200};
  /// Drawn on top, as a part of a wait, so that clients do not come back together.
  double jitter = 0.25;
  /// Told of each wait that begins.
  std::function<void(std::chrono::milliseconds)> on_wait = {};
};

struct ConnectOptions {
  std::string address = "127.0.0.1:50051";  // HOST:PORT
  std::optional<Tls> tls = {};              // none: plain
  std::string api_key = {};                 // goes to other machines over TLS alone
  std::string tenant = {};                  // whose share of the server, where it has no keys
  Retry retry;
};

/// INVALID_ARGUMENT where they cannot work. Starts nothing.
grpc::Status CheckOptions(const ConnectOptions& options);

/// A channel on which every call carries key and tenant, for those who make calls themselves.
/// CheckOptions says what is wrong.
grpc::Status MakeChannel(const ConnectOptions& options, const grpc::ChannelArguments& arguments,
                         std::shared_ptr<grpc::Channel>& channel);

struct CallOptions {
  /// Of the whole call, retries included; the server refuses early what it cannot meet. 0: none.
  std::chrono::milliseconds timeout{0};
  /// The caller's place in a trace (W3C traceparent), which the server's spans then join.
  std::string traceparent = {};
};

v1::GenerateRequest TextRequest(const std::string& text);
/// Pairs of role ("system", "user", "assistant") and content.
v1::GenerateRequest ChatRequest(const std::vector<std::pair<std::string, std::string>>& messages);

/// A completion that comes piece by piece. One thread reads; any may cancel. What has begun is
/// never begun again.
class Stream {
 public:
  ~Stream();  // cancels what has not ended: the server then frees the request
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// Waits for the next message; false: the stream has ended, as status() says.
  bool Next(v1::GenerateResponse& message);

  /// Ends the call; the reader then sees CANCELLED. Any thread, at any time.
  void Cancel();

  /// After Next gave false. OK: each completion has its last message (`finished`), which may say
  /// that another aborted it.
  const grpc::Status& status() const { return status_; }

 private:
  friend class Client;
  using Clock = std::chrono::system_clock;

  Stream(v1::InferenceService::StubInterface* stub, v1::GenerateRequest request,
         const CallOptions& options, Retry retry);
  void Begin();
  void End();
  /// Of the failed attempt; none: it is not tried again.
  std::optional<std::chrono::milliseconds> WaitAfterFailure() const;
  /// False: cancelled meanwhile.
  bool Wait(std::chrono::milliseconds wait);

  v1::InferenceService::StubInterface* const stub_;
  const v1::GenerateRequest request_;
  const std::string traceparent_;
  const Retry retry_;
  const Clock::time_point deadline_;  // max: none
  int num_attempts_ = 0;
  bool has_begun_ = false;
  bool has_finished_ = false;  // a message said so
  bool has_ended_ = false;
  grpc::Status status_;
  std::unique_ptr<grpc::ClientReaderInterface<v1::GenerateResponse>> reader_;

  std::mutex mutex_;
  std::condition_variable cancelled_;
  bool is_cancelled_ = false;
  std::unique_ptr<grpc::ClientContext> context_;  // of the attempt; changed with mutex_ held
};

/// A whole completion.
struct Completion {
  std::string text;
  std::vector<int32_t> token_ids;           // where they were asked for
  std::vector<v1::TokenLogprobs> logprobs;  // likewise
  v1::Finished finished;                    // why it ended, and its usage
};

/// What Complete gives: one completion for each of the request's n, by index.
struct Result {
  std::vector<Completion> completions;
  std::vector<v1::TokenLogprobs> prompt_logprobs;  // where they were asked for
};

/// A connection to a server; it connects when it is first used, and again when it was lost. Any
/// thread. Outlives its streams.
class Client {
 public:
  /// As CheckOptions.
  static grpc::Status Connect(const ConnectOptions& options, std::unique_ptr<Client>& client);

  std::unique_ptr<Stream> Generate(v1::GenerateRequest request, const CallOptions& options = {});

  /// The whole completion at once.
  grpc::Status Complete(v1::GenerateRequest request, Result& result,
                        const CallOptions& options = {});

  /// For the other calls; a context of the caller's needs no key.
  v1::InferenceService::StubInterface& stub() { return *stub_; }

 private:
  Client(Retry retry, std::shared_ptr<grpc::Channel> channel);

  const Retry retry_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LIBRARY_CLIENT_H_

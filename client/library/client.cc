#include "client/library/client.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <utility>

#include "client/retry_hint.h"
#include "grpcpp/support/client_interceptor.h"
#include "server/command_line/address.h"

namespace nsa::client {
namespace {

namespace experimental = grpc::experimental;

using Headers = std::vector<std::pair<std::string, std::string>>;

// A completion's messages are small; what a server sends at once is bounded by the server.
constexpr int kAnySize = -1;

grpc::Status Invalid(const std::string& message) {
  return {grpc::StatusCode::INVALID_ARGUMENT, message};
}

grpc::Status ReadFile(const std::string& path, std::string& text) {
  text.clear();
  if (path.empty()) return grpc::Status::OK;
  std::ifstream file(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  if (file.is_open() && !file.bad() && !text.empty()) return grpc::Status::OK;
  return Invalid("cannot read '" + path + "'");
}

/// Adds headers to a call. Call credentials would do so on TLS alone.
class HeaderInterceptor final : public experimental::Interceptor {
 public:
  explicit HeaderInterceptor(const Headers* headers) : headers_(headers) {}
  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      for (const auto& [key, value] : *headers_) {
        methods->GetSendInitialMetadata()->emplace(key, value);
      }
    }
    methods->Proceed();
  }

 private:
  const Headers* headers_;  // of the channel, which outlives its calls
};

class HeaderInterceptorFactory final : public experimental::ClientInterceptorFactoryInterface {
 public:
  explicit HeaderInterceptorFactory(Headers headers) : headers_(std::move(headers)) {}
  experimental::Interceptor* CreateClientInterceptor(experimental::ClientRpcInfo*) override {
    return new HeaderInterceptor(&headers_);
  }

 private:
  const Headers headers_;
};

double DrawJitter(double jitter) {
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return std::uniform_real_distribution<double>(1, 1 + std::max(jitter, 0.0))(random);
}

}  // namespace

grpc::Status ReadTls(const std::string& ca_file, const std::string& cert_file,
                     const std::string& key_file, Tls& tls) {
  grpc::Status status = ReadFile(ca_file, tls.ca);
  if (status.ok()) status = ReadFile(cert_file, tls.cert);
  if (status.ok()) status = ReadFile(key_file, tls.key);
  return status;
}

grpc::Status CheckOptions(const ConnectOptions& options) {
  if (options.tls.has_value()) {
    if (options.tls->cert.empty() == options.tls->key.empty()) return grpc::Status::OK;
    return Invalid("a client's certificate and its key belong together");
  }
  if (options.api_key.empty() || IsLoopback(options.address)) return grpc::Status::OK;
  return Invalid("an API key goes to another machine over TLS alone");
}

grpc::Status MakeChannel(const ConnectOptions& options, const grpc::ChannelArguments& arguments,
                         std::shared_ptr<grpc::Channel>& channel) {
  if (const grpc::Status status = CheckOptions(options); !status.ok()) return status;
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls.has_value()) {
    const Tls& tls = *options.tls;
    credentials = grpc::SslCredentials(
        {.pem_root_certs = tls.ca, .pem_private_key = tls.key, .pem_cert_chain = tls.cert});
  }
  Headers headers;
  if (!options.api_key.empty()) headers.emplace_back("authorization", "Bearer " + options.api_key);
  if (!options.tenant.empty()) headers.emplace_back("nsa-tenant", options.tenant);
  std::vector<std::unique_ptr<experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!headers.empty()) {
    interceptors.push_back(std::make_unique<HeaderInterceptorFactory>(std::move(headers)));
  }
  channel = experimental::CreateCustomChannelWithInterceptors(options.address, credentials,
                                                              arguments, std::move(interceptors));
  return grpc::Status::OK;
}

v1::GenerateRequest TextRequest(const std::string& text) {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

v1::GenerateRequest ChatRequest(const std::vector<std::pair<std::string, std::string>>& messages) {
  v1::GenerateRequest request;
  for (const auto& [role, content] : messages) {
    v1::ChatMessage& message = *request.mutable_chat()->add_messages();
    message.set_role(role);
    message.set_content(content);
  }
  return request;
}

Stream::Stream(v1::InferenceService::StubInterface* stub, v1::GenerateRequest request,
               const CallOptions& options, Retry retry)
    : stub_(stub),
      request_(std::move(request)),
      traceparent_(options.traceparent),
      retry_(std::move(retry)),
      deadline_(options.timeout.count() > 0 ? Clock::now() + options.timeout
                                            : Clock::time_point::max()) {
  Begin();
}

Stream::~Stream() {
  Cancel();
  if (!has_ended_) End();
}

void Stream::Begin() {
  auto context = std::make_unique<grpc::ClientContext>();
  if (deadline_ != Clock::time_point::max()) context->set_deadline(deadline_);
  if (!traceparent_.empty()) context->AddMetadata("traceparent", traceparent_);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    context_ = std::move(context);
    if (is_cancelled_) context_->TryCancel();
  }
  ++num_attempts_;
  reader_ = stub_->Generate(context_.get(), request_);
}

void Stream::End() {
  status_ = reader_->Finish();
  has_ended_ = true;
}

void Stream::Cancel() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_cancelled_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  cancelled_.notify_all();
}

bool Stream::Next(v1::GenerateResponse& message) {
  while (!has_ended_) {
    if (reader_->Read(&message)) {
      has_begun_ = true;
      has_finished_ = has_finished_ || message.has_finished();
      return true;
    }
    End();
    if (status_.ok() && !has_finished_) {
      status_ = {grpc::StatusCode::INTERNAL, "the stream ended without its last message"};
    }
    const auto wait = WaitAfterFailure();
    if (!wait.has_value()) return false;
    if (retry_.on_wait) retry_.on_wait(*wait);
    if (!Wait(*wait)) {
      status_ = {grpc::StatusCode::CANCELLED, "cancelled while it waited to try again"};
      return false;
    }
    has_ended_ = false;
    Begin();
  }
  return false;
}

std::optional<std::chrono::milliseconds> Stream::WaitAfterFailure() const {
  if (status_.ok() || has_begun_ || num_attempts_ >= retry_.max_attempts) return std::nullopt;
  double wait_ms = 0;
  if (status_.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
    // Without a hint it can never be served.
    const std::optional<int64_t> hint = RetryHint(*context_);
    if (!hint.has_value() || *hint > retry_.longest_wait.count()) return std::nullopt;
    wait_ms = static_cast<double>(*hint);
  } else if (status_.error_code() == grpc::StatusCode::UNAVAILABLE &&
             retry_.first_wait.count() > 0) {
    wait_ms = static_cast<double>(retry_.first_wait.count());
    for (int i = 1; i < num_attempts_; ++i) wait_ms *= 2;
    wait_ms = std::min(wait_ms, static_cast<double>(retry_.longest_wait.count()));
  } else {
    return std::nullopt;
  }
  const std::chrono::milliseconds wait(static_cast<int64_t>(wait_ms * DrawJitter(retry_.jitter)));
  if (deadline_ != Clock::time_point::max() && Clock::now() + wait >= deadline_) {
    return std::nullopt;
  }
  return wait;
}

bool Stream::Wait(std::chrono::milliseconds wait) {
  std::unique_lock<std::mutex> lock(mutex_);
  return !cancelled_.wait_for(lock, wait, [this] { return is_cancelled_; });
}

Client::Client(Retry retry, std::shared_ptr<grpc::Channel> channel)
    : retry_(std::move(retry)), stub_(v1::InferenceService::NewStub(std::move(channel))) {}

grpc::Status Client::Connect(const ConnectOptions& options, std::unique_ptr<Client>& client) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kAnySize);
  arguments.SetMaxSendMessageSize(kAnySize);
  std::shared_ptr<grpc::Channel> channel;
  const grpc::Status status = MakeChannel(options, arguments, channel);
  if (status.ok()) client.reset(new Client(options.retry, std::move(channel)));
  return status;
}

std::unique_ptr<Stream> Client::Generate(v1::GenerateRequest request, const CallOptions& options) {
  return std::unique_ptr<Stream>(new Stream(stub_.get(), std::move(request), options, retry_));
}

grpc::Status Client::Complete(v1::GenerateRequest request, Result& result,
                              const CallOptions& options) {
  result = Result();
  const auto stream = Generate(std::move(request), options);
  v1::GenerateResponse message;
  const auto completion = [&](int32_t index) -> Completion& {
    const auto i = static_cast<size_t>(std::max(index, 0));
    if (result.completions.size() <= i) result.completions.resize(i + 1);
    return result.completions[i];
  };
  while (stream->Next(message)) {
    if (message.has_delta()) {
      const v1::Delta& delta = message.delta();
      Completion& to = completion(delta.index());
      to.text += delta.text();
      to.token_ids.insert(to.token_ids.end(), delta.token_ids().begin(), delta.token_ids().end());
      to.logprobs.insert(to.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
    } else if (message.has_finished()) {
      completion(message.finished().index()).finished = message.finished();
    } else if (message.has_prompt_logprobs()) {
      const auto& tokens = message.prompt_logprobs().tokens();
      result.prompt_logprobs.insert(result.prompt_logprobs.end(), tokens.begin(), tokens.end());
    }
  }
  return stream->status();
}

}  // namespace nsa::client

// One answer, streamed: chat ADDRESS QUESTION [CA_FILE]. The API key, where the server wants one,
// is in NSA_API_KEY. Ends with 0, or says why not.

#include <nsa_serve/client.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

namespace {

int Fail(const grpc::Status& status) {
  std::fprintf(stderr, "chat: %s\n", status.error_message().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: chat ADDRESS QUESTION [CA_FILE]\n");
    return 2;
  }
  nsa::client::ConnectOptions options;
  options.address = argv[1];
  if (const char* key = std::getenv("NSA_API_KEY")) options.api_key = key;
  if (argc > 3) {
    const grpc::Status status = nsa::client::ReadTls(argv[3], "", "", options.tls.emplace());
    if (!status.ok()) return Fail(status);
  }
  std::unique_ptr<nsa::client::Client> client;
  if (const grpc::Status status = nsa::client::Client::Connect(options, client); !status.ok()) {
    return Fail(status);
  }

  nsa::v1::GenerateRequest request = nsa::client::ChatRequest({{"user", argv[2]}});
  request.mutable_stopping()->set_max_tokens(64);
  request.mutable_sampling()->set_temperature(0);
  nsa::client::CallOptions call;
  call.timeout = std::chrono::seconds(120);
  const auto stream = client->Generate(request, call);
  nsa::v1::GenerateResponse message;
  while (stream->Next(message)) {
    std::fputs(message.delta().text().c_str(), stdout);
    std::fflush(stdout);
    if (message.has_finished()) {
      std::printf("\n%lld tokens\n",
                  static_cast<long long>(message.finished().usage().generated_tokens()));
    }
  }
  return stream->status().ok() ? 0 : Fail(stream->status());
}

#ifndef NSA_TESTS_SERVER_TEST_CLIENT_H_
#define NSA_TESTS_SERVER_TEST_CLIENT_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/metrics.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "nsa/v1/inference.grpc.pb.h"
#include "server/server.h"
#include "server/tracing/tracer.h"
#include "tests/server/fake_engine.h"

namespace nsa::server {

/// What a Generate stream gave until its end.
struct StreamResult {
  std::string text;
  std::vector<v1::GenerateResponse> messages;
  int num_finished = 0;
  v1::Finished finished;
  grpc::Status status;
};

/// Counts what the service refuses.
class RejectionCounter final : public engine::MetricsObserver {
 public:
  void OnRejected(std::string_view reason) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++counts_[std::string(reason)];
  }
  int count(const std::string& reason) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return counts_[reason];
  }

 private:
  std::mutex mutex_;
  std::map<std::string, int> counts_;
};

/// A server on a free loopback port over a fake engine, and a client with a connection of its own.
class ServerTest : public ::testing::Test {
 protected:
  void Start(int64_t max_message_bytes = 1 << 20) {
    auto started = Server::Start(&engine_, &metrics_, {.listen = "127.0.0.1:0"},
                                 {.served_model_name = "served",
                                  .max_message_bytes = max_message_bytes,
                                  .max_running_requests = 2,
                                  .max_queued_requests = 9,
                                  .tracer = tracer_.get()});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    server_->SetServing(true);
    channel_ = NewChannel();
    stub_ = v1::InferenceService::NewStub(channel_);
  }

  std::shared_ptr<grpc::Channel> NewChannel() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // shares no connection with others
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetMaxSendMessageSize(-1);
    return grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  static v1::GenerateRequest Prompt(const std::string& text, const std::string& id = "") {
    v1::GenerateRequest request;
    request.set_text(text);
    request.set_request_id(id);
    return request;
  }

  static void ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader, StreamResult& result) {
    v1::GenerateResponse message;
    while (reader.Read(&message)) {
      EXPECT_EQ(result.num_finished, 0) << "a message after the last";
      result.messages.push_back(message);
      result.text += message.delta().text();
      if (!message.has_finished()) continue;
      ++result.num_finished;
      result.finished = message.finished();
    }
    result.status = reader.Finish();
    // Exactly one end: a last message and OK, or another status alone. The client's own clock and
    // cancellation may strike between the last message and OK.
    const grpc::StatusCode code = result.status.error_code();
    const bool own =
        code == grpc::StatusCode::DEADLINE_EXCEEDED || code == grpc::StatusCode::CANCELLED;
    EXPECT_LE(result.num_finished, result.status.ok() || own ? 1 : 0) << code;
    if (result.status.ok()) {
      EXPECT_EQ(result.num_finished, 1);
    }
  }

  StreamResult Generate(const v1::GenerateRequest& request, grpc::ClientContext* context) {
    StreamResult result;
    ReadAll(*stub_->Generate(context, request), result);
    return result;
  }
  StreamResult Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return Generate(request, &context);
  }

  /// One message to any method of any service, and the first one back.
  std::pair<grpc::Status, std::string> CallRaw(const std::string& method,
                                               const std::string& bytes) {
    grpc::GenericStub stub(channel_);
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    std::vector<grpc::Slice> slices;
    (void)response.Dump(&slices);
    std::string reply;
    for (const grpc::Slice& part : slices) {
      reply.append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return {status, reply};
  }

  FakeEngine engine_;
  RejectionCounter metrics_;
  std::unique_ptr<Tracer> tracer_;  // null: no call is recorded
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace nsa::server

#endif  // NSA_TESTS_SERVER_TEST_CLIENT_H_

#include "client/library/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "tests/client/fake_service.h"

namespace nsa::client {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

class ClientTest : public ::testing::Test {
 protected:
  std::unique_ptr<Client> Connect(const Retry& retry = {}) {
    ConnectOptions options;
    options.address = service_.address();
    options.retry = retry;
    options.retry.on_wait = [this](milliseconds wait) {
      waits_.push_back(wait);
      ++num_waits_;
    };
    std::unique_ptr<Client> client;
    const grpc::Status status = Client::Connect(options, client);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return client;
  }

  static v1::GenerateRequest Request(int64_t max_tokens = 3) {
    v1::GenerateRequest request = TextRequest("x");
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return request;
  }

  /// Of a stream read to its end, and how many messages came.
  static std::pair<grpc::Status, int> ReadAll(Stream& stream) {
    v1::GenerateResponse message;
    int num_messages = 0;
    while (stream.Next(message)) ++num_messages;
    EXPECT_FALSE(stream.Next(message)) << "it stays ended";
    return {stream.status(), num_messages};
  }

  bool EventuallyClosed() {
    for (int i = 0; i < 5000 && service_.num_open() > 0; ++i) {
      std::this_thread::sleep_for(milliseconds(2));
    }
    return service_.num_open() == 0;
  }

  FakeService service_;
  std::vector<milliseconds> waits_;  // of the reading thread
  std::atomic<int> num_waits_{0};
};

TEST_F(ClientTest, StreamsToTheEnd) {
  const auto client = Connect();
  const auto stream = client->Generate(Request());
  const auto [status, num_messages] = ReadAll(*stream);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(num_messages, 4);
}

TEST_F(ClientTest, CompletesAtOnce) {
  const auto client = Connect();
  Result result;
  const grpc::Status status = client->Complete(Request(), result);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(result.completions.size(), 1U);
  EXPECT_THAT(result.completions[0].token_ids, ElementsAre(1, 1, 1));
  EXPECT_TRUE(result.completions[0].finished.has_length());
  EXPECT_EQ(result.completions[0].finished.usage().generated_tokens(), 3);
}

TEST_F(ClientTest, RequestsOfTextAndOfChat) {
  EXPECT_EQ(TextRequest("words").text(), "words");
  const v1::GenerateRequest chat = ChatRequest({{"system", "be brief"}, {"user", "hello"}});
  ASSERT_EQ(chat.chat().messages_size(), 2);
  EXPECT_EQ(chat.chat().messages(1).role(), "user");
  EXPECT_EQ(chat.chat().messages(1).content(), "hello");
}

TEST_F(ClientTest, AFullServersHintIsHeeded) {
  service_.set_way(FakeService::Way::kReject);
  service_.set_retry_after_ms("30");
  const auto client = Connect({.max_attempts = 4, .jitter = 0.25});
  const auto began = Clock::now();
  const auto stream = client->Generate(Request());
  EXPECT_EQ(ReadAll(*stream).first.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(service_.requests().size(), 4U);
  ASSERT_EQ(waits_.size(), 3U);
  for (const milliseconds wait : waits_) {
    EXPECT_GE(wait.count(), 30);
    EXPECT_LE(wait.count(), 38) << "a quarter more at most";
  }
  EXPECT_GE(Clock::now() - began, milliseconds(90));
}

TEST_F(ClientTest, OnceItHasRoomTheStreamBegins) {
  service_.set_way(FakeService::Way::kReject);
  service_.set_retry_after_ms("20");
  Retry retry;
  retry.max_attempts = 1000;
  const auto client = Connect(retry);
  const auto stream = client->Generate(Request());
  std::thread later([this] {
    std::this_thread::sleep_for(milliseconds(60));
    service_.set_way(FakeService::Way::kComplete);
  });
  const auto [status, num_messages] = ReadAll(*stream);
  later.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(num_messages, 4);
  EXPECT_FALSE(waits_.empty());
}

TEST_F(ClientTest, NotAgainWhereItIsOfNoUse) {
  service_.set_way(FakeService::Way::kReject);
  const auto client = Connect();
  EXPECT_FALSE(ReadAll(*client->Generate(Request())).first.ok());
  EXPECT_EQ(service_.requests().size(), 1U) << "without a hint it can never be served";
  service_.set_retry_after_ms("11000");
  EXPECT_FALSE(ReadAll(*client->Generate(Request())).first.ok());
  EXPECT_EQ(service_.requests().size(), 2U) << "longer than anybody wants to wait";
  service_.set_retry_after_ms("5000");
  CallOptions brief;
  brief.timeout = milliseconds(2000);
  const auto began = Clock::now();
  EXPECT_EQ(ReadAll(*client->Generate(Request(), brief)).first.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_LT(Clock::now() - began, milliseconds(1500)) << "no wait outlives the timeout";
  service_.set_way(FakeService::Way::kUnfinished);
  EXPECT_EQ(ReadAll(*client->Generate(Request())).first.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(service_.requests().size(), 4U);
  EXPECT_TRUE(waits_.empty());
}

TEST_F(ClientTest, AServerThatIsGoneIsTriedEverMoreSeldom) {
  service_.Stop();
  const auto client = Connect({.max_attempts = 3, .first_wait = milliseconds(10), .jitter = 0});
  EXPECT_EQ(ReadAll(*client->Generate(Request())).first.error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(waits_, ElementsAre(milliseconds(10), milliseconds(20)));
  waits_.clear();
  const auto patient = Connect({.first_wait = milliseconds(0)});
  EXPECT_FALSE(ReadAll(*patient->Generate(Request())).first.ok());
  EXPECT_TRUE(waits_.empty());
}

TEST_F(ClientTest, CancelEndsTheReaderAndTheRequest) {
  service_.set_way(FakeService::Way::kHold);
  const auto client = Connect();
  const auto stream = client->Generate(Request());
  std::thread other([&] {
    std::this_thread::sleep_for(milliseconds(50));
    stream->Cancel();
    stream->Cancel();
  });
  EXPECT_EQ(ReadAll(*stream).first.error_code(), grpc::StatusCode::CANCELLED);
  other.join();
  EXPECT_TRUE(EventuallyClosed());
}

TEST_F(ClientTest, CancelEndsAWaitToTryAgain) {
  service_.set_way(FakeService::Way::kReject);
  service_.set_retry_after_ms("9000");
  const auto client = Connect();
  const auto stream = client->Generate(Request());
  const auto began = Clock::now();
  std::thread other([&] {
    while (num_waits_ == 0) std::this_thread::sleep_for(milliseconds(1));
    stream->Cancel();
  });
  EXPECT_EQ(ReadAll(*stream).first.error_code(), grpc::StatusCode::CANCELLED);
  other.join();
  EXPECT_LT(Clock::now() - began, milliseconds(8000));
}

TEST_F(ClientTest, AStreamThatIsLetGoFreesItsRequest) {
  service_.set_way(FakeService::Way::kHold);
  const auto client = Connect();
  (void)client->Generate(Request());
  EXPECT_TRUE(EventuallyClosed());
}

TEST_F(ClientTest, TheDeadlineEndsIt) {
  service_.set_way(FakeService::Way::kHold);
  const auto client = Connect();
  CallOptions brief;
  brief.timeout = milliseconds(100);
  EXPECT_EQ(ReadAll(*client->Generate(Request(), brief)).first.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(ClientTest, HeadersGoWithEveryCall) {
  ConnectOptions options;
  options.address = service_.address();
  options.api_key = "key";
  options.tenant = "team";
  std::unique_ptr<Client> client;
  ASSERT_TRUE(Client::Connect(options, client).ok());
  CallOptions traced;
  traced.traceparent = "00-a";
  EXPECT_TRUE(ReadAll(*client->Generate(Request(), traced)).first.ok());
  EXPECT_THAT(service_.metadata("authorization"), ElementsAre("Bearer key"));
  EXPECT_THAT(service_.metadata("nsa-tenant"), ElementsAre("team"));
  EXPECT_THAT(service_.metadata("traceparent"), ElementsAre("00-a"));
}

TEST_F(ClientTest, OptionsThatCannotWorkAreRefused) {
  std::unique_ptr<Client> client;
  ConnectOptions options;
  options.address = "192.0.2.1:50051";
  options.api_key = "key";
  const grpc::Status plain = Client::Connect(options, client);
  EXPECT_EQ(plain.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(plain.error_message(), HasSubstr("TLS alone"));
  options.tls = Tls{.ca = "", .cert = "c", .key = ""};
  EXPECT_THAT(Client::Connect(options, client).error_message(), HasSubstr("belong together"));
  EXPECT_EQ(client, nullptr);
  Tls tls;
  EXPECT_THAT(ReadTls("no/such/file", "", "", tls).error_message(), HasSubstr("no/such/file"));
  const std::string path = testing::TempDir() + "/client_test.pem";
  std::ofstream(path) << "pem";
  EXPECT_TRUE(ReadTls(path, "", "", tls).ok());
  EXPECT_EQ(tls.ca, "pem");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace nsa::client

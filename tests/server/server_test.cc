#include "server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/server/test_client.h"

namespace nsa::server {
namespace {

using ::testing::HasSubstr;

constexpr char kHealthCheck[] = "/grpc.health.v1.Health/Check";
constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";

/// A HealthCheckRequest for `service`, in wire format.
std::string HealthRequest(const std::string& service) {
  return service.empty() ? "" : absl::StrCat("\x0a", std::string(1, char(service.size())), service);
}

class ServerTestCase : public ServerTest {};

TEST_F(ServerTestCase, HealthFollowsServing) {
  Start();
  for (const std::string service : {"", "nsa.v1.InferenceService", "vllm.grpc.engine.VllmEngine"}) {
    server_->SetServing(true);
    EXPECT_EQ(CallRaw(kHealthCheck, HealthRequest(service)).second, kServing) << service;
    server_->SetServing(false);
    EXPECT_EQ(CallRaw(kHealthCheck, HealthRequest(service)).second, kNotServing) << service;
  }
  EXPECT_EQ(CallRaw(kHealthCheck, HealthRequest("no.such.Service")).first.error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTestCase, NotServingUntilToldSo) {
  Start();
  auto fresh = Server::Start(&engine_, nullptr, {.listen = "127.0.0.1:0"}, ServiceInfo{});
  ASSERT_TRUE(fresh.ok());
  server_ = *std::move(fresh);
  channel_ = NewChannel();
  EXPECT_EQ(CallRaw(kHealthCheck, "").second, kNotServing);
}

TEST_F(ServerTestCase, ReflectionNamesTheService) {
  Start();
  const auto [status, reply] = CallRaw(
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", std::string("\x3a\x00", 2));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(reply, HasSubstr("nsa.v1.InferenceService"));
  EXPECT_THAT(reply, HasSubstr("vllm.grpc.engine.VllmEngine"));
  EXPECT_THAT(reply, HasSubstr("grpc.health.v1.Health"));
}

TEST_F(ServerTestCase, ServicesThatAreNotServedSaySoAtOnce) {
  Start();
  const absl::Time before = absl::Now();
  for (const char* method :
       {"/vllm.grpc.engine.VllmEngine/NoSuchMethod", "/sglang.grpc.scheduler.SglangScheduler/Load",
        "/nsa.v1.InferenceService/NoSuchMethod", "/x/y"}) {
    EXPECT_EQ(CallRaw(method, "").first.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
  EXPECT_LT(absl::Now() - before, absl::Seconds(5));
}

TEST_F(ServerTestCase, OversizeMessageAndNoise) {
  Start(/*max_message_bytes=*/4096);
  EXPECT_EQ(Generate(Prompt(std::string(5000, 'x'))).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(CallRaw("/nsa.v1.InferenceService/Tokenize", "\xff\xff\xff").first.ok())
      << "bytes that are no message";
  EXPECT_EQ(engine_.num_submitted(), 0);
  EXPECT_TRUE(Generate(Prompt("still here")).status.ok());
}

TEST_F(ServerTestCase, ShutdownLetsStreamsEnd) {
  engine_.script.step = absl::Milliseconds(5);
  Start();
  v1::GenerateRequest request = Prompt("x", "last");
  request.mutable_stopping()->set_max_tokens(40);
  StreamResult result;
  std::thread client([&] { result = Generate(request); });
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("last") > 0; }));
  server_->SetServing(false);
  engine_.Drain(absl::Now() + absl::Seconds(20));
  server_->Shutdown(absl::Now() + absl::Seconds(20));
  client.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.finished.usage().generated_tokens(), 40);
}

TEST_F(ServerTestCase, DrainRefusesNewAndAbortsLate) {
  engine_.script.step = absl::Milliseconds(5);
  Start();
  v1::GenerateRequest request = Prompt("x", "long");
  request.mutable_stopping()->set_max_tokens(999);
  StreamResult result;
  std::thread client([&] { result = Generate(request); });
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("long") > 0; }));
  std::thread drain([&] { engine_.Drain(absl::Now() + absl::Milliseconds(500)); });
  EXPECT_TRUE(Eventually([&] {
    return Generate(Prompt("new")).status.error_code() == grpc::StatusCode::UNAVAILABLE;
  }));
  drain.join();
  client.join();
  EXPECT_TRUE(result.status.ok());
  EXPECT_TRUE(result.finished.has_aborted());
}

TEST_F(ServerTestCase, ShutdownCancelsWhoDoesNotRead) {
  engine_.script.piece_bytes = 65536;
  Start();
  v1::GenerateRequest request = Prompt("x", "slow");
  request.mutable_stopping()->set_max_tokens(999);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("slow") > 10; }));
  server_->Shutdown(absl::Now() + absl::Milliseconds(100));
  EXPECT_EQ(engine_.num_active(), 0);
}

TEST_F(ServerTestCase, PortInUse) {
  Start();
  const auto again = Server::Start(&engine_, nullptr, {.listen = server_->address()}, {});
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  const auto check = CheckAddressFree("listen", server_->address());
  EXPECT_FALSE(check.ok());
  EXPECT_THAT(std::string(check.status().message()), HasSubstr(server_->address()));
  EXPECT_THAT(std::string(check.status().message()), HasSubstr("--listen"));
  EXPECT_NE(check.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(AddressTest, BadAddressesAreNamed) {
  for (const std::string address :
       {"", "localhost", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536",
        "127.0.0.1:999999999999", "127.0.0.1:80 ", ":", "no.such.host.invalid:1", "::"}) {
    const auto check = CheckAddressFree("metrics_listen", address);
    EXPECT_EQ(check.status().code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_THAT(std::string(check.status().message()), HasSubstr("--metrics_listen is '"));
  }
}

TEST(AddressTest, NamesBecomeNumbers) {
  EXPECT_EQ(*CheckAddressFree("x", "127.0.0.1:0"), "127.0.0.1:0");
  const auto local = CheckAddressFree("x", "localhost:0");
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_TRUE(*local == "127.0.0.1:0" || *local == "[::1]:0") << *local;
}

}  // namespace
}  // namespace nsa::server

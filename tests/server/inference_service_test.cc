#include "server/inference_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "engine/admission.h"
#include "nsa/v1/status.pb.h"
#include "tests/server/test_client.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::chrono::system_clock::time_point In(int milliseconds) {
  return std::chrono::system_clock::now() + std::chrono::milliseconds(milliseconds);
}

class InferenceServiceTest : public ServerTest {};

/// What google.rpc.RetryInfo in the status' details says.
absl::Duration RetryDelayOf(const grpc::Status& status) {
  v1::StatusDetails details;
  v1::RetryInfo info;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.details_size(), 1);
  EXPECT_TRUE(info.ParseFromString(details.details(0).value()));
  return absl::Seconds(info.retry_delay().seconds()) +
         absl::Nanoseconds(info.retry_delay().nanos());
}

TEST_F(InferenceServiceTest, StreamsInOrderAndEndsOnce) {
  Start();
  v1::GenerateRequest request = Prompt("hello", "mine");
  request.mutable_response()->set_prefill_progress(true);
  request.mutable_response()->set_token_ids(true);
  const StreamResult result = Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  ASSERT_EQ(result.messages.size(), 7U);
  EXPECT_EQ(result.messages[0].prefill_progress().processed_tokens(), 6);
  EXPECT_EQ(result.text, "t0 t1 t2 t3 t4 ");
  EXPECT_THAT(result.messages[3].delta().token_ids(), ElementsAre(2));
  EXPECT_TRUE(result.finished.has_length());
  EXPECT_EQ(result.finished.request_id(), "mine");
  EXPECT_EQ(result.finished.usage().prompt_tokens(), 6);
  EXPECT_EQ(result.finished.usage().generated_tokens(), 5);
}

TEST_F(InferenceServiceTest, StopStringIsNamed) {
  engine_.script.end_with_stop_string = true;
  Start();
  EXPECT_EQ(Generate(Prompt("x")).finished.stop().stop_string(), "STOP");
}

TEST_F(InferenceServiceTest, MakesAnIdAndNamesIt) {
  Start();
  grpc::ClientContext context;
  const StreamResult result = Generate(Prompt("x"), &context);
  EXPECT_THAT(result.finished.request_id(), StartsWith("nsa-"));
  const auto found = context.GetServerInitialMetadata().find("request-id");
  ASSERT_NE(found, context.GetServerInitialMetadata().end());
  EXPECT_EQ(std::string(found->second.data(), found->second.size()), result.finished.request_id());
  EXPECT_NE(Generate(Prompt("x")).finished.request_id(), result.finished.request_id());
}

TEST_F(InferenceServiceTest, ClientsOwnIdMayHoldAnyText) {
  Start();
  const std::string id = "Zeile\n\xC3\xBC\x01";
  EXPECT_EQ(Generate(Prompt("x", id)).finished.request_id(), id);
}

TEST_F(InferenceServiceTest, BadRequestNeverReachesTheEngine) {
  Start();
  v1::GenerateRequest request = Prompt("x");
  request.mutable_sampling()->set_top_p(2);
  const StreamResult result = Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(result.status.error_message(), HasSubstr("sampling.top_p is 2"));
  EXPECT_EQ(engine_.num_submitted(), 0);
  EXPECT_EQ(metrics_.count("invalid_argument"), 1);
}

TEST_F(InferenceServiceTest, EngineErrorEndsItsRequestAlone) {
  engine_.script.fail_after_tokens = 3;
  Start();
  v1::GenerateRequest shorter = Prompt("other");
  shorter.mutable_stopping()->set_max_tokens(2);
  StreamResult good;
  std::thread other([&] { good = Generate(shorter); });
  const StreamResult bad = Generate(Prompt("x"));
  other.join();
  EXPECT_EQ(bad.status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(bad.text, "t0 t1 t2 ");
  EXPECT_TRUE(good.status.ok());
  EXPECT_EQ(good.text, "t0 t1 ");
}

TEST_F(InferenceServiceTest, FullQueueSaysWhenToComeBackWithoutTokenizing) {
  engine_.script.admit = engine::WithRetryAfter(
      absl::ResourceExhaustedError("the queue is full: 9 requests wait"), absl::Milliseconds(1500));
  Start();
  const std::lock_guard<std::mutex> tokenizer_is_busy(engine_.tokenizer().gate);
  grpc::ClientContext context;
  context.set_deadline(In(10'000));
  const StreamResult result = Generate(Prompt("x"), &context);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 1U);
  EXPECT_EQ(RetryDelayOf(result.status), absl::Milliseconds(1500));
}

TEST_F(InferenceServiceTest, QueueFullAfterTokenizing) {
  engine_.script.submit = engine::WithRetryAfter(
      absl::ResourceExhaustedError("the queue is full: 70 tokens wait"), absl::Seconds(2));
  Start();
  grpc::ClientContext context;
  const StreamResult result = Generate(Prompt("x"), &context);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("retry-after-ms"), 1U);
  EXPECT_EQ(RetryDelayOf(result.status), absl::Seconds(2));
}

TEST_F(InferenceServiceTest, AGrammarThatIsRefusedEndsItsRequest) {
  engine_.script.compile = absl::InvalidArgumentError("structured_output: what is this?");
  Start();
  v1::GenerateRequest request = Prompt("x");
  request.mutable_structured_output()->set_regex(std::string("a("));
  const StreamResult refused = Generate(request);
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(engine_.last_spec().text, "a(");
  EXPECT_EQ(engine_.num_submitted(), 0);
  engine_.ChangeScript([](auto& script) { script.compile = absl::OkStatus(); });
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(InferenceServiceTest, StoppedEngineIsUnavailable) {
  Start();
  engine_.is_healthy = false;
  EXPECT_EQ(Generate(Prompt("x")).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(metrics_.count("unavailable"), 1);
}

TEST_F(InferenceServiceTest, CancelLeavesTheEngine) {
  Start();
  v1::GenerateRequest request = Prompt("x", "long");
  request.mutable_stopping()->set_max_tokens(999);
  engine_.script.step = absl::Milliseconds(5);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
  EXPECT_GE(engine_.num_aborts(), 1);
}

TEST_F(InferenceServiceTest, CancelDuringAPrefillLeavesTheEngine) {
  engine_.script.silent = true;  // no write that could fail tells of it
  Start();
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, Prompt("x"));
  ASSERT_TRUE(Eventually([&] { return engine_.num_active() == 1; }));
  context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
  engine_.ChangeScript([](FakeEngine::Script& script) { script.silent = false; });
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(InferenceServiceTest, VanishedClientLeavesTheEngine) {
  engine_.script.step = absl::Milliseconds(5);
  Start();
  {
    // A client whose connection drops without a word: the channel goes, with the stream open.
    auto channel = NewChannel();
    auto stub = v1::InferenceService::NewStub(channel);
    grpc::ClientContext context;
    v1::GenerateRequest request = Prompt("x");
    request.mutable_stopping()->set_max_tokens(999);
    auto reader = stub->Generate(&context, request);
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
  }
  EXPECT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
}

TEST_F(InferenceServiceTest, DeadlineReachesTheEngine) {
  engine_.script.step = absl::Milliseconds(5);
  Start();
  v1::GenerateRequest request = Prompt("x");
  request.mutable_stopping()->set_max_tokens(999);
  grpc::ClientContext context;
  context.set_deadline(In(300));
  const absl::Time before = absl::Now();
  const StreamResult result = Generate(request, &context);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(engine_.last_request().has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(engine_.last_request()->deadline - before), 0.3, 0.2);
  EXPECT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
}

TEST_F(InferenceServiceTest, NoDeadlineIsFarAway) {
  Start();
  (void)Generate(Prompt("x"));
  EXPECT_GT(engine_.last_request()->deadline, absl::Now() + absl::Hours(24 * 365));
}

TEST_F(InferenceServiceTest, CancelledBeforeItsTurnIsNeverTokenized) {
  Start();
  StreamResult first, second;
  std::unique_lock<std::mutex> busy(engine_.tokenizer().gate);
  std::thread a([&] { first = Generate(Prompt("a")); });
  std::thread b([&] { second = Generate(Prompt("b")); });
  ASSERT_TRUE(Eventually([&] { return engine_.tokenizer().num_waiting() == 2; }))
      << "both workers are at it";
  grpc::ClientContext context;
  context.set_deadline(In(100));
  EXPECT_EQ(Generate(Prompt("c", "third"), &context).status.error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED)
      << "gRPC's threads are not held up";
  // The server's clock began when the call came, before the client gave up: it has passed by then.
  absl::SleepFor(absl::Milliseconds(300));
  busy.unlock();
  a.join();
  b.join();
  EXPECT_TRUE(first.status.ok());
  EXPECT_TRUE(second.status.ok());
  EXPECT_TRUE(
      Eventually([&] { return metrics_.count("cancelled") + metrics_.count("deadline") == 1; }));
  EXPECT_EQ(engine_.num_submitted(), 2);
}

TEST_F(InferenceServiceTest, AbortOfARunningRequest) {
  engine_.script.step = absl::Milliseconds(5);
  Start();
  v1::GenerateRequest request = Prompt("x", "target");
  request.mutable_stopping()->set_max_tokens(999);
  StreamResult result;
  std::thread reader([&] { result = Generate(request); });
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("target") > 1; }));
  v1::AbortRequest abort;
  abort.set_request_id("target");
  for (int i = 0; i < 2; ++i) {  // idempotent
    grpc::ClientContext context;
    v1::AbortResponse response;
    EXPECT_TRUE(stub_->Abort(&context, abort, &response).ok());
  }
  reader.join();
  EXPECT_TRUE(result.status.ok());
  EXPECT_TRUE(result.finished.has_aborted());
  EXPECT_GT(result.finished.usage().generated_tokens(), 0);
}

TEST_F(InferenceServiceTest, AbortOfARequestThatWaitsToBeTokenized) {
  Start();
  v1::GenerateRequest request = Prompt("x", "target");
  request.mutable_stopping()->set_max_tokens(999);
  engine_.script.step = absl::Milliseconds(5);
  StreamResult result;
  std::unique_lock<std::mutex> busy(engine_.tokenizer().gate);
  std::thread reader([&] { result = Generate(request); });
  ASSERT_TRUE(Eventually([&] { return engine_.tokenizer().num_waiting() == 1; }));
  grpc::ClientContext context;
  v1::AbortRequest abort;
  abort.set_request_id("target");
  v1::AbortResponse response;
  EXPECT_TRUE(stub_->Abort(&context, abort, &response).ok());
  busy.unlock();
  reader.join();
  EXPECT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_TRUE(result.finished.has_aborted());
  EXPECT_EQ(result.finished.request_id(), "target");
  EXPECT_EQ(engine_.num_submitted(), 0);
}

TEST_F(InferenceServiceTest, SameIdWhileItWaitsOrRuns) {
  engine_.script.step = absl::Milliseconds(5);
  Start();
  v1::GenerateRequest request = Prompt("x", "same");
  request.mutable_stopping()->set_max_tokens(20);
  StreamResult first;
  std::unique_lock<std::mutex> busy(engine_.tokenizer().gate);
  std::thread reader([&] { first = Generate(request); });
  ASSERT_TRUE(Eventually([&] { return engine_.tokenizer().num_waiting() == 1; }));
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  busy.unlock();
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("same") > 0; }));
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  reader.join();
  EXPECT_TRUE(first.status.ok()) << "the others' failure is not its own";
  EXPECT_EQ(first.finished.usage().generated_tokens(), 20);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(Generate(request).status.ok()) << "free again at once";
}

TEST_F(InferenceServiceTest, SlowReaderIsHeldBackAlone) {
  // 999 pieces of 64 KiB: far more than sockets and flow control take on their way.
  engine_.script.piece_bytes = 65536;
  engine_.script.step = absl::Microseconds(100);
  Start();
  v1::GenerateRequest request = Prompt("x", "slow");
  request.mutable_stopping()->set_max_tokens(999);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);  // and does not read
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("slow") > 64; }));
  int64_t before = -1;
  ASSERT_TRUE(Eventually([&] {
    absl::SleepFor(absl::Milliseconds(200));
    return before == std::exchange(before, engine_.num_generated("slow"));
  })) << "it must come to a stop";
  EXPECT_LT(before, 999);
  engine_.ChangeScript([](FakeEngine::Script& script) { script.piece_bytes = 0; });
  auto other = NewChannel();
  stub_ = v1::InferenceService::NewStub(other);
  EXPECT_TRUE(Generate(Prompt("y")).status.ok()) << "others go on";
  EXPECT_EQ(engine_.num_generated("slow"), before);
  StreamResult result;
  ReadAll(*reader, result);
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.finished.usage().generated_tokens(), 999);
  EXPECT_EQ(result.messages.size(), 1000U) << "nothing was lost";
}

TEST_F(InferenceServiceTest, ManyStreamsEachEndOnce) {
  engine_.script.step = absl::Microseconds(200);
  Start();
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([this, i] {
      for (int k = 0; k < 20; ++k) {
        v1::GenerateRequest request = Prompt("x", absl::StrCat(i, "-", k));
        request.mutable_stopping()->set_max_tokens(1 + (i * 7 + k) % 30);
        grpc::ClientContext context;
        if (k % 3 == 1) context.set_deadline(In(k % 7));
        if (k % 3 == 2) context.TryCancel();
        (void)Generate(request, &context);  // checks that it ends once
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
  EXPECT_TRUE(Generate(Prompt("x")).status.ok());
}

TEST_F(InferenceServiceTest, TokenizeAndDetokenize) {
  Start();
  v1::TokenizeRequest text;
  text.set_text("a^");
  text.set_parse_special_tokens(false);
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, text, &tokens).ok());
  EXPECT_THAT(tokens.token_ids(), ElementsAre(256, 'a', '^'));
  EXPECT_EQ(tokens.count(), 3);
  v1::TokenizeResponse nothing;
  grpc::ClientContext second;
  EXPECT_EQ(stub_->Tokenize(&second, {}, &nothing).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);

  v1::DetokenizeRequest ids;
  for (const int32_t id : {256, 104, 105}) ids.add_token_ids(id);
  v1::DetokenizeResponse reply;
  grpc::ClientContext third;
  ASSERT_TRUE(stub_->Detokenize(&third, ids, &reply).ok());
  EXPECT_EQ(reply.text(), "<s>hi");
  ids.set_skip_special_tokens(true);
  ids.add_token_ids(-1);
  grpc::ClientContext fourth;
  const grpc::Status status = stub_->Detokenize(&fourth, ids, &reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("token_ids[3] is -1"));
}

TEST_F(InferenceServiceTest, Information) {
  Start();
  v1::GetModelInfoResponse model;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->GetModelInfo(&first, {}, &model).ok());
  EXPECT_EQ(model.name(), "fake");
  EXPECT_EQ(model.served_model_name(), "served");
  EXPECT_EQ(model.vocabulary_size(), 258);
  EXPECT_TRUE(model.has_chat_template());
  v1::GetServerInfoResponse server;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->GetServerInfo(&second, {}, &server).ok());
  EXPECT_TRUE(server.healthy());
  EXPECT_EQ(server.max_queued_requests(), 9);
  EXPECT_FALSE(server.version().empty());
  v1::GetLoadResponse load;
  grpc::ClientContext third;
  ASSERT_TRUE(stub_->GetLoad(&third, {}, &load).ok());
  EXPECT_EQ(load.num_waiting(), 3);
  EXPECT_EQ(load.num_pages_free(), 7);
  v1::FlushCacheResponse flushed;
  grpc::ClientContext fourth;
  EXPECT_TRUE(stub_->FlushCache(&fourth, {}, &flushed).ok());
  EXPECT_EQ(flushed.num_pages_dropped(), 5);
}

}  // namespace
}  // namespace nsa::server

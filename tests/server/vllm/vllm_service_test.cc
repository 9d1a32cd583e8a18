#include "server/vllm/vllm_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/server/test_client.h"

namespace nsa::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

wire::GenerateRequest Ids(const std::string& id, uint32_t max_tokens, bool stream) {
  wire::GenerateRequest request;
  request.set_request_id(id);
  request.set_stream(stream);
  for (const uint32_t token : {7U, 8U, 9U}) request.mutable_tokenized()->add_input_ids(token);
  request.mutable_sampling_params()->set_max_tokens(max_tokens);
  return request;
}

struct Answer {
  std::vector<wire::GenerateStreamChunk> chunks;
  std::vector<wire::GenerateComplete> completes;
  grpc::Status status;
};

class VllmServiceTest : public ServerTest {
 protected:
  void SetUp() override {
    Start();
    vllm_ = wire::VllmEngine::NewStub(channel_);
  }

  Answer Ask(const wire::GenerateRequest& request) {
    grpc::ClientContext context;
    auto reader = vllm_->Generate(&context, request);
    Answer answer;
    wire::GenerateResponse message;
    while (reader->Read(&message)) {
      if (message.has_chunk()) answer.chunks.push_back(message.chunk());
      if (message.has_complete()) answer.completes.push_back(message.complete());
    }
    answer.status = reader->Finish();
    return answer;
  }

  std::unique_ptr<wire::VllmEngine::Stub> vllm_;
};

TEST_F(VllmServiceTest, StreamsAndDoesNotStream) {
  const Answer streamed = Ask(Ids("a", 4, true));
  ASSERT_TRUE(streamed.status.ok()) << streamed.status.error_message();
  ASSERT_EQ(streamed.chunks.size(), 4U);
  EXPECT_THAT(streamed.chunks[2].token_ids(), ElementsAre(2));
  ASSERT_EQ(streamed.completes.size(), 1U);
  EXPECT_EQ(streamed.completes[0].finish_reason(), "length");
  EXPECT_EQ(streamed.completes[0].prompt_tokens(), 3U);
  const Answer whole = Ask(Ids("b", 4, false));
  EXPECT_TRUE(whole.chunks.empty());
  ASSERT_EQ(whole.completes.size(), 1U);
  EXPECT_THAT(whole.completes[0].output_ids(), ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(whole.completes[0].completion_tokens(), 4U);
  EXPECT_EQ(engine_.last_request()->id, "b");
}

TEST_F(VllmServiceTest, OneStatusForWhatIsRefused) {
  wire::GenerateRequest bad = Ids("a", 4, true);
  bad.mutable_sampling_params()->set_top_p(2);
  EXPECT_EQ(Ask(bad).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  bad = Ids("a", 4, true);
  bad.mutable_mm_inputs();
  EXPECT_EQ(Ask(bad).status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  // Such a name would be no metadata.
  bad.set_request_id("\xC3\xA9\n\x01");
  EXPECT_EQ(Ask(bad).status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(metrics_.count("invalid_argument"), 1);
  EXPECT_EQ(metrics_.count("unimplemented"), 2);
  engine_.ChangeScript([](auto& s) { s.submit = absl::ResourceExhaustedError("full"); });
  const Answer full = Ask(Ids("a", 4, false));
  EXPECT_EQ(full.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(full.completes.empty());
  EXPECT_EQ(engine_.num_submitted(), 0);
  EXPECT_EQ(CallRaw("/vllm.grpc.engine.VllmEngine/Embed", "").first.error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(VllmServiceTest, AbortEndsAnOpenStreamOfEitherService) {
  engine_.script.step = absl::Milliseconds(5);
  Answer answer;
  std::thread client([&] { answer = Ask(Ids("long", 900, true)); });
  StreamResult other;
  std::thread other_client([&] {
    v1::GenerateRequest request = Prompt("x", "other");
    request.mutable_stopping()->set_max_tokens(900);
    other = Generate(request);
  });
  ASSERT_TRUE(Eventually(
      [&] { return engine_.num_generated("long") > 0 && engine_.num_generated("other") > 0; }));
  EXPECT_EQ(Ask(Ids("other", 4, true)).status.error_code(), grpc::StatusCode::ALREADY_EXISTS)
      << "names are shared";
  wire::AbortRequest abort;
  for (const char* id : {"long", "other", "unknown"}) abort.add_request_ids(id);
  for (int i = 0; i < 2; ++i) {
    grpc::ClientContext context;
    wire::AbortResponse response;
    EXPECT_TRUE(vllm_->Abort(&context, abort, &response).ok());
  }
  client.join();
  other_client.join();
  EXPECT_TRUE(answer.status.ok());
  ASSERT_EQ(answer.completes.size(), 1U);
  EXPECT_EQ(answer.completes[0].finish_reason(), "abort");
  EXPECT_TRUE(other.finished.has_aborted());
}

TEST_F(VllmServiceTest, AClientThatLeavesIsAborted) {
  engine_.script.step = absl::Milliseconds(5);
  for (const bool stream : {true, false}) {
    grpc::ClientContext context;
    auto reader = vllm_->Generate(&context, Ids("gone", 900, stream));
    ASSERT_TRUE(Eventually([&] { return engine_.num_generated("gone") > 0; }));
    context.TryCancel();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
  }
}

TEST_F(VllmServiceTest, HealthFollowsServingAndTheEngine) {
  const auto healthy = [&] {
    grpc::ClientContext context;
    wire::HealthCheckResponse response;
    EXPECT_TRUE(vllm_->HealthCheck(&context, {}, &response).ok());
    return response.healthy();
  };
  EXPECT_TRUE(healthy());
  engine_.is_healthy = false;
  EXPECT_FALSE(healthy());
  engine_.is_healthy = true;
  server_->SetServing(false);
  EXPECT_FALSE(healthy());
}

TEST_F(VllmServiceTest, TellsOfModelServerAndLoad) {
  wire::GetModelInfoResponse model;
  grpc::ClientContext model_context;
  ASSERT_TRUE(vllm_->GetModelInfo(&model_context, {}, &model).ok());
  EXPECT_EQ(model.served_model_name(), "served");
  EXPECT_EQ(model.tokenizer_path(), "/dev/null") << "so that no hub is asked";
  EXPECT_TRUE(model.is_generation());
  EXPECT_EQ(model.max_context_length(), 1000U);
  EXPECT_EQ(model.vocab_size(), 258U);
  EXPECT_THAT(model.eos_token_ids(), ElementsAre(257));
  EXPECT_EQ(model.bos_token_id(), 256);
  wire::GetServerInfoResponse info;
  grpc::ClientContext info_context;
  ASSERT_TRUE(vllm_->GetServerInfo(&info_context, {}, &info).ok());
  EXPECT_EQ(info.block_size(), 64);
  EXPECT_EQ(info.max_num_seqs(), 2);
  wire::GetLoadsResponse loads;
  grpc::ClientContext loads_context;
  ASSERT_TRUE(vllm_->GetLoads(&loads_context, {}, &loads).ok());
  ASSERT_EQ(loads.loads_size(), 1);
  EXPECT_EQ(loads.dp_rank_count(), 1);
  EXPECT_EQ(loads.loads(0).num_waiting_reqs(), 3);
  EXPECT_EQ(loads.loads(0).num_used_tokens(), 9 * 64);
  EXPECT_EQ(loads.loads(0).max_total_num_tokens(), 16 * 64);
  EXPECT_DOUBLE_EQ(loads.loads(0).token_usage(), 9.0 / 16);
  EXPECT_EQ(loads.loads(0).num_waiting_uncached_tokens(), 40);
  wire_common::FlushCacheResponse flushed;
  grpc::ClientContext flush_context;
  ASSERT_TRUE(vllm_->FlushCache(&flush_context, {}, &flushed).ok());
  EXPECT_TRUE(flushed.success());
}

TEST_F(VllmServiceTest, TheTokenizerComesInParts) {
  engine_.tokenizer_files = {{"tokenizer.json", std::string(200'000, 'x')}};
  grpc::ClientContext context;
  auto reader = vllm_->GetTokenizer(&context, {});
  std::string zip;
  std::vector<std::string> digests;
  wire_common::GetTokenizerChunk chunk;
  while (reader->Read(&chunk)) {
    zip += chunk.data();
    digests.push_back(chunk.sha256());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_GT(zip.size(), 200'000U);
  ASSERT_EQ(digests.size(), 4U);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(digests[i].size(), i == 3 ? 64U : 0U);
}

TEST_F(VllmServiceTest, ATokenizerThatCannotBeHadIsAStatus) {
  engine_.tokenizer_files.clear();
  grpc::ClientContext context;
  auto reader = vllm_->GetTokenizer(&context, {});
  wire_common::GetTokenizerChunk chunk;
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(VllmServiceTest, EventsBeginAtOnceAndEndWithTheServer) {
  grpc::ClientContext context;
  auto reader = vllm_->SubscribeKvEvents(&context, {});
  reader->WaitForInitialMetadata();
  wire_common::KvEventBatch batch;
  ASSERT_TRUE(reader->Read(&batch));
  EXPECT_TRUE(batch.events(0).has_cleared());
  ASSERT_EQ(engine_.watchers().size(), 1U);
  engine::CacheEvent stored;
  stored.hash = 5;
  stored.stored = true;
  stored.tokens.assign(64, 1);
  engine_.watchers()[0]->OnCacheEvents(
      std::make_shared<const std::vector<engine::CacheEvent>>(std::vector{stored}), false);
  ASSERT_TRUE(reader->Read(&batch));
  EXPECT_EQ(batch.sequence_number(), 2U);
  EXPECT_EQ(batch.events(0).stored().blocks(0).block_hash(), 5);
  const absl::Time before = absl::Now();
  server_->Shutdown(absl::Now() + absl::Seconds(20));
  EXPECT_LT(absl::Now() - before, absl::Seconds(10)) << "it held the server up";
  EXPECT_FALSE(reader->Read(&batch));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(VllmServiceTest, SubscribersThatLeaveAreForgotten) {
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    auto reader = vllm_->SubscribeKvEvents(&context, {});
    wire_common::KvEventBatch batch;
    ASSERT_TRUE(reader->Read(&batch));
    context.TryCancel();
    reader->Finish();
    EXPECT_TRUE(Eventually([&] { return engine_.watchers().empty(); }));
  }
}

TEST_F(VllmServiceTest, AStreamHasNoPast) {
  grpc::ClientContext context;
  wire_common::SubscribeKvEventsRequest request;
  request.set_start_sequence_number(7);
  auto reader = vllm_->SubscribeKvEvents(&context, request);
  wire_common::KvEventBatch batch;
  EXPECT_FALSE(reader->Read(&batch));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_THAT(status.error_message(), HasSubstr("is 7"));
}

class GatewayAddressTest : public ServerTest {};

TEST_F(GatewayAddressTest, HasTheOneServiceAndHealth) {
  auto started =
      Server::Start(&engine_, &metrics_, {.listen = "127.0.0.1:0", .gateway_listen = "127.0.0.1:0"},
                    {.served_model_name = "served", .max_message_bytes = 1 << 20});
  ASSERT_TRUE(started.ok()) << started.status();
  server_ = *std::move(started);
  server_->SetServing(true);
  ASSERT_NE(server_->gateway_address(), server_->address());
  channel_ = grpc::CreateChannel(server_->gateway_address(), grpc::InsecureChannelCredentials());
  EXPECT_TRUE(CallRaw("/vllm.grpc.engine.VllmEngine/GetModelInfo", "").first.ok());
  EXPECT_EQ(CallRaw("/grpc.health.v1.Health/Check", "").second, "\x08\x01");
  for (const char* method : {"/nsa.v1.InferenceService/GetModelInfo",
                             "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"}) {
    EXPECT_EQ(CallRaw(method, "").first.error_code(), grpc::StatusCode::UNIMPLEMENTED) << method;
  }
}

}  // namespace
}  // namespace nsa::server

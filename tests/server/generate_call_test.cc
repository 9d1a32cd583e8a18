// What is recorded of calls, however they end. How calls behave: inference_service_test.cc.

#include "server/generate_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/server/test_client.h"

namespace nsa::server {
namespace {

using ::testing::HasSubstr;

constexpr char kParent[] = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

class GenerateCallTest : public ServerTest {
 protected:
  void StartTracing(double ratio = 1) {
    path_ = std::filesystem::path(testing::TempDir()) /
            absl::StrCat("generate_call_", getpid(), "_", RandomId(4), ".jsonl");
    auto file = TraceFile::Open(
        {.path = path_.string(), .model_name = "m", .on_spans = [](SpanOutcome, int64_t) {}});
    ASSERT_TRUE(file.ok()) << file.status();
    tracer_ = std::make_unique<Tracer>(Tracer::Options{.ratio = ratio}, *std::move(file));
    Start();
  }

  /// Status of each recorded request by its id, after all have ended; each must be there once.
  std::map<std::string, std::string> Statuses() {
    server_->Shutdown(absl::Now() + absl::Seconds(10));
    server_.reset();
    tracer_.reset();  // writes what waits
    std::map<std::string, std::string> statuses;
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) {
      const auto spans = nlohmann::json::parse(line)["resourceSpans"][0]["scopeSpans"][0]["spans"];
      std::string id, status;
      for (const auto& attribute : spans[0]["attributes"]) {
        if (attribute["key"] == "gen_ai.response.id") id = attribute["value"]["stringValue"];
        if (attribute["key"] == "rpc.response.status_code") {
          status = attribute["value"]["stringValue"];
        }
      }
      EXPECT_TRUE(statuses.emplace(id, status).second) << id << " ended twice";
      for (const auto& span : spans) names_[id].push_back(span["name"]);
      trace_ids_.insert(std::string(spans[0]["traceId"]));
    }
    std::filesystem::remove(path_);
    return statuses;
  }

  std::filesystem::path path_;
  std::map<std::string, std::vector<std::string>> names_;
  std::set<std::string> trace_ids_;
};

TEST_F(GenerateCallTest, EveryEndIsRecordedOnce) {
  StartTracing();
  EXPECT_TRUE(Generate(Prompt("x", "good")).status.ok());
  v1::GenerateRequest bad = Prompt("x", "bad");
  bad.mutable_sampling()->set_top_p(2);
  EXPECT_FALSE(Generate(bad).status.ok());
  engine_.ChangeScript([](auto& s) { s.admit = absl::ResourceExhaustedError("full"); });
  EXPECT_FALSE(Generate(Prompt("x", "refused")).status.ok());
  engine_.ChangeScript([](auto& s) { s.admit = absl::OkStatus(); });
  engine_.ChangeScript([](auto& s) { s.submit = absl::UnavailableError("draining"); });
  EXPECT_FALSE(Generate(Prompt("x", "late")).status.ok());
  engine_.ChangeScript([](auto& s) { s.submit = absl::OkStatus(); });
  engine_.ChangeScript([](auto& s) { s.fail_after_tokens = 2; });
  testing::internal::CaptureStderr();
  EXPECT_FALSE(Generate(Prompt("x", "broken \"\n")).status.ok());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("ERROR request=\"broken \\\"\\n\" failed: INTERNAL: the model's"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << "an id cannot make a line";
  const std::map<std::string, std::string> expected = {{"good", "OK"},
                                                       {"bad", "INVALID_ARGUMENT"},
                                                       {"refused", "RESOURCE_EXHAUSTED"},
                                                       {"late", "UNAVAILABLE"},
                                                       {"broken \"\n", "INTERNAL"}};
  EXPECT_EQ(Statuses(), expected);
  EXPECT_EQ(names_["good"], (std::vector<std::string>{"text_completion m", "prepare", "queue",
                                                      "prefill", "chunk", "decode", "stream"}));
  EXPECT_EQ(names_["refused"], std::vector<std::string>{"text_completion m"});
  EXPECT_EQ(trace_ids_.size(), 5U) << "each its own trace";
}

TEST_F(GenerateCallTest, ThoseThatTheClientEndsToo) {
  engine_.script.step = absl::Milliseconds(5);
  StartTracing();
  const auto read_one = [&](const std::string& id, absl::Duration deadline) {
    v1::GenerateRequest request = Prompt("x", id);
    request.mutable_stopping()->set_max_tokens(999);
    grpc::ClientContext context;
    if (deadline < absl::InfiniteDuration()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
    }
    auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    if (deadline == absl::InfiniteDuration()) context.TryCancel();
    while (reader->Read(&message)) {
    }
    (void)reader->Finish();
  };
  read_one("cancelled", absl::InfiniteDuration());
  read_one("expired", absl::Milliseconds(300));
  v1::GenerateRequest request = Prompt("x", "aborted");
  request.mutable_stopping()->set_max_tokens(999);
  StreamResult aborted;
  std::thread reader([&] { aborted = Generate(request); });
  ASSERT_TRUE(Eventually([&] { return engine_.num_generated("aborted") > 1; }));
  engine_.Abort("aborted");
  reader.join();
  EXPECT_TRUE(aborted.status.ok());
  ASSERT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
  const std::map<std::string, std::string> expected = {
      {"cancelled", "CANCELLED"}, {"expired", "DEADLINE_EXCEEDED"}, {"aborted", "OK"}};
  EXPECT_EQ(Statuses(), expected);
}

TEST_F(GenerateCallTest, OneThatIsAbortedBeforeTheEngineHasIt) {
  StartTracing();
  StreamResult result;
  std::unique_lock<std::mutex> busy(engine_.tokenizer().gate);
  std::thread reader([&] { result = Generate(Prompt("x", "early")); });
  ASSERT_TRUE(Eventually([&] { return engine_.tokenizer().num_waiting() == 1; }));
  grpc::ClientContext context;
  v1::AbortRequest abort;
  abort.set_request_id("early");
  v1::AbortResponse response;
  EXPECT_TRUE(stub_->Abort(&context, abort, &response).ok());
  busy.unlock();
  reader.join();
  EXPECT_TRUE(result.finished.has_aborted());
  EXPECT_EQ(Statuses(), (std::map<std::string, std::string>{{"early", "OK"}}));
  EXPECT_EQ(names_["early"], (std::vector<std::string>{"text_completion m", "prepare", "stream"}));
}

TEST_F(GenerateCallTest, ManyThatEndInAllWaysEachOnce) {
  engine_.script.step = absl::Microseconds(200);
  StartTracing();
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([this, i] {
      for (int k = 0; k < 15; ++k) {
        v1::GenerateRequest request = Prompt("x", absl::StrCat(i, "-", k));
        request.mutable_stopping()->set_max_tokens(1 + (i * 7 + k) % 30);
        grpc::ClientContext context;
        if (k % 3 == 1) {
          context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(20 + k)));
        }
        std::thread canceller;
        if (k % 3 == 2) canceller = std::thread([&context] { context.TryCancel(); });
        (void)Generate(request, &context);
        if (canceller.joinable()) canceller.join();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  ASSERT_TRUE(Eventually([&] { return engine_.num_active() == 0; }));
  const auto statuses = Statuses();
  // Those whose client left before the server heard of them are nobody's.
  EXPECT_LE(statuses.size(), 120U);
  EXPECT_GE(statuses.size(), 40U);
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 15; k += 3) EXPECT_EQ(statuses.at(absl::StrCat(i, "-", k)), "OK");
  }
}

TEST_F(GenerateCallTest, TheCallersTraceGoesOn) {
  StartTracing(/*ratio=*/0);
  grpc::ClientContext sampled, unsampled, malformed, twice;
  sampled.AddMetadata("traceparent", kParent);
  std::string parent = kParent;
  parent.back() = '0';
  unsampled.AddMetadata("traceparent", parent);
  malformed.AddMetadata("traceparent", "00-no");
  EXPECT_TRUE(Generate(Prompt("x", "sampled"), &sampled).status.ok());
  EXPECT_TRUE(Generate(Prompt("x", "unsampled"), &unsampled).status.ok());
  EXPECT_TRUE(Generate(Prompt("x", "malformed"), &malformed).status.ok()) << "never an error";
  twice.AddMetadata("traceparent", kParent);
  twice.AddMetadata("traceparent", kParent);
  EXPECT_TRUE(Generate(Prompt("x", "twice"), &twice).status.ok());
  EXPECT_EQ(Statuses(), (std::map<std::string, std::string>{{"sampled", "OK"}}));
  EXPECT_EQ(trace_ids_, std::set<std::string>{"4bf92f3577b34da6a3ce929d0e0e4736"});
}

TEST_F(GenerateCallTest, AFailureNamesTheTraceThoughNothingIsTraced) {
  engine_.script.fail_after_tokens = 0;
  Start();
  grpc::ClientContext context;
  context.AddMetadata("traceparent", kParent);
  testing::internal::CaptureStderr();
  EXPECT_FALSE(Generate(Prompt("secret words", "mine"), &context).status.ok());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log,
              HasSubstr("request=\"mine\" trace=\"4bf92f3577b34da6a3ce929d0e0e4736\" failed: "));
  EXPECT_THAT(log, ::testing::Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace nsa::server

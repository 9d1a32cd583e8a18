#include "server/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"

namespace nsa::server {
namespace {

using ::testing::HasSubstr;

/// Options of a command line; flags are as before afterwards.
absl::StatusOr<ServerOptions> Parse(const std::vector<std::string>& arguments) {
  const absl::FlagSaver saver;
  std::vector<std::string> all = {"--model=/models/x.gguf"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  const auto others = ParseFlags(all, ServerFlagGroups());
  if (!others.ok()) return others.status();
  return OptionsFromFlags();
}

TEST(FlagsTest, Defaults) {
  const auto options = Parse({});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->engine.model_path, "/models/x.gguf");
  EXPECT_EQ(options->served_model_name, "x.gguf");
  EXPECT_EQ(options->listen, "127.0.0.1:50051");
  EXPECT_EQ(options->metrics_listen, "127.0.0.1:9090");
  EXPECT_EQ(options->engine.attention, engine::AttentionFlag::kAuto);
  EXPECT_EQ(options->drain_timeout, absl::Seconds(30));
  EXPECT_FALSE(options->json_log);
  EXPECT_EQ(options->engine.kv_spill_dir, "");
  EXPECT_FALSE(options->allow_test_faults);
}

TEST(FlagsTest, EveryFlagArrives) {
  const auto options = Parse({"--served_model_name=s",
                              "--listen=[::1]:0",
                              "--metrics_listen=",
                              "--attention=full",
                              "--num_selected_blocks=8",
                              "--max_context=4096",
                              "--device=cpu",
                              "--kv_cache_gib=0.5",
                              "--kv_cache_dtype=int8",
                              "--kv_spill_dir=/spill",
                              "--kv_spill_gib=2.5",
                              "--allow_test_faults",
                              "--speculative=prompt_lookup",
                              "--num_threads",
                              "3",
                              "--max_step_tokens=64",
                              "--target_first_token_ms=1500",
                              "--max_running_requests=5",
                              "--max_queued_requests=6",
                              "--max_queued_tokens=7000",
                              "--max_message_bytes=2048",
                              "--drain_timeout_s=1.5",
                              "--log_format=json",
                              "--log_requests",
                              "--trace_file=/t",
                              "--trace_ratio=0.25",
                              "--trace_file_mib=3",
                              "--latency_buckets=1,2",
                              "--token_buckets=3,4"});
  ASSERT_TRUE(options.ok()) << options.status();
  const engine::EngineOptions& e = options->engine;
  EXPECT_EQ(options->served_model_name, "s");
  EXPECT_EQ(options->listen, "[::1]:0");
  EXPECT_EQ(options->metrics_listen, "");
  EXPECT_EQ(e.attention, engine::AttentionFlag::kFull);
  EXPECT_EQ(e.num_selected_blocks, 8);
  EXPECT_EQ(e.max_context, 4096);
  EXPECT_EQ(e.kv_cache_gib, 0.5);
  EXPECT_EQ(e.kv_spill_dir, "/spill");
  EXPECT_EQ(e.kv_spill_gib, 2.5);
  EXPECT_TRUE(options->allow_test_faults);
  EXPECT_EQ(e.speculation, engine::Speculation::kPromptLookup);
  EXPECT_EQ(e.kv_cache_dtype, engine::KvCacheDtype::kInt8);
  EXPECT_EQ(e.num_threads, 3);
  EXPECT_EQ(e.max_step_tokens, 64);
  EXPECT_EQ(e.target_first_token, absl::Milliseconds(1500));
  EXPECT_EQ(e.max_running_requests, 5);
  EXPECT_EQ(e.max_queued_requests, 6);
  EXPECT_EQ(e.max_queued_tokens, 7000);
  EXPECT_EQ(options->max_message_bytes, 2048);
  EXPECT_EQ(options->drain_timeout, absl::Seconds(1.5));
  EXPECT_TRUE(options->json_log);
  EXPECT_TRUE(options->tracer.logs_requests);
  EXPECT_EQ(options->tracer.ratio, 0.25);
  EXPECT_EQ(options->trace_file, "/t");
  EXPECT_EQ(options->trace_file_bytes, 3 << 20);
  EXPECT_EQ(options->buckets.seconds, (std::vector<double>{1, 2}));
  EXPECT_EQ(options->buckets.tokens, (std::vector<double>{3, 4}));
}

TEST(FlagsTest, BadValuesAreNamed) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"num_threads", {"-1", "1025", "x", "1.5", "", "99999999999"}},
      {"kv_cache_gib", {"-0.1", "nan", "inf", "x", "-nan"}},
      {"kv_spill_gib", {"-0.1", "nan", "inf", "x"}},
      {"speculative", {"ngram", "PROMPT_LOOKUP", ""}},
      {"kv_cache_dtype", {"f64", "fp4", "INT8", ""}},
      {"weight_dtype", {"f16", "q4_1", "Q8_0", ""}},
      {"attention_precision", {"f32", "bf16", "16", ""}},
      {"drain_timeout_s", {"-1", "nan", "inf", "soon"}},
      {"num_selected_blocks", {"-1", "257"}},
      {"max_context", {"-1", "2000000000", "9e9"}},
      {"max_step_tokens", {"0", "-5", "65537"}},
      {"max_running_requests", {"0", "65537"}},
      {"target_first_token_ms", {"-1", "nan", "inf", "soon"}},
      {"max_queued_requests", {"0", "-1"}},
      {"max_queued_tokens", {"-1"}},
      {"max_message_bytes", {"0", "1023", "2147483648"}},
      {"attention", {"sparse", ""}},
      {"device", {"gpu", ""}},
      {"log_format", {"xml", ""}},
      {"trace_ratio", {"-0.1", "1.1", "nan", "x"}},
      {"trace_file_mib", {"-1", "1.5"}},
      {"latency_buckets", {"1,x", "2,1"}},
      {"token_buckets", {"0"}},
  };
  for (const auto& [flag, values] : cases) {
    for (const char* value : values) {
      const auto options = Parse({absl::StrCat("--", flag, "=", value)});
      EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument)
          << flag << "=" << value << ": " << options.status();
      EXPECT_THAT(std::string(options.status().message()), HasSubstr(absl::StrCat("--", flag)));
    }
  }
}

TEST(FlagsTest, ModelIsNeededAndCudaIsSeenLater) {
  EXPECT_THAT(std::string(Parse({"--model="}).status().message()), HasSubstr("--model"));
  const auto cuda = Parse({"--device=cuda"});
  ASSERT_TRUE(cuda.ok()) << cuda.status();  // whether there is one is seen when the model is loaded
  EXPECT_EQ(cuda->engine.device, engine::Device::kCuda);
}

TEST(FlagsTest, HelpExplainsEachFlagOnce) {
  const std::string help = FlagHelp(ServerFlagGroups());
  std::set<std::string> seen;
  for (const FlagGroup& group : ServerFlagGroups()) {
    EXPECT_THAT(help, HasSubstr("\n" + group.title + "\n"));
    for (const std::string& name : group.flags) {
      EXPECT_TRUE(seen.insert(name).second) << name;
      const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
      ASSERT_NE(flag, nullptr) << name;
      EXPECT_THAT(help, HasSubstr("  --" + name));
      EXPECT_THAT(help, HasSubstr(flag->Help()));
    }
  }
}

}  // namespace
}  // namespace nsa::server

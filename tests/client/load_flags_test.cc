#include "client/load/load_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/flags/reflection.h"
#include "client/flags.h"

namespace nsa::client {
namespace {

using ::testing::HasSubstr;

class LoadFlagsTest : public ::testing::Test {
 protected:
  static absl::StatusOr<LoadOptions> Options(const std::vector<std::string>& arguments) {
    const absl::FlagSaver saver;
    const auto words = ParseFlags(arguments, ClientFlagGroups());
    if (!words.ok()) return words.status();
    return LoadOptionsFromFlags();
  }
};

TEST_F(LoadFlagsTest, OpenLoop) {
  const auto options =
      Options({"--rate=2.5", "--num_requests=10", "--duration_s=3", "--prompt_tokens=uniform:1:4",
               "--workload_seed=7", "--slo_ttft_ms=200"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->workload.rate, 2.5);
  EXPECT_TRUE(options->workload.poisson);
  EXPECT_EQ(options->workload.seed, 7U);
  EXPECT_EQ(options->workload.prompt_tokens.largest(), 4);
  EXPECT_EQ(options->workload.output_tokens.largest(), 128);
  EXPECT_EQ(options->num_requests, 10);
  EXPECT_EQ(options->duration_s, 3);
  EXPECT_FALSE(options->concurrency.has_value());
  EXPECT_EQ(options->slo.ttft_ms, 200);
  EXPECT_FALSE(options->slo.itl_ms.has_value());
}

TEST_F(LoadFlagsTest, ClosedLoopAndTrace) {
  EXPECT_EQ(Options({"--concurrency=8", "--duration_s=1"})->concurrency, 8);
  EXPECT_EQ(Options({"--trace_file=x", "--trace_speed=2"})->trace_speed, 2);
  EXPECT_TRUE(Options({"--trace_file=x", "--concurrency=2", "--num_requests=5"}).ok());
  EXPECT_EQ(Options({"--trace_file=x", "--plan_out=y"})->plan_out, "y");
  EXPECT_EQ(Options({"--rate=1", "--num_requests=5", "--plan_out=y"})->plan_out, "y");
}

TEST_F(LoadFlagsTest, EachFlagOutOfRangeIsNamed) {
  const std::pair<const char*, std::vector<const char*>> cases[] = {
      {"rate", {"0", "-1", "nan", "inf", "x", "1e7"}},
      {"num_requests", {"0", "-1", "1.5", "x", "1000000001", "99999999999999999999"}},
      {"duration_s", {"0", "-1", "nan", "inf", "1e7", "x"}},
      {"warmup_requests", {"-1", "1000001", "x"}},
      {"workload_seed", {"-1", "x", "1.5"}},
      {"num_connections", {"0", "-1", "1025"}},
      {"arrivals", {"gamma", ""}},
      {"prompt_tokens", {"0", "x", "uniform:2:1", ""}},
      {"output_tokens", {"0", "normal:1", ""}},
      {"shared_prefix_tokens", {"-1", "1073741825"}},
      {"num_prefixes", {"0", "-1"}},
      {"priority_mix", {"x", "1:0", "0.5", "1e10"}},
      {"deadline_ms", {"-1", "x", "nan", "5:-1", "1e10"}},
      {"num_cache_salts", {"-1", "x"}},
      {"slo_ttft_ms", {"0", "-1", "nan", "x"}},
      {"slo_itl_ms", {"0", "-1", "nan", "x"}},
      {"slo_tpot_ms", {"0", "-1", "inf", "x"}},
      {"slo_e2e_ms", {"0", "-1", "nan", "x"}},
      {"stop_at_eos", {"perhaps"}},
  };
  for (const auto& [flag, values] : cases) {
    for (const char* value : values) {
      const std::string argument = std::string("--") + flag + "=" + value;
      const auto options = Options({"--rate=1", "--num_requests=1", argument});
      EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument) << argument;
      EXPECT_THAT(std::string(options.status().message()), HasSubstr(std::string("--") + flag));
    }
  }
  for (const char* value : {"0", "-1", "1.5", "x", "100001"}) {
    const auto options = Options({std::string("--concurrency=") + value, "--num_requests=1"});
    EXPECT_THAT(std::string(options.status().message()), HasSubstr("--concurrency")) << value;
  }
  for (const char* value : {"0", "-1", "nan", "1e7"}) {
    const auto options = Options({"--trace_file=x", std::string("--trace_speed=") + value});
    EXPECT_THAT(std::string(options.status().message()), HasSubstr("--trace_speed")) << value;
  }
}

TEST_F(LoadFlagsTest, Contradictions) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{}, "--rate"},
      {{"--num_requests=1"}, "--concurrency"},
      {{"--rate=1", "--concurrency=1", "--num_requests=1"}, "one of them"},
      {{"--rate=1"}, "--duration_s"},
      {{"--concurrency=1"}, "--num_requests"},
      {{"--rate=1", "--num_requests=1", "--num_prefixes=2"}, "--shared_prefix_tokens"},
      {{"--rate=1", "--num_requests=1", "--trace_speed=2"}, "--trace_file"},
      {{"--rate=1", "--num_requests=1", "--priority=1", "--priority_mix=1"}, "--priority_mix"},
      {{"--rate=1", "--num_requests=1", "--cache_salt=x", "--num_cache_salts=1"}, "--cache_salt"},
      {{"--trace_file=x", "--rate=1"}, "--rate is for drawn requests"},
      {{"--trace_file=x", "--prompt_tokens=5"}, "--prompt_tokens"},
      {{"--trace_file=x", "--num_cache_salts=5"}, "--num_cache_salts"},
      {{"--concurrency=1", "--num_requests=1", "--plan_out=x"}, "--plan_out needs --rate"},
      {{"--rate=1", "--plan_out=x"}, "--duration_s"},
  };
  for (const auto& [arguments, words] : cases) {
    const auto options = Options(arguments);
    EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_THAT(std::string(options.status().message()), HasSubstr(words));
  }
}

TEST_F(LoadFlagsTest, GivenFlagsAreFound) {
  const absl::FlagSaver saver;
  EXPECT_EQ(FirstGivenFlag(LoadFlagGroups()), "");
  ASSERT_TRUE(ParseFlags({"--slo_e2e_ms=5"}, ClientFlagGroups()).ok());
  EXPECT_EQ(FirstGivenFlag(LoadFlagGroups()), "slo_e2e_ms");
}

TEST_F(LoadFlagsTest, HelpNamesEachFlag) {
  const std::string help = FlagHelp(ClientFlagGroups());
  for (const FlagGroup& group : LoadFlagGroups()) {
    for (const std::string& flag : group.flags) EXPECT_THAT(help, HasSubstr("--" + flag));
  }
}

}  // namespace
}  // namespace nsa::client

// The engine on the CUDA backend with a tier below its pages, in memory of the host: contexts
// beyond the device's memory give what they give with all of it. On the emulator copies last until
// they are asked for, and whoever touches a page under way ends the process; tests/gpu runs the
// same on a GPU.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/faults.h"
#include "engine/kv_cache.h"
#include "engine/loaded_model.h"
#include "kernels/backend.h"
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/streams.h"
#include "tests/engine/fakes.h"
#include "tests/engine/paper_folder.h"
#include "tests/engine/passing_backend.h"
#include "tests/engine/random_requests.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

constexpr int kNumLayers = 2;
constexpr int64_t kTrained = 2048;
constexpr absl::Duration kLongest = absl::Minutes(20);

/// What was moved and computed again; written by the engine thread.
class Counter final : public MetricsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    pages_out += stats.spills.num_pages_out;
    pages_in += stats.spills.num_pages_in;
    failures += stats.spills.num_failed_reads + stats.spills.num_failed_writes;
    slots_missed += stats.misses.num_slots;
    spilled = stats.num_pages_spilled;
    num_steps += stats.num_decode_tokens > 0 ? 1 : 0;
  }
  void OnPreemptions(const Preemptions& preemptions) override {
    num_preempted += preemptions.num_sequences;
    num_recomputed += preemptions.num_recomputed_tokens;
  }
  std::atomic<int64_t> pages_out{0}, pages_in{0}, failures{0}, slots_missed{0}, spilled{0};
  std::atomic<int64_t> num_preempted{0}, num_recomputed{0}, num_steps{0};
};

/// `names` holds the first layer's weights, all others have the same shapes.
TinyFolder::Shapes WithLayers(const TinyFolder::Shapes& names) {
  TinyFolder::Shapes shapes;
  for (const auto& [name, shape] : names) {
    shapes[name] = shape;
    const size_t at = name.find("layers.0.");
    for (int layer = 1; at != std::string::npos && layer < kNumLayers; ++layer) {
      std::string copy = name;
      shapes[copy.replace(at, 9, absl::StrCat("layers.", layer, "."))] = shape;
    }
  }
  return shapes;
}

void WriteFolder(const TinyFolder& folder, TinyFolder::json config,
                 const TinyFolder::Shapes& weights) {
  config["num_hidden_layers"] = kNumLayers;
  config["max_position_embeddings"] = kTrained;
  folder.WriteJson("config.json", config);
  folder.Write("model.safetensors", TinyFolder::Safetensors(WithLayers(weights)));
}

/// Gates, one a branch and head; a row selects two pages and reads a window of one.
void WriteGated(const TinyFolder& folder) {
  TinyFolder::json config = TinyFolder::Config();
  config.update(
      {{"model_type", "llama-nsa"}, {"block_size", 64}, {"block_counts", 3}, {"window_size", 64}});
  TinyFolder::Shapes weights = TinyFolder::Weights();
  weights["model.layers.0.self_attn.g_proj.weight"] = {2 * 3, TinyFolder::kHidden};
  WriteFolder(folder, config, weights);
}

/// K and V by branch: three to a place.
void WritePaper(const TinyFolder& folder) {
  WriteFolder(folder, PaperConfig({}), PaperWeights({}));
}

/// Attention to everything: pages come and go as a whole.
void WriteFull(const TinyFolder& folder) {
  WriteFolder(folder, TinyFolder::Config(), TinyFolder::Weights());
}

/// Says of every copy at once that it has ended: the order that is missing where nobody waits.
class HastyCopies final : public kernels::SideCopies {
 public:
  explicit HastyCopies(std::unique_ptr<kernels::SideCopies> inner) : inner_(std::move(inner)) {}
  kernels::Memory AllocateHost(int64_t num_bytes) override {
    return inner_->AllocateHost(num_bytes);
  }
  void Start(Direction direction, std::span<const Piece> pieces, int64_t ticket) override {
    inner_->Start(direction, pieces, ticket);
    ended_.push_back(ticket);
  }
  void Clear(std::byte* host, int64_t num_bytes) override { inner_->Clear(host, num_bytes); }
  std::vector<int64_t> TakeEnded() override { return std::exchange(ended_, {}); }

 private:
  std::unique_ptr<kernels::SideCopies> inner_;
  std::vector<int64_t> ended_;
};

class HastyBackend final : public PassingBackend {
 public:
  using PassingBackend::PassingBackend;
  std::unique_ptr<kernels::SideCopies> MakeSideCopies() override {
    return std::make_unique<HastyCopies>(inner().MakeSideCopies());
  }
};

class CudaTierTest : public testing::Test {
 protected:
  CudaTierTest() {
    options_.model_path = folder_.path();
    options_.device = Device::kCuda;
    options_.metrics = &counter_;
    options_.checks_each_step = true;
    options_.max_step_tokens = 128;
    WriteGated(folder_);
    // Asked for here, so that the linker takes the backend that this program is linked with first.
    EXPECT_EQ(kernels::OpenCudaDevice().error, "");
  }
  ~CudaTierTest() override { cuda_host::SetCopyDelay(0); }

  /// Options for memory for `frames` pages, and of the host for `blocks` more.
  EngineOptions OptionsFor(int64_t frames, int64_t blocks, int64_t max_context) const {
    EngineOptions options = options_;
    options.max_context = max_context;
    options.wrap_backend = {};
    options.kv_cache_gib = 0.05;
    auto loaded = LoadModelWithCache(options);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    KvLayout layout = (*loaded)->cache->layout();
    layout.has_places = true;
    options.kv_cache_gib =
        std::ldexp(static_cast<double>(KvCache::NumBytes(layout, frames, blocks)) + 1, -30);
    options.kv_spill_gib = std::ldexp(static_cast<double>(blocks * layout.SlotsBytes()) + 1, -30);
    if (blocks == 0) options.kv_spill_gib = 0;
    options.wrap_backend = options_.wrap_backend;
    return options;
  }

  std::unique_ptr<Engine> Create(int64_t frames, int64_t blocks, int64_t max_context) {
    auto engine = CreateEngine(OptionsFor(frames, blocks, max_context));
    EXPECT_TRUE(engine.ok()) << engine.status();
    EXPECT_EQ((*engine)->model_info().num_pages, frames);
    EXPECT_EQ((*engine)->model_info().num_spilled_pages, blocks);
    return *std::move(engine);
  }

  static std::shared_ptr<RecordingSink> Submit(Engine& engine, Request request) {
    return SubmitTo<RecordingSink>(engine, std::move(request));
  }
  static bool WaitFor(const RecordingSink& sink) {
    return sink.done.WaitForNotificationWithTimeout(kLongest);
  }

  /// With all in memory, and no tier.
  std::vector<int32_t> Alone(const Request& request) {
    FaultInjector* faults = std::exchange(options_.faults, nullptr);
    const auto tokens =
        static_cast<int64_t>(request.prompt_token_ids.size()) + *request.sampling.max_tokens;
    auto engine = Create(tokens / 64 + 2, 0, tokens + 1);
    auto sink = Submit(*engine, request);
    EXPECT_TRUE(WaitFor(*sink));
    options_.faults = faults;
    return sink->tokens;
  }

  /// Each ends with what it has alone, or was aborted on the way there; the engine is none the
  /// worse, and has all its pages.
  static void CheckAll(Engine& engine, const std::vector<std::shared_ptr<RecordingSink>>& sinks,
                       const std::vector<std::vector<int32_t>>& alone) {
    for (size_t i = 0; i < sinks.size(); ++i) {
      ASSERT_TRUE(WaitFor(*sinks[i]));
      ASSERT_TRUE(sinks[i]->status.ok()) << sinks[i]->status;
      std::vector<int32_t> expected = alone[i];
      if (sinks[i]->finish.reason == FinishReason::kAborted) {
        expected.resize(sinks[i]->tokens.size());
      }
      EXPECT_EQ(sinks[i]->tokens, expected) << i;
    }
    EXPECT_TRUE(WaitUntil([&] {
      const EngineLoad load = engine.load();
      return load.num_pages_free == load.num_pages_total;
    }));
    EXPECT_TRUE(engine.healthy());
  }
  static bool WaitUntil(const std::function<bool()>& holds) {
    const absl::Time end = absl::Now() + kLongest;
    while (!holds() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
    return holds();
  }

  TinyFolder folder_;
  Counter counter_;
  EngineOptions options_;
};

/// Contexts of half as much again as memory, and two of them: what rows select comes and goes by
/// slots.
TEST_F(CudaTierTest, AContextBeyondMemoryRuns) {
  for (const auto& write : {WriteGated, WritePaper}) {
    write(folder_);
    const std::vector<Request> requests = {SampledRequest(1, 600, 8), SampledRequest(2, 330, 16)};
    std::vector<std::vector<int32_t>> alone;
    for (const Request& request : requests) alone.push_back(Alone(request));
    cuda_host::SetCopyDelay(5);
    const int64_t misses = counter_.slots_missed;
    auto engine = Create(6, 30, 640);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const Request& request : requests) sinks.push_back(Submit(*engine, request));
    ASSERT_NO_FATAL_FAILURE(CheckAll(*engine, sinks, alone));
    EXPECT_GT(counter_.slots_missed, misses + 20);
    EXPECT_EQ(counter_.num_recomputed, 0);
    cuda_host::SetCopyDelay(0);
  }
}

/// Pages of sequences that read all of them go out and come back as a whole.
TEST_F(CudaTierTest, TwoFullContextsInAPoolForOneLoseNoWork) {
  WriteFull(folder_);
  options_.attention = AttentionFlag::kFull;
  const std::vector<Request> requests = {SampledRequest(1, 120, 100), SampledRequest(2, 120, 100)};
  std::vector<std::vector<int32_t>> alone;
  for (const Request& request : requests) alone.push_back(Alone(request));
  cuda_host::SetCopyDelay(3);
  auto engine = Create(6, 20, 384);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (const Request& request : requests) sinks.push_back(Submit(*engine, request));
  ASSERT_NO_FATAL_FAILURE(CheckAll(*engine, sinks, alone));
  EXPECT_GE(counter_.pages_out, 1);
  EXPECT_GE(counter_.pages_in, 1);
  EXPECT_GT(counter_.num_preempted, 0);
  EXPECT_EQ(counter_.num_recomputed, 0);
}

/// Prefixes that nobody uses make room and come back, and a flush forgets them.
TEST_F(CudaTierTest, IdlePrefixesAreFoundInTheHost) {
  constexpr int kPrompts = 5;
  cuda_host::SetCopyDelay(2);
  auto engine = Create(8, 40, 448);
  std::vector<std::vector<int32_t>> tokens;
  for (int i = 0; i < kPrompts; ++i) {
    const auto sink = Submit(*engine, SampledRequest(i, 280, 4));
    ASSERT_TRUE(WaitFor(*sink));
    tokens.push_back(sink->tokens);
  }
  EXPECT_GT(counter_.pages_out, 8);
  for (int i = 0; i < kPrompts; ++i) {
    const auto sink = Submit(*engine, SampledRequest(i, 280, 4));
    ASSERT_TRUE(WaitFor(*sink));
    EXPECT_EQ(sink->tokens, tokens[static_cast<size_t>(i)]);
    EXPECT_EQ(sink->finish.usage.num_cached_tokens, 4 * 64) << i;
  }
  EXPECT_GT(counter_.pages_in, 4);
  engine->FlushCache([](int32_t num_freed) { EXPECT_EQ(num_freed, kPrompts * 4); });
  EXPECT_TRUE(WaitUntil([&] { return counter_.spilled == 0; }));
  const auto sink = Submit(*engine, SampledRequest(0, 280, 4));
  ASSERT_TRUE(WaitFor(*sink));
  EXPECT_EQ(sink->finish.usage.num_cached_tokens, 0);
}

/// Copies and allocations fail (pages that come back very seldom: who loses four before its next
/// token ends with an error), sequences are sent away, cancelled and flushed.
TEST_F(CudaTierTest, FaultsDoNotShowInTheOutput) {
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(SampledRequest(i, 190 * i + 70, 10));
    alone.push_back(Alone(requests.back()));
  }
  for (const char* text : {"spill_write=0.2,spill_read=0.01,allocation=0.02,preempt_every=40",
                           "drop_stream=0.002,spill_slow=0.2,delay_ms=2,preempt=0.01"}) {
    SCOPED_TRACE(text);
    cuda_host::SetCopyDelay(2);
    FaultInjector faults(*FaultInjector::Parse(text));
    options_.faults = &faults;
    auto engine = Create(6, 30, 640);
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (const Request& request : requests) sinks.push_back(Submit(*engine, request));
    engine->FlushCache([](int32_t) {});
    ASSERT_NO_FATAL_FAILURE(CheckAll(*engine, sinks, alone));
  }
  EXPECT_GT(counter_.failures, 0);
  EXPECT_GT(counter_.slots_missed, 0);
}

/// Requests that end, a flush, and the end of the engine, while pages are on the way.
TEST_F(CudaTierTest, CancelAndFlushInMidMoveReturnAllPages) {
  cuda_host::SetCopyDelay(3);
  FaultInjector faults(*FaultInjector::Parse("spill_slow=1,delay_ms=4"));
  options_.faults = &faults;
  auto engine = Create(6, 30, 640);
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    const int64_t pages_out = counter_.pages_out;
    const Request first = SampledRequest(10 * round, 460, 4);
    const Request second = SampledRequest(10 * round + 1, 300, 40);
    const auto a = Submit(*engine, first), b = Submit(*engine, second);
    ASSERT_TRUE(WaitUntil([&] { return counter_.pages_out > pages_out; }));
    absl::SleepFor(absl::Milliseconds(3 * round));
    if (round % 2 == 0) engine->FlushCache([](int32_t) {});
    engine->Abort(second.id);
    if (round % 3 == 0) engine->Abort(first.id);
    ASSERT_TRUE(WaitFor(*a) && WaitFor(*b));
    EXPECT_EQ(a->num_done + b->num_done, 2);
    ASSERT_NO_FATAL_FAILURE(CheckAll(*engine, {}, {}));
  }
  const auto last = Submit(*engine, SampledRequest(99, 500, 40));
  const int64_t pages_out = counter_.pages_out;
  EXPECT_TRUE(WaitUntil([&] { return counter_.pages_out > pages_out; }));
  engine.reset();
  EXPECT_EQ(last->num_done, 1);
}

/// While all pages are in memory a step with a tier is what it is without: one graph, and no wait
/// for what a layer selects.
TEST_F(CudaTierTest, StepsWithAllInMemoryAreOneGraph) {
  if (!cuda_host::IsEmulated()) GTEST_SKIP() << "counts are the emulator's";
  const auto count = [&](int64_t blocks) {
    auto engine = Create(12, blocks, 512);
    const cuda_host::StreamCounts before = cuda_host::CountsOfStreams();
    const int64_t steps = counter_.num_steps;
    const auto sink = Submit(*engine, SampledRequest(1, 150, 24));
    EXPECT_TRUE(WaitFor(*sink));
    engine.reset();  // its thread has counted the last step
    const cuda_host::StreamCounts after = cuda_host::CountsOfStreams();
    return std::vector<int64_t>{
        counter_.num_steps - steps, after.graph_launches - before.graph_launches,
        after.kernel_launches - before.kernel_launches, after.waits - before.waits};
  };
  const std::vector<int64_t> without = count(0), with = count(40);
  EXPECT_GE(without[1], without[0] - 20);
  EXPECT_EQ(with[1], without[1]);
  EXPECT_EQ(with[2], without[2]);
  EXPECT_LE(with[3], without[3] + 2);  // the copies' own, at their end
  EXPECT_EQ(counter_.slots_missed, 0);
}

TEST_F(CudaTierTest, BadOptionsAreRefused) {
  EngineOptions options = OptionsFor(8, 40, 512);
  const auto refuse = [&](absl::StatusCode code, const char* words) {
    const auto engine = CreateEngine(options);
    EXPECT_EQ(engine.status().code(), code) << engine.status();
    EXPECT_NE(engine.status().message().find(words), std::string::npos) << engine.status();
  };
  options.kv_spill_dir = folder_.path();
  refuse(absl::StatusCode::kInvalidArgument, "leave --kv_spill_dir out");
  options.kv_spill_dir = "";
  for (const double gib : {-1.0, std::nan(""), 1e-9, 2e6}) {
    options.kv_spill_gib = gib;
    refuse(absl::StatusCode::kInvalidArgument, "--kv_spill_gib");
  }
  options.kv_spill_gib = 9e5;
  refuse(absl::StatusCode::kResourceExhausted, "not enough memory of the host");
}

/// The emulator sees what a GPU might survive today: a page that is used before it is there.
TEST_F(CudaTierTest, ATierThatDoesNotWaitIsFound) {
  if (!cuda_host::IsEmulated()) GTEST_SKIP() << "a GPU's luck";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  options_.wrap_backend = [](std::unique_ptr<kernels::Backend> backend) {
    return std::make_unique<HastyBackend>(std::move(backend));
  };
  const auto run = [this](int delay) {
    cuda_host::SetCopyDelay(delay);
    auto engine = Create(6, 30, 640);
    return WaitFor(*Submit(*engine, SampledRequest(1, 450, 2)));
  };
  EXPECT_TRUE(run(0)) << "copies end at once";
  EXPECT_GT(counter_.slots_missed, 0);
  EXPECT_DEATH((void)run(1000), "");
}

}  // namespace
}  // namespace nsa::engine

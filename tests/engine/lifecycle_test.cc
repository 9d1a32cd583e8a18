// What an operator relies on: a check before readiness, a watchdog, and no corpse that looks well.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "tests/engine/engine_fixture.h"
#include "tests/engine/fakes.h"
#include "tests/engine/passing_backend.h"

namespace nsa::engine {
namespace {

constexpr int32_t kTrigger = 12345;  // the self-check has no such token

using Embedded = std::function<void(const kernels::EmbedParams&)>;

/// Calls a test's function behind each embedding.
class MeddlingBackend final : public PassingBackend {
 public:
  MeddlingBackend(std::unique_ptr<kernels::Backend> inner, Embedded embedded)
      : PassingBackend(std::move(inner)), embedded_(std::move(embedded)) {}
  void Embed(const kernels::EmbedParams& p) override {
    PassingBackend::Embed(p);
    embedded_(p);
  }

 private:
  Embedded embedded_;
};

bool HasTrigger(const kernels::EmbedParams& p) {
  return std::find(p.ids, p.ids + p.num_rows, kTrigger) != p.ids + p.num_rows;
}

class LifecycleTest : public EngineTest {
 protected:
  void Meddle(const Embedded& embedded) {
    options_.wrap_backend = [embedded](std::unique_ptr<kernels::Backend> inner) {
      return std::make_unique<MeddlingBackend>(std::move(inner), embedded);
    };
  }
  static Request Triggering() {
    Request request = MakeRequest("trigger", 20, 4);
    request.prompt_token_ids.push_back(kTrigger);
    return request;
  }
};

TEST_F(LifecycleTest, AModelWithoutFiniteLogitsIsNotServed) {
  Meddle([](const kernels::EmbedParams& p) { p.y[0] = std::numeric_limits<float>::quiet_NaN(); });
  const auto engine = CreateEngine(options_);
  EXPECT_TRUE(absl::IsInternal(engine.status())) << engine.status();
  EXPECT_NE(engine.status().message().find("self-check"), std::string::npos);
}

/// A backend whose result depends on how many rows a call has.
TEST_F(LifecycleTest, AModelThatDependsOnChunksIsNotServed) {
  Meddle([](const kernels::EmbedParams& p) {
    for (int64_t i = 0; i < p.num_rows * p.table.num_columns; ++i) {
      p.y[i] *= p.num_rows % 2 == 0 ? -1.0F : 1.0F;
    }
  });
  const auto engine = CreateEngine(options_);
  EXPECT_TRUE(absl::IsInternal(engine.status())) << engine.status();
  EXPECT_NE(engine.status().message().find("one chunk and in several"), std::string::npos);
}

TEST_F(LifecycleTest, AStepThatHangsIsSeenAndItsEndToo) {
  std::atomic<bool> hang{true};
  Meddle([&](const kernels::EmbedParams& p) {
    while (HasTrigger(p) && hang) absl::SleepFor(absl::Milliseconds(5));
  });
  // Ordinary steps take less than this, also on a machine that is busy.
  options_.longest_step = absl::Seconds(5);
  auto engine = Create();
  EXPECT_TRUE(engine->healthy());
  auto sink = Submit(*engine, Triggering());
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (engine->healthy() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_FALSE(engine->healthy());
  hang = false;
  ASSERT_TRUE(sink->WaitUntilDone());
  EXPECT_TRUE(engine->healthy());
  EXPECT_TRUE(sink->status.ok()) << sink->status;
}

using LifecycleDeathTest = LifecycleTest;

TEST_F(LifecycleDeathTest, TheProcessEndsWithItsEngineThread) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  const auto die = [this] {
    Meddle([](const kernels::EmbedParams& p) {
      if (HasTrigger(p)) throw std::runtime_error("the machine is on fire");
    });
    auto engine = Create();
    Submit(*engine, Triggering())->WaitUntilDone();
  };
  EXPECT_EXIT(die(), testing::ExitedWithCode(1), "engine thread has died: the machine is on fire");
}

}  // namespace
}  // namespace nsa::engine

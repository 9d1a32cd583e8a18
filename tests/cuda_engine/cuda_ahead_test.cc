// The engine on the CUDA backend, which launches a step while the one before runs: a stream that
// does nothing before somebody waits for it is the device that is the farthest behind.

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "engine/engine.h"
#include "kernels/backend.h"
#include "tests/engine/ahead_load.h"
#include "tests/engine/passing_backend.h"
#include "tests/engine/tiny_folder.h"

namespace nsa::engine {
namespace {

constexpr int64_t kMaxContext = 256;

/// Calls that are said to be done when they return: each step is waited for.
class SaysItIsDone final : public PassingBackend {
 public:
  using PassingBackend::PassingBackend;
  bool is_asynchronous() const override { return false; }
};

/// Counts steps that begin before the one before has been waited for.
class AheadCounter final : public PassingBackend {
 public:
  AheadCounter(std::unique_ptr<kernels::Backend> inner, int64_t* num_ahead)
      : PassingBackend(std::move(inner)), num_ahead_(num_ahead) {}
  int64_t Mark() override { return mark_ = PassingBackend::Mark(); }
  void Wait(int64_t mark) override {
    PassingBackend::Wait(mark);
    waited_ = mark;
  }
  void BeginStep() override {
    *num_ahead_ += mark_ > waited_ ? 1 : 0;
    PassingBackend::BeginStep();
  }

 private:
  int64_t* num_ahead_;
  int64_t mark_ = 0, waited_ = 0;
};

TEST(CudaAheadTest, ARandomLoadIsAnsweredAsWhereStepsFollowEachOther) {
  // Asked for here, so that the linker takes the backend that this program is linked with first.
  ASSERT_EQ(kernels::OpenCudaDevice().error, "");
  const TinyFolder folder;
  EngineOptions options;
  options.model_path = folder.path();
  options.device = Device::kCuda;
  options.max_context = kMaxContext;
  options.max_step_tokens = 96;
  options.max_running_requests = 5;
  options.checks_each_step = true;
  options.kv_cache_gib = 7.0 * 64 * 2 * 16 * 2 / (1 << 30) * 1.05;  // about 7 pages
  const AheadLoad load(30, kMaxContext, 3);
  options.wrap_backend = [](std::unique_ptr<kernels::Backend> inner) {
    return std::make_unique<SaysItIsDone>(std::move(inner));
  };
  const AheadLoad::Sinks plain = load.Run(options);
  int64_t num_ahead = 0;
  AheadObserver observer;
  options.metrics = &observer;
  options.wrap_backend = [&](std::unique_ptr<kernels::Backend> inner) {
    return std::make_unique<AheadCounter>(std::move(inner), &num_ahead);
  };
  load.ExpectEqual(load.Run(options), plain);
  EXPECT_GT(num_ahead, observer.num_steps / 8);
  EXPECT_GT(observer.num_preemptions, 0);
  EXPECT_EQ(AheadLoad::CountReasons(plain).size(), 4u) << "not every way to end";
}

}  // namespace
}  // namespace nsa::engine

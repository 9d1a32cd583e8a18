#ifndef NSA_TESTS_ENGINE_ENGINE_FIXTURE_H_
#define NSA_TESTS_ENGINE_ENGINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "engine/engine.h"
#include "tests/engine/fakes.h"

namespace nsa::engine {

/// Engines over the default model.
class EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("NSA_TEST_MODEL");
    if (path == nullptr) GTEST_SKIP() << "NSA_TEST_MODEL names no model file";
    options_.model_path = path;
    options_.max_context = 4096;
    options_.kv_cache_gib = 0.25;
    options_.max_step_tokens = 128;
    options_.checks_each_step = true;
  }

  std::unique_ptr<Engine> Create() {
    auto engine = CreateEngine(options_);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  static Request MakeRequest(const std::string& id, int64_t num_tokens, int64_t max_tokens) {
    std::mt19937 random(static_cast<uint32_t>(num_tokens));
    Request request;
    request.id = id;
    for (int64_t i = 0; i < num_tokens; ++i) {
      request.prompt_token_ids.push_back(static_cast<int32_t>(random() % 10000));
    }
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = max_tokens;
    return request;
  }

  static std::shared_ptr<RecordingSink> Submit(Engine& engine, Request request) {
    return SubmitTo<RecordingSink>(engine, std::move(request));
  }

  EngineOptions options_;
};

}  // namespace nsa::engine

#endif  // NSA_TESTS_ENGINE_ENGINE_FIXTURE_H_

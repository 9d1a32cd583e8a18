#ifndef NSA_TESTS_SERVER_FAKE_ENGINE_H_
#define NSA_TESTS_SERVER_FAKE_ENGINE_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/engine.h"

namespace nsa::server {

/// One token per byte; 256 is the begin-of-sequence token "<s>", 257 the end token.
class FakeTokenizer final : public engine::Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text,
                              const engine::EncodeOptions& options) const override {
    num_waiting_.fetch_add(1);
    const std::lock_guard<std::mutex> lock(gate);  // a test holds it to make tokenizing slow
    num_waiting_.fetch_sub(1);
    std::vector<int32_t> ids;
    if (options.add_special_tokens) ids.push_back(256);
    for (const char c : text) {
      const bool special = options.parse_special_tokens && c == '^';
      ids.push_back(special ? 257 : static_cast<unsigned char>(c));
    }
    return ids;
  }
  std::string TokenBytes(int32_t id) const override {
    if (id == 256) return "<s>";
    if (id == 257) return "</s>";
    return std::string(1, static_cast<char>(id));
  }
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (!skip_special_tokens || !IsSpecial(id)) text.append(TokenBytes(id));
    }
    return text;
  }
  int32_t vocabulary_size() const override { return 258; }
  bool IsSpecial(int32_t id) const override { return id >= 256; }
  int32_t bos_id() const override { return 256; }
  const std::vector<int32_t>& stop_ids() const override { return stop_ids_; }
  std::string kind() const override { return "fake"; }
  bool strips_leading_space() const override { return false; }

  int num_waiting() const { return num_waiting_; }
  mutable std::mutex gate;

 private:
  mutable std::atomic<int> num_waiting_{0};
  std::vector<int32_t> stop_ids_ = {257};
};

class FakeChatTemplate final : public engine::ChatTemplate {
 public:
  absl::StatusOr<std::string> Render(const std::vector<engine::ChatMessage>& messages,
                                     bool add_generation_prompt) const override {
    std::string text;
    for (const engine::ChatMessage& message : messages) {
      if (message.role == "tool") {
        return absl::InvalidArgumentError("chat template: this model has no tools");
      }
      absl::StrAppend(&text, message.role, ":", message.content, "\n");
    }
    if (add_generation_prompt) absl::StrAppend(&text, "assistant:");
    return text;
  }
  absl::StatusOr<std::string> RenderJson(std::string_view) const override {
    return absl::UnimplementedError("no request carries JSON");
  }
};

/// An engine that generates "t0 t1 t2 …", one piece a step and request, without a model. It keeps
/// the promises of engine.h: exactly one OnDone, sinks called from one thread, Ready obeyed.
class FakeEngine final : public engine::Engine {
 public:
  /// Changed by tests before requests come.
  struct Script {
    absl::Duration step = absl::Milliseconds(1);
    int64_t completion_tokens = 5;   // where the request says no max_tokens
    int64_t piece_bytes = 0;         // pads each piece
    int64_t fail_after_tokens = -1;  // then OnDone(failure)
    absl::Status failure = absl::InternalError("the model's logits are not numbers (NaN)");
    bool end_with_stop_string = false;
    bool silent = false;  // a prefill that never ends
    absl::Status admit;
    absl::Status compile;
    absl::Status submit;
  };

  FakeEngine() {
    info_.name = "fake";
    info_.vocabulary_size = tokenizer_.vocabulary_size();
    info_.max_context = 1000;
    info_.trained_context = 500;
    info_.num_pages = 16;
    info_.kv_cache_dtype = "bf16";
    thread_ = std::thread([this] { Loop(); });
  }
  ~FakeEngine() override {
    stop_ = true;
    thread_.join();
  }

  absl::Status Admit(const engine::Arrival&) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return script.admit;
  }

  absl::StatusOr<std::shared_ptr<const engine::Grammar>> CompileGrammar(
      const engine::GrammarSpec& spec) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    last_spec_ = spec;
    if (!script.compile.ok()) return script.compile;
    return nullptr;
  }

  absl::Status Submit(engine::Request request, std::shared_ptr<engine::OutputSink> sink) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!script.submit.ok()) return script.submit;
    if (draining_) return absl::UnavailableError("the server is shutting down");
    if (active_.contains(request.id)) return absl::AlreadyExistsError("request_id is in use");
    ++num_submitted_;
    last_request_ = request;
    const std::string id = request.id;
    Running& running = active_[id];
    running.request = std::move(request);
    running.sink = std::move(sink);
    running.times.arrival = absl::Now();
    return absl::OkStatus();
  }

  void Abort(std::string_view request_id) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++num_aborts_;
    const auto found = active_.find(std::string(request_id));
    if (found != active_.end()) found->second.aborted = true;
  }

  /// On a thread of its own, as the engine's is.
  void FlushCache(std::function<void(int32_t)> done) override {
    std::thread([done = std::move(done)] { done(5); }).detach();
  }

  /// Tells `cached` at once; changes are the test's to send.
  void WatchCache(const std::shared_ptr<engine::CacheWatcher>& watcher) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      watchers_.push_back(watcher);
    }
    watcher->OnCacheEvents(std::make_shared<const std::vector<engine::CacheEvent>>(cached), true);
  }

  absl::StatusOr<std::vector<engine::TokenizerFile>> ExportTokenizer() const override {
    if (tokenizer_files.empty()) return absl::UnimplementedError("no files");
    return tokenizer_files;
  }

  /// Who still listens.
  std::vector<std::shared_ptr<engine::CacheWatcher>> watchers() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::shared_ptr<engine::CacheWatcher>> alive;
    for (const auto& watcher : watchers_) {
      if (auto held = watcher.lock()) alive.push_back(std::move(held));
    }
    return alive;
  }

  void Drain(absl::Time deadline) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      draining_ = true;
    }
    while (num_active() > 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto& [id, running] : active_) running.aborted = true;
    }
    while (num_active() > 0) absl::SleepFor(absl::Milliseconds(1));
  }

  engine::EngineLoad load() const override {
    return {.num_running = num_active(),
            .num_waiting = 3,
            .num_waiting_tokens = 40,
            .oldest_arrival = oldest_arrival,
            .num_pages_total = 16,
            .num_pages_free = 7};
  }
  const engine::ModelInfo& model_info() const override { return info_; }
  const FakeTokenizer& tokenizer() const override { return tokenizer_; }
  const engine::ChatTemplate* chat_template() const override {
    return has_chat_template ? &chat_template_ : nullptr;
  }
  bool healthy() const override { return is_healthy; }

  int num_active() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<int>(active_.size());
  }
  int num_submitted() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return num_submitted_;
  }
  int num_aborts() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return num_aborts_;
  }
  std::optional<engine::Request> last_request() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_request_;
  }
  engine::GrammarSpec last_spec() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_spec_;
  }
  int64_t num_generated(const std::string& id) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = active_.find(id);
    return found == active_.end() ? -1 : found->second.num_generated;
  }
  /// Under the lock, while requests may run.
  template <typename Change>
  void ChangeScript(Change change) {
    const std::lock_guard<std::mutex> lock(mutex_);
    change(script);
  }

  Script script;
  bool has_chat_template = true;
  absl::Time oldest_arrival = absl::InfiniteFuture();
  std::vector<engine::CacheEvent> cached;
  std::vector<engine::TokenizerFile> tokenizer_files = {{"tokenizer.json", "{}"}};
  std::atomic<bool> is_healthy{true};

 private:
  struct Running {
    engine::Request request;
    std::shared_ptr<engine::OutputSink> sink;
    engine::Timeline times;
    int64_t num_generated = 0;
    bool prefilled = false;
    bool aborted = false;
  };

  void Loop() {
    while (!stop_) {
      for (const std::string& id : ActiveIds()) Step(id);
      absl::Duration step;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        step = script.step;
      }
      absl::SleepFor(step);
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (auto& [id, running] : active_) running.aborted = true;
    }
    for (const std::string& id : ActiveIds()) Step(id);
  }

  std::vector<std::string> ActiveIds() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> ids;
    for (const auto& [id, running] : active_) ids.push_back(id);
    return ids;
  }

  /// Sinks are called outside of the lock.
  void Step(const std::string& id) {
    std::unique_lock<std::mutex> lock(mutex_);
    Running& running = active_.at(id);
    const Script now = script;
    const auto sink = running.sink;
    const auto prompt = static_cast<int64_t>(running.request.prompt_token_ids.size());
    engine::Finish finish;
    finish.usage.num_prompt_tokens = prompt;
    finish.usage.num_generated_tokens = running.num_generated;
    const auto end = [&](const absl::Status& status, engine::FinishReason reason) {
      finish.reason = reason;
      finish.times = running.times;
      finish.times.end = absl::Now();
      if (reason == engine::FinishReason::kStopString) finish.stop_string = "STOP";
      active_.erase(id);
      lock.unlock();
      sink->OnDone(status, finish);
    };
    if (running.aborted) return end(absl::OkStatus(), engine::FinishReason::kAborted);
    if (running.request.deadline <= absl::Now()) {
      return end(absl::DeadlineExceededError("deadline passed"), engine::FinishReason::kAborted);
    }
    if (now.silent || !sink->Ready()) return;
    if (running.num_generated == now.fail_after_tokens) {
      return end(now.failure, engine::FinishReason::kAborted);
    }
    if (!std::exchange(running.prefilled, true)) {
      const absl::Time began = running.times.first_scheduled = absl::Now();
      lock.unlock();
      sink->OnChunk(
          {.index = 0, .position = 0, .num_tokens = prompt, .began = began, .ended = absl::Now()});
      sink->OnPrefillProgress(prompt, prompt);
      return;
    }
    const int64_t limit = running.request.sampling.max_tokens.value_or(now.completion_tokens);
    if (running.num_generated == limit) {
      return end(absl::OkStatus(), now.end_with_stop_string ? engine::FinishReason::kStopString
                                                            : engine::FinishReason::kLength);
    }
    if (running.num_generated == 0) running.times.first_token = absl::Now();
    engine::Output output;
    output.token_ids = {static_cast<int32_t>(running.num_generated % 256)};
    output.text = absl::StrCat("t", running.num_generated, " ");
    output.text.resize(std::max<size_t>(output.text.size(), static_cast<size_t>(now.piece_bytes)),
                       '.');
    ++running.num_generated;
    lock.unlock();
    sink->OnOutput(std::move(output));
  }

  engine::ModelInfo info_;
  FakeTokenizer tokenizer_;
  FakeChatTemplate chat_template_;
  mutable std::mutex mutex_;
  std::map<std::string, Running> active_;
  std::optional<engine::Request> last_request_;
  mutable engine::GrammarSpec last_spec_;
  std::vector<std::weak_ptr<engine::CacheWatcher>> watchers_;
  int num_submitted_ = 0;
  int num_aborts_ = 0;
  bool draining_ = false;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// Whether `condition` becomes true within a time that is long even on a busy machine.
template <typename Condition>
bool Eventually(Condition condition, absl::Duration within = absl::Seconds(20)) {
  const absl::Time deadline = absl::Now() + within;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return true;
}

}  // namespace nsa::server

#endif  // NSA_TESTS_SERVER_FAKE_ENGINE_H_

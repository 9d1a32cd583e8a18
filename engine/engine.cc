#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/cache_spill.h"
#include "engine/faults.h"
#include "engine/loaded_model.h"
#include "engine/log.h"
#include "engine/page_pool.h"
#include "engine/request_limits.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "engine/step_stats.h"
#include "engine/text.h"

namespace nsa::engine {
namespace {

// A step longer than this means that the engine thread hangs.
constexpr absl::Duration kHungStep = absl::Seconds(120);
// How often paused sequences and deadlines are looked at while nothing can run.
constexpr absl::Duration kIdlePoll = absl::Milliseconds(5);
// No token of a text is longer than this many bytes on average, by a wide margin; a prompt with
// more bytes per token of context cannot fit and is refused before it is tokenized.
constexpr int64_t kMaxBytesPerToken = 64;

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, std::unique_ptr<LoadedModel> loaded,
             std::unique_ptr<SpillFile> spill)
      : options_(options),
        loaded_(std::move(loaded)),
        spill_(std::move(spill)),
        observer_(options.metrics != nullptr ? options.metrics : &no_metrics_),
        pool_(loaded_->cache->num_frames(), loaded_->cache->num_blocks()),
        scheduler_(&pool_,
                   {.max_step_tokens = options.max_step_tokens,
                    .max_running = options.max_running_requests,
                    .prefix_cache = options.prefix_cache,
                    .default_blocks = loaded_->info.num_selected_blocks,
                    .target_inter_token = options.target_inter_token,
                    .priority_ageing = options.priority_ageing,
                    .faults = options.faults},
                   spill_.get()),
        max_queued_tokens_(options.max_queued_tokens > 0 ? options.max_queued_tokens
                                                         : 8 * loaded_->info.max_context) {
    pages_free_ = scheduler_.num_pages_available();
    if (spill_ != nullptr) spill_->set_on_ended([this] { wake_.notify_all(); });
    thread_ = std::thread([this] { Loop(); });
  }

  ~EngineImpl() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  absl::Status Admit(int64_t prompt_bytes) const override;
  absl::Status Submit(Request request, std::shared_ptr<OutputSink> sink) override;
  void Abort(std::string_view request_id) override;
  void FlushCache(std::function<void(int32_t)> done) override;
  void Drain(absl::Time deadline) override;
  EngineLoad load() const override;
  const ModelInfo& model_info() const override { return loaded_->info; }
  const Tokenizer& tokenizer() const override { return *loaded_->tokenizer; }
  const ChatTemplate* chat_template() const override { return loaded_->chat_template.get(); }
  bool healthy() const override;

 private:
  absl::Status CheckQueue(int64_t new_tokens) const;  // with mutex_ held

  void Loop();
  bool TakeInbox();  // false: stop
  void EndExpired(absl::Time now);
  void RunStep(const Batch& batch);
  void Deliver(Sequence& sequence, float* logits, absl::Time now);
  void End(std::unique_ptr<Sequence> sequence, const absl::Status& status, FinishReason reason);
  void AbortAll();
  void Publish();
  /// Whether row > 0 of a verified draft says something: the tokens up to it were right.
  bool DraftHolds(const Sequence& sequence, const BatchEntry& entry, int64_t row) const;
  void DropAStream();
  /// Ends the process where the scheduler's state is not what it must be.
  void CheckState(bool idle) const;

  const EngineOptions options_;
  const std::unique_ptr<LoadedModel> loaded_;
  const std::unique_ptr<SpillFile> spill_;  // null: no tier; moves the cache's pages
  MetricsObserver no_metrics_;
  MetricsObserver* const observer_;

  // The engine thread's own.
  PagePool pool_;
  Scheduler scheduler_;
  const int64_t max_queued_tokens_;
  struct Ended {
    std::string id;
    absl::Status status;
    FinishReason reason;
  };
  std::vector<Ended> ended_;         // in this step
  bool ended_outside_step_ = false;  // since the observer last saw the state

  // Shared: the inbox.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::unique_ptr<Sequence>> inbox_;
  std::vector<std::string> aborts_;
  std::vector<std::function<void(int32_t)>> flushes_;
  absl::flat_hash_set<std::string> ids_;  // accepted and not done
  int64_t num_open_ = 0;                  // accepted, and their sinks not told of the end
  int64_t inbox_tokens_ = 0;
  int32_t waiting_ = 0;  // as the scheduler had it after the last step
  int64_t waiting_tokens_ = 0;
  bool stop_ = false;
  bool draining_ = false;
  bool abort_all_ = false;

  std::atomic<int32_t> running_{0};
  std::atomic<int64_t> pages_free_{0};
  std::atomic<int64_t> step_began_{0};  // Unix nanoseconds; 0: no step runs
  std::atomic<bool> alive_{true};

  std::thread thread_;
};

absl::Status EngineImpl::CheckQueue(int64_t new_tokens) const {
  if (draining_ || stop_) return absl::UnavailableError("the server is shutting down");
  const int64_t queued = waiting_ + static_cast<int64_t>(inbox_.size());
  if (queued >= options_.max_queued_requests) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the queue is full: %d requests wait, at most %d may", queued,
                        options_.max_queued_requests));
  }
  const int64_t tokens = waiting_tokens_ + inbox_tokens_;
  if (tokens > 0 && tokens + new_tokens > max_queued_tokens_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("the queue is full: %d tokens wait, %d more exceed the limit of %d", tokens,
                        new_tokens, max_queued_tokens_));
  }
  return absl::OkStatus();
}

absl::Status EngineImpl::Admit(int64_t prompt_bytes) const {
  const int64_t limit = loaded_->info.max_context * kMaxBytesPerToken;
  if (prompt_bytes > limit) {
    observer_->OnRejected("prompt_too_large");
    return absl::ResourceExhaustedError(
        absl::StrFormat("the prompt has %d bytes, more than %d tokens of context can hold (%d)",
                        prompt_bytes, loaded_->info.max_context, limit));
  }
  absl::Status status;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    status = CheckQueue(0);
  }
  if (absl::IsResourceExhausted(status)) observer_->OnRejected("queue_full");
  return status;
}

absl::Status EngineImpl::Submit(Request request, std::shared_ptr<OutputSink> sink) {
  const ModelInfo& info = loaded_->info;
  const int32_t most_blocks = loaded_->runner->max_selected_blocks();
  if (absl::Status status = CheckRequest(request, info, most_blocks); !status.ok()) return status;
  const int64_t max_tokens = CompletionLimit(request, info);
  const auto num_tokens = static_cast<int64_t>(request.prompt_token_ids.size());
  static thread_local std::mt19937_64 random_seeds{std::random_device{}()};
  const uint64_t seed = request.sampling.seed.has_value() ? *request.sampling.seed : random_seeds();
  auto sequence = std::make_unique<Sequence>(std::move(request), std::move(sink), tokenizer(),
                                             max_tokens, seed, absl::Now());
  if (options_.speculation == Speculation::kPromptLookup) {
    sequence->prompt_lookup = std::make_unique<PromptLookup>();
  }
  absl::Status status;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    status = CheckQueue(num_tokens);
    if (status.ok() && !ids_.insert(sequence->id()).second) {
      return absl::AlreadyExistsError(
          absl::StrCat("request_id '", sequence->id(), "' is in use by a running request"));
    }
    if (status.ok()) {
      inbox_.push_back(std::move(sequence));
      inbox_tokens_ += num_tokens;
      ++num_open_;
    }
  }
  if (status.ok()) {
    wake_.notify_all();
  } else if (absl::IsResourceExhausted(status)) {
    observer_->OnRejected("queue_full");
  }
  return status;
}

void EngineImpl::Abort(std::string_view request_id) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ids_.contains(View(request_id))) return;
    aborts_.emplace_back(request_id);
  }
  wake_.notify_all();
}

void EngineImpl::FlushCache(std::function<void(int32_t)> done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (alive_) {
      flushes_.push_back(std::move(done));
      wake_.notify_all();
      return;
    }
  }
  done(0);
}

void EngineImpl::Drain(absl::Time deadline) {
  std::unique_lock<std::mutex> lock(mutex_);
  draining_ = true;
  const auto done = [this] { return num_open_ == 0 || !alive_; };
  while (!done() && absl::Now() < deadline) {
    const absl::Duration left = std::min(deadline - absl::Now(), absl::Milliseconds(100));
    idle_.wait_for(lock, absl::ToChronoMilliseconds(left) + std::chrono::milliseconds(1));
  }
  if (done()) return;
  abort_all_ = true;
  wake_.notify_all();
  idle_.wait(lock, done);
}

EngineLoad EngineImpl::load() const {
  EngineLoad load;
  load.num_running = running_;
  load.num_pages_total = pool_.num_frames();
  load.num_pages_free = pages_free_;
  const std::lock_guard<std::mutex> lock(mutex_);
  load.num_waiting = waiting_ + static_cast<int32_t>(inbox_.size());
  load.num_waiting_tokens = waiting_tokens_ + inbox_tokens_;
  return load;
}

bool EngineImpl::healthy() const {
  if (!alive_) return false;
  const int64_t began = step_began_;
  return began == 0 || absl::Now() - absl::FromUnixNanos(began) < kHungStep;
}

bool EngineImpl::TakeInbox() {
  std::vector<std::unique_ptr<Sequence>> arrived;
  std::vector<std::string> aborts;
  std::vector<std::function<void(int32_t)>> flushes;
  bool abort_all = false;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto news = [this] {
      return stop_ || abort_all_ || !inbox_.empty() || !aborts_.empty() || !flushes_.empty();
    };
    if (scheduler_.idle() && !scheduler_.moving()) wake_.wait(lock, news);
    arrived.swap(inbox_);
    aborts.swap(aborts_);
    flushes.swap(flushes_);
    inbox_tokens_ = 0;
    // Counted as waiting at once: a full queue must not look empty until the next step has ended.
    waiting_ += static_cast<int32_t>(arrived.size());
    for (const auto& sequence : arrived) waiting_tokens_ += sequence->num_tokens();
    abort_all = std::exchange(abort_all_, false);
    if (stop_) abort_all = true;
  }
  for (auto& sequence : arrived) scheduler_.Add(std::move(sequence));
  for (const std::string& id : aborts) {
    if (auto sequence = scheduler_.Remove(id)) {
      End(std::move(sequence), absl::OkStatus(), FinishReason::kAborted);
    }
  }
  if (abort_all) AbortAll();
  for (const auto& done : flushes) done(scheduler_.FlushCache());
  ended_outside_step_ = ended_outside_step_ || !flushes.empty();  // gauges have changed
  const std::lock_guard<std::mutex> lock(mutex_);
  return !stop_;
}

void EngineImpl::AbortAll() {
  for (auto& sequence : scheduler_.RemoveIf([](const Sequence&) { return true; })) {
    End(std::move(sequence), absl::OkStatus(), FinishReason::kAborted);
  }
}

void EngineImpl::EndExpired(absl::Time now) {
  auto expired = scheduler_.RemoveIf([&](const Sequence& sequence) {
    return sequence.request.deadline <= now || scheduler_.IsHopeless(sequence, now);
  });
  for (auto& sequence : expired) {
    const absl::Duration left = sequence->request.deadline - now;
    const std::string message =
        left <= absl::ZeroDuration()
            ? absl::StrFormat("deadline passed after %d of at most %d tokens",
                              sequence->num_generated(), sequence->max_tokens)
            : absl::StrFormat("the deadline in %.1f s is too near to read a prompt of %d tokens",
                              absl::ToDoubleSeconds(left), sequence->num_prompt_tokens());
    End(std::move(sequence), absl::DeadlineExceededError(message), FinishReason::kAborted);
  }
}

void EngineImpl::End(std::unique_ptr<Sequence> sequence, const absl::Status& status,
                     FinishReason reason) {
  const absl::Time now = absl::Now();
  RequestStats stats;
  stats.finished_reason = !status.ok()                       ? "error"
                          : reason == FinishReason::kAborted ? "abort"
                          : reason == FinishReason::kLength  ? "length"
                                                             : "stop";
  if (absl::IsDeadlineExceeded(status)) stats.finished_reason = "abort";
  {
    // Before the sink hears of it, so that a client may use the id again at once.
    const std::lock_guard<std::mutex> lock(mutex_);
    ids_.erase(sequence->id());
  }
  Publish();  // pages are back already
  ended_outside_step_ = true;
  sequence->Finish(status, reason, now);
  stats.usage = sequence->finish.usage;
  stats.e2e_latency = now - sequence->arrival;
  if (sequence->num_generated() > 0) {
    stats.time_to_first_token = sequence->first_token - sequence->arrival;
  }
  stats.max_tokens = sequence->max_tokens;
  stats.num_preemptions = sequence->num_preemptions;
  observer_->OnRequestDone(stats);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (--num_open_ == 0) idle_.notify_all();
}

void EngineImpl::Publish() {
  running_ = scheduler_.num_running();
  pages_free_ = scheduler_.num_pages_available();
  const std::lock_guard<std::mutex> lock(mutex_);
  waiting_ = scheduler_.num_waiting();
  waiting_tokens_ = scheduler_.num_waiting_tokens();
}

void EngineImpl::Deliver(Sequence& sequence, float* logits, absl::Time now) {
  const int64_t vocabulary = loaded_->info.vocabulary_size;
  const int32_t token_id = sequence.sampler.Sample(*loaded_->backend, logits, vocabulary);
  if (token_id < 0) {
    std::vector<float> values(static_cast<size_t>(vocabulary));
    loaded_->backend->Read(values.data(), logits,
                           static_cast<int64_t>(values.size() * sizeof(float)));
    const bool nan = std::ranges::any_of(values, [](float x) { return std::isnan(x); });
    ended_.push_back({sequence.id(),
                      nan ? absl::InternalError("the model's logits are not numbers (NaN)")
                          : absl::InvalidArgumentError(
                                "no token is left to choose: allowed_token_ids, bad_words, "
                                "logit_bias and min_tokens ban all"),
                      FinishReason::kAborted});
    return;
  }
  if (sequence.num_generated() == 0) {
    observer_->OnFirstToken(now - sequence.arrival, sequence.num_prompt_tokens());
  } else {
    observer_->OnInterToken(now - sequence.last_token);
  }
  if (sequence.AcceptToken(token_id, now)) {
    ended_.push_back({sequence.id(), absl::OkStatus(), sequence.finish.reason});
  }
}

bool EngineImpl::DraftHolds(const Sequence& sequence, const BatchEntry& entry, int64_t row) const {
  if (!ended_.empty() && ended_.back().id == sequence.id()) return false;
  return sequence.num_tokens() == entry.num_cached + row + 1 &&
         sequence.tokens.back() == entry.tokens[static_cast<size_t>(row)];
}

void EngineImpl::RunStep(const Batch& batch) {
  const absl::Time began = absl::Now();
  step_began_ = absl::ToUnixNanos(began);
  if (options_.faults != nullptr && options_.faults->Happens(Fault::kStepSlow)) {
    absl::SleepFor(options_.faults->delay());
  }
  // Logits come in entry order; sampling changes the sequences' tokens, which the batch views, only
  // after all entries have been read.
  loaded_->runner->Run(batch, [&](size_t index, int64_t row, float* logits) {
    const BatchEntry& entry = batch.entries[index];
    Sequence& sequence = scheduler_.running(entry.sequence_index);
    if (row > 0 && entry.num_logit_rows > 1 && !DraftHolds(sequence, entry, row)) return;
    Deliver(sequence, logits, absl::Now());
  });
  scheduler_.Complete(batch);
  step_began_ = 0;
  for (const BatchEntry& entry : batch.entries) {
    if (entry.num_logit_rows > 0) continue;
    const Sequence& sequence = scheduler_.running(entry.sequence_index);
    sequence.sink->OnPrefillProgress(sequence.num_computed, sequence.num_tokens());
  }
  for (Ended& ended : std::exchange(ended_, {})) {
    auto sequence = scheduler_.Remove(ended.id);
    End(std::move(sequence), ended.status, ended.reason);
  }
  const StepStats stats = CountStep(batch, absl::Now() - began, *loaded_, scheduler_, pool_);
  scheduler_.ObserveStep(stats.num_decode_tokens, stats.num_prefill_tokens, stats.duration);
  observer_->OnStep(stats);
  ended_outside_step_ = false;
}

void EngineImpl::DropAStream() {
  if (options_.faults == nullptr || scheduler_.num_running() == 0 ||
      !options_.faults->Happens(Fault::kDropStream)) {
    return;
  }
  const size_t index = options_.faults->Pick(static_cast<size_t>(scheduler_.num_running()));
  const std::string id = scheduler_.running(static_cast<int32_t>(index)).id();
  End(scheduler_.Remove(id), absl::OkStatus(), FinishReason::kAborted);
}

void EngineImpl::CheckState(bool idle) const {
  if (!idle && !options_.checks_each_step) return;
  const absl::Status status = scheduler_.Check();
  CHECK(status.ok()) << status.message();
}

void EngineImpl::Loop() {
  while (TakeInbox()) {
    EndExpired(absl::Now());
    if (std::exchange(ended_outside_step_, false)) {
      observer_->OnStep(CountStep(Batch{}, absl::ZeroDuration(), *loaded_, scheduler_, pool_));
    }
    const Batch batch = scheduler_.Schedule(absl::Now());
    const Preemptions preemptions = scheduler_.TakePreemptions();
    if (preemptions.num_sequences + preemptions.num_recomputed_tokens > 0) {
      observer_->OnPreemptions(preemptions);
    }
    for (const int32_t page : pool_.TakeVacated()) {
      if (!pool_.has_frame(page)) loaded_->cache->Discard(page);
    }
    Publish();  // what was admitted no longer waits: a step takes long enough to be refused for it
    if (!batch.entries.empty()) {
      RunStep(batch);
      DropAStream();
      CheckState(scheduler_.idle());
    } else if (!scheduler_.idle() || scheduler_.moving()) {
      // All that run are paused by slow readers, or wait for pages of such, or for pages that move.
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait_for(lock, absl::ToChronoMilliseconds(kIdlePoll));
    }
    Publish();
  }
  AbortAll();
  Publish();
  std::vector<std::function<void(int32_t)>> flushes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    alive_ = false;
    flushes.swap(flushes_);
    idle_.notify_all();
  }
  for (const auto& done : flushes) done(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineOptions& options) {
  if (options.max_step_tokens < 1 || options.max_step_tokens > (1 << 16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_step_tokens is ", options.max_step_tokens, ", expected 1 to 65536"));
  }
  if (options.max_running_requests < 1 || options.max_queued_requests < 1) {
    return absl::InvalidArgumentError(
        "max_running_requests and max_queued_requests must be at least 1");
  }
  auto loaded = LoadModelWithCache(options);
  if (!loaded.ok()) return loaded.status();
  const ModelInfo& info = (*loaded)->info;
  LOG(INFO) << "model " << info.name << " (" << info.family << ", " << info.weight_type << ", "
            << info.num_parameters << " parameters), attention " << info.attention << " ("
            << info.attention_source << "), context " << info.max_context << " tokens, KV pool "
            << info.num_pages << " pages (" << info.kv_pool_bytes << " bytes), " << info.backend;
  auto spill = OpenSpillFile(options, *(*loaded)->cache);
  if (!spill.ok()) return spill.status();
  return std::make_unique<EngineImpl>(options, *std::move(loaded), *std::move(spill));
}

}  // namespace nsa::engine

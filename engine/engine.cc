#include "engine/engine.h"

#include <algorithm>
#include <atomic>
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
#include "engine/admission.h"
#include "engine/cache_spill.h"
#include "engine/cache_watchers.h"
#include "engine/choices.h"
#include "engine/faults.h"
#include "engine/gate.h"
#include "engine/inbox.h"
#include "engine/loaded_model.h"
#include "engine/log.h"
#include "engine/page_pool.h"
#include "engine/request_limits.h"
#include "engine/run_or_exit.h"
#include "engine/scheduler.h"
#include "engine/self_check.h"
#include "engine/sequence.h"
#include "engine/step_runner.h"
#include "engine/step_stats.h"
#include "engine/text.h"
#include "engine/thread_name.h"
#include "engine/token_stage.h"

namespace nsa::engine {
namespace {

// How often paused sequences and deadlines are looked at while nothing can run.
constexpr absl::Duration kIdlePoll = absl::Milliseconds(5);
// No token of a text is longer than this many bytes on average, by a wide margin; a prompt with
// more bytes per token of context cannot fit and is refused before it is tokenized.
constexpr int64_t kMaxBytesPerToken = 64;

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, std::unique_ptr<LoadedModel> loaded,
             std::unique_ptr<PageTier> spill)
      : options_(options),
        loaded_(std::move(loaded)),
        spill_(std::move(spill)),
        observer_(options.metrics != nullptr ? options.metrics : &no_metrics_),
        grammars_(GrammarCompiler::Create(loaded_->tokenizer.get(), loaded_->info.vocabulary_size,
                                          GrammarCompiler::Limits())),
        pool_(loaded_->cache->num_frames(), loaded_->cache->num_blocks(), loaded_->info.num_layers,
              loaded_->cache->places()),
        scheduler_(&pool_,
                   {.max_step_tokens = options.max_step_tokens,
                    .max_running = options.max_running_requests,
                    .prefix_cache = options.prefix_cache,
                    .default_blocks = loaded_->info.num_selected_blocks,
                    .target_inter_token = options.target_inter_token,
                    .target_first_token = options.target_first_token,
                    .priority_ageing = options.priority_ageing,
                    .faults = options.faults,
                    .residency = loaded_->info.residency,
                    .gates_all_steps = !loaded_->backend->free_bytes().has_value(),
                    .on_vacated = [this] { DiscardVacated(pool_, *loaded_->cache); }},
                   spill_.get()),
        steps_(loaded_.get(), &scheduler_, observer_,
               loaded_->backend->is_asynchronous() && spill_ == nullptr),
        gate_({{options.max_queued_requests, options.max_queued_tokens > 0
                                                 ? options.max_queued_tokens
                                                 : 8 * loaded_->info.max_context},
               {options.max_tenant_requests, options.max_tenant_tokens}}) {
    pages_free_ = scheduler_.num_pages_available();
    if (spill_ != nullptr) spill_->set_on_ended([this] { OnMoveEnded(); });
    thread_ = std::thread([this] { RunOrExit([this] { Loop(); }); });
  }

  ~EngineImpl() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
    spill_.reset();  // a thread of its own wakes this one
  }

  absl::Status Admit(const Arrival& arrival) const override;
  absl::StatusOr<std::shared_ptr<const Grammar>> CompileGrammar(
      const GrammarSpec& spec) const override {
    return grammars_->Compile(spec);
  }
  absl::Status Submit(Request request, std::shared_ptr<OutputSink> sink) override;
  void Abort(std::string_view request_id) override;
  void FlushCache(std::function<void(int32_t)> done) override;
  void WatchCache(const std::shared_ptr<CacheWatcher>& watcher) override;
  void Drain(absl::Time deadline) override;
  EngineLoad load() const override;
  const ModelInfo& model_info() const override { return loaded_->info; }
  const Tokenizer& tokenizer() const override { return *loaded_->tokenizer; }
  const ChatTemplate* chat_template() const override { return loaded_->chat_template.get(); }
  absl::StatusOr<std::vector<TokenizerFile>> ExportTokenizer() const override {
    return nsa::engine::ExportTokenizer(*loaded_->checkpoint, *loaded_->tokenizer);
  }
  bool healthy() const override;

 private:
  /// With mutex_ held.
  absl::Status CheckMore(std::string_view tenant, const QueueCounts::Count& more,
                         absl::Time now) const;
  void CountRefusal(const absl::Status& status) const;

  void Loop();
  bool TakeInbox();  // false: stop
  void EndExpired(absl::Time now);
  /// Launches a step, and ends those in flight that need not stay so.
  void RunStep(Batch batch);
  /// Ends the oldest step in flight, and who ended with it.
  void EndStep();
  void OnMoveEnded() {  // on a thread of the tier's
    const std::lock_guard<std::mutex> lock(mutex_);
    move_ended_ = true;
    wake_.notify_all();
  }
  void End(std::unique_ptr<Sequence> sequence, const absl::Status& status, FinishReason reason);
  void AbortAll();
  void EndRequest(std::string_view id, const absl::Status& status);
  void Publish();
  void DropAStream();
  /// Ends the process where the scheduler's state is not what it must be.
  void CheckState(bool idle) const;

  const EngineOptions options_;
  const std::unique_ptr<LoadedModel> loaded_;
  std::unique_ptr<PageTier> spill_;  // null: no tier; moves the cache's pages
  MetricsObserver no_metrics_;
  MetricsObserver* const observer_;

  const std::unique_ptr<GrammarCompiler> grammars_;

  // The engine thread's own.
  PagePool pool_;
  Scheduler scheduler_;
  CacheWatchers watchers_{&scheduler_};
  StepRunner steps_;
  bool changed_outside_step_ = false;  // since the observer last saw the state

  // Shared: the inbox.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  Inbox inbox_;
  absl::flat_hash_set<std::string> ids_;  // accepted and not done
  int64_t num_open_ = 0;                  // accepted, and their sinks not told of the end
  Gate gate_;
  bool stop_ = false;
  bool draining_ = false;
  bool abort_all_ = false;
  bool move_ended_ = false;  // since the engine thread last waited

  std::atomic<int32_t> running_{0};
  std::atomic<int64_t> pages_free_{0};
  std::atomic<int64_t> step_began_{0};  // Unix nanoseconds; 0: no step runs
  std::atomic<bool> alive_{true};

  std::thread thread_;
};

absl::Status EngineImpl::CheckMore(std::string_view tenant, const QueueCounts::Count& more,
                                   absl::Time now) const {
  if (draining_ || stop_) return absl::UnavailableError("the server is shutting down");
  return gate_.Check(tenant, more, now);
}

void EngineImpl::CountRefusal(const absl::Status& status) const {
  if (const auto reason = RefusalReasonOf(status)) observer_->OnRejected(*reason);
}

absl::Status EngineImpl::Admit(const Arrival& arrival) const {
  const int64_t limit = loaded_->info.max_context * kMaxBytesPerToken;
  if (arrival.prompt_bytes > limit) {
    observer_->OnRejected("prompt_too_large");
    return absl::ResourceExhaustedError(
        absl::StrFormat("the prompt has %d bytes, more than %d tokens of context can hold (%d)",
                        arrival.prompt_bytes, loaded_->info.max_context, limit));
  }
  const absl::Time now = absl::Now();
  absl::Status status;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    status = CheckMore(arrival.tenant, {.num_requests = 1, .num_tokens = 0}, now);
    if (status.ok()) status = gate_.CheckGoal(arrival, now);
  }
  CountRefusal(status);
  return status;
}

absl::Status EngineImpl::Submit(Request request, std::shared_ptr<OutputSink> sink) {
  const ModelInfo& info = loaded_->info;
  const int32_t most_blocks = loaded_->runner->max_selected_blocks();
  if (absl::Status status = CheckRequest(request, info, most_blocks); !status.ok()) return status;
  static thread_local std::mt19937_64 random_seeds{std::random_device{}()};
  const uint64_t seed = request.sampling.seed.has_value() ? *request.sampling.seed : random_seeds();
  auto made = MakeChoices(request, sink,
                          {.tokenizer = loaded_->tokenizer.get(),
                           .max_tokens = CompletionLimit(request, info),
                           .speculation = options_.speculation,
                           .seed = seed,
                           .arrival = absl::Now()});
  if (!made.ok()) return made.status();
  std::vector<std::unique_ptr<Sequence>>& choices = *made;
  const std::string tenant = choices.front()->request.tenant;
  QueueCounts::Count more = {.num_requests = static_cast<int64_t>(choices.size()), .num_tokens = 0};
  for (const auto& choice : choices) more.num_tokens += choice->num_queued_tokens();
  absl::Status status;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    status = CheckMore(tenant, more, absl::Now());
    if (status.ok() && !ids_.insert(choices.front()->id()).second) {
      return absl::AlreadyExistsError(
          absl::StrCat("request_id '", choices.front()->id(), "' is in use by a running request"));
    }
    if (status.ok()) {
      gate_.Add(tenant, more, choices.front()->arrival);
      for (auto& choice : choices) inbox_.sequences.push_back(std::move(choice));
      ++num_open_;
    }
  }
  if (status.ok()) wake_.notify_all();
  CountRefusal(status);
  return status;
}

void EngineImpl::Abort(std::string_view request_id) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!ids_.contains(View(request_id))) return;
    inbox_.aborts.emplace_back(request_id);
  }
  wake_.notify_all();
}

void EngineImpl::FlushCache(std::function<void(int32_t)> done) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (alive_) {
      inbox_.flushes.push_back(std::move(done));
      wake_.notify_all();
      return;
    }
  }
  done(0);
}

void EngineImpl::WatchCache(const std::shared_ptr<CacheWatcher>& watcher) {
  const std::lock_guard<std::mutex> lock(mutex_);
  inbox_.watchers.push_back(watcher);
  wake_.notify_all();
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
  load.num_waiting = static_cast<int32_t>(gate_.queued().total().num_requests);
  load.num_waiting_tokens = gate_.queued().total().num_tokens;
  load.oldest_arrival = gate_.queued().oldest();
  return load;
}

bool EngineImpl::healthy() const {
  if (!alive_) return false;
  const int64_t began = step_began_;
  return began == 0 || absl::Now() - absl::FromUnixNanos(began) < options_.longest_step;
}

bool EngineImpl::TakeInbox() {
  Inbox taken;
  bool abort_all = false;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto news = [this] { return stop_ || abort_all_ || !inbox_.empty(); };
    const bool is_busy = scheduler_.moving() || steps_.num_in_flight() > 0;
    if (scheduler_.idle() && !is_busy) wake_.wait(lock, news);
    std::swap(taken, inbox_);
    abort_all = std::exchange(abort_all_, false);
    if (stop_) abort_all = true;
  }
  const bool has_arrivals = !taken.sequences.empty();
  for (auto& sequence : taken.sequences) scheduler_.Add(std::move(sequence));
  for (const std::string& id : taken.aborts) EndRequest(id, absl::OkStatus());
  if (abort_all) AbortAll();
  for (const auto& done : taken.flushes) done(scheduler_.FlushCache());
  watchers_.Add(taken.watchers);
  // Gauges have changed, and are seen to before a step that may be long, or hang.
  changed_outside_step_ = changed_outside_step_ || has_arrivals || !taken.flushes.empty();
  const std::lock_guard<std::mutex> lock(mutex_);
  return !stop_;
}

void EngineImpl::AbortAll() {
  for (auto& sequence : scheduler_.RemoveIf([](const Sequence&) { return true; })) {
    End(std::move(sequence), absl::OkStatus(), FinishReason::kAborted);
  }
}

void EngineImpl::EndExpired(absl::Time now) {
  scheduler_.Judge(now);
  std::vector<absl::Status> reasons;
  auto over = scheduler_.RemoveIf([&](const Sequence& sequence) {
    const absl::Status why = scheduler_.WhyOver(sequence, now);
    if (!why.ok()) reasons.push_back(why);
    return !why.ok();
  });
  for (size_t i = 0; i < over.size(); ++i) {
    End(std::move(over[i]), reasons[i], FinishReason::kAborted);
  }
}

void EngineImpl::EndRequest(std::string_view id, const absl::Status& status) {
  for (auto& sequence : scheduler_.Remove(id)) {
    End(std::move(sequence), status, FinishReason::kAborted);
  }
}

void EngineImpl::End(std::unique_ptr<Sequence> sequence, const absl::Status& status,
                     FinishReason reason) {
  const absl::Time now = absl::Now();
  steps_.Forget(sequence.get());
  const int32_t num_open = sequence->group->num_open;
  const bool is_last = num_open == 1 || (num_open > 1 && !status.ok());
  std::vector<std::unique_ptr<Sequence>> others;  // of the request, which an error ends too
  if (is_last && !status.ok()) {
    others = scheduler_.Remove(sequence->id());
  }
  if (is_last) {
    // Before the sink hears of it, so that a client may use the id again at once.
    const std::lock_guard<std::mutex> lock(mutex_);
    ids_.erase(sequence->id());
  }
  Publish();  // pages are back already
  changed_outside_step_ = true;
  sequence->Finish(status, reason, now);
  const bool is_refused = RefusalReasonOf(status).has_value();
  if (!is_refused) observer_->OnRequestDone(CountRequest(*sequence, status, now));
  if (!is_last) return;
  for (auto& other : others) End(std::move(other), status, reason);
  CountRefusal(status);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_refused) gate_.OnEnd(now);
  if (--num_open_ == 0) idle_.notify_all();
}

void EngineImpl::Publish() {
  running_ = scheduler_.num_running();
  pages_free_ = scheduler_.num_pages_available();
  const std::lock_guard<std::mutex> lock(mutex_);
  gate_.Update(scheduler_, inbox_, absl::Now());
}

void EngineImpl::RunStep(Batch batch) {
  const absl::Time began = absl::Now();
  if (step_began_ == 0) step_began_ = absl::ToUnixNanos(began);
  if (options_.faults != nullptr) options_.faults->SleepIf(Fault::kStepSlow);
  steps_.Launch(std::move(batch), began);
  const size_t num_staying = steps_.NumThatMayStay();
  while (steps_.num_in_flight() > num_staying) EndStep();
  steps_.GoOn();
}

void EngineImpl::EndStep() {
  const StepRunner::Step step = steps_.Collect();
  const bool has_next = steps_.num_in_flight() > 0;
  step_began_ = has_next ? absl::ToUnixNanos(steps_.oldest_began()) : 0;
  for (const TokenStage::Ended& ended : step.ends) {
    // An error of one choice has taken out the others.
    auto removed = scheduler_.RemoveIf([&](const Sequence& s) { return &s == ended.sequence; });
    for (auto& sequence : removed) End(std::move(sequence), ended.status, ended.reason);
  }
  const StepStats stats =
      CountStep(step.batch, step.ended - step.began, *loaded_, scheduler_, pool_);
  if (step.is_whole) {
    scheduler_.ObserveStep(stats.num_decode_tokens, stats.num_prefill_tokens, stats.duration);
  }
  observer_->OnStep(stats);
  changed_outside_step_ = false;
}

void EngineImpl::DropAStream() {
  if (options_.faults == nullptr || scheduler_.num_running() == 0 ||
      !options_.faults->Happens(Fault::kDropStream)) {
    return;
  }
  const size_t index = options_.faults->Pick(static_cast<size_t>(scheduler_.num_running()));
  const std::string id = scheduler_.running(static_cast<int32_t>(index)).id();
  EndRequest(id, absl::OkStatus());
}

void EngineImpl::CheckState(bool idle) const {
  if (!idle && !options_.checks_each_step) return;
  const absl::Status status = scheduler_.Check();
  CHECK(status.ok()) << status.message();
}

void EngineImpl::Loop() {
  NameThread("nsa-engine");
  while (TakeInbox()) {
    EndExpired(absl::Now());
    if (std::exchange(changed_outside_step_, false)) {
      observer_->OnStep(CountStep(Batch{}, absl::ZeroDuration(), *loaded_, scheduler_, pool_));
    }
    Batch batch = scheduler_.Schedule(absl::Now());
    const Preemptions preemptions = scheduler_.TakePreemptions();
    if (preemptions.num_sequences + preemptions.num_recomputed_tokens > 0) {
      observer_->OnPreemptions(preemptions);
    }
    DiscardVacated(pool_, *loaded_->cache);
    Publish();  // what was admitted no longer waits: a step takes long enough to be refused for it
    if (!batch.entries.empty() || steps_.num_in_flight() > 0) {
      batch.entries.empty() ? EndStep() : RunStep(std::move(batch));
      DropAStream();
      CheckState(scheduler_.idle());
    } else if (!scheduler_.idle() || scheduler_.moving()) {
      // All that run are paused by slow readers, or wait for pages of such, or for pages that move.
      const auto wait = scheduler_.moving() ? std::min(kIdlePoll, spill_->ask_after()) : kIdlePoll;
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait_for(lock, absl::ToChronoMicroseconds(wait),
                     [this] { return move_ended_ || stop_ || abort_all_ || !inbox_.empty(); });
      move_ended_ = false;
    }
    watchers_.Deliver();
    Publish();
  }
  AbortAll();
  while (steps_.num_in_flight() > 0) steps_.Collect();  // they are nobody's
  Publish();
  std::vector<std::function<void(int32_t)>> flushes;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    alive_ = false;
    flushes.swap(inbox_.flushes);
    idle_.notify_all();
  }
  for (const auto& done : flushes) done(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineOptions& options) {
  auto loaded = LoadModelWithCache(options);
  if (!loaded.ok()) return loaded.status();
  if (absl::Status status = SelfCheck(**loaded, options.max_step_tokens); !status.ok()) {
    return status;
  }
  LogSummary((*loaded)->info);
  auto spill = OpenPageTier(options, *(*loaded)->backend, *(*loaded)->cache);
  if (!spill.ok()) return spill.status();
  return std::make_unique<EngineImpl>(options, *std::move(loaded), *std::move(spill));
}

}  // namespace nsa::engine

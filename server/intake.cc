#include "server/intake.h"

#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/admission.h"

namespace nsa::server {
namespace {

constexpr int kTokenizerThreads = 2;
// Prompts waiting to be tokenized; the engine's own queue is bounded apart from this.
constexpr size_t kMaxQueuedPrompts = 256;
// For such; a prompt takes milliseconds.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);
// Grammars wait for one another, and for nobody else.
constexpr int kGrammarThreads = 1;
constexpr size_t kMaxQueuedGrammars = 32;

}  // namespace

Intake::Intake(engine::Engine* engine, engine::MetricsObserver* metrics, ServiceInfo info)
    : engine_(engine),
      shared_{engine, metrics != nullptr ? metrics : &no_metrics_, {}, info.tracer, info.keys},
      info_(std::move(info)),
      started_(absl::Now()),
      id_prefix_(std::random_device{}()),
      work_("nsa-tokenize", kTokenizerThreads, kMaxQueuedPrompts),
      grammar_work_("nsa-grammar", kGrammarThreads, kMaxQueuedGrammars) {}

absl::Duration Intake::uptime() const { return absl::Now() - started_; }

std::string Intake::IdFor(const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  return absl::StrFormat("nsa-%08x-%d", id_prefix_, next_id_.fetch_add(1));
}

absl::Status Intake::QueueFull() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", work_.max_queued(), " texts wait"));
}

void Intake::Run(GenerateCall* call) {
  if (const absl::Status admitted = call->Admit(); !admitted.ok()) return call->Reject(admitted);
  WorkPool& work = call->request().has_structured_output() ? grammar_work_ : work_;
  if (work.Add([call] { call->Start(); })) return;
  shared_.metrics->OnRejected("queue_full");
  call->Reject(engine::WithRetryAfter(
      absl::ResourceExhaustedError(
          absl::StrCat("the queue is full: ", work.max_queued(), " prompts wait to be tokenized")),
      kRetryDelay));
}

void Intake::Abort(const std::string& request_id) {
  // In this order: what is no longer pending is the engine's.
  shared_.pending.Abort(request_id);
  engine_->Abort(request_id);
}

}  // namespace nsa::server

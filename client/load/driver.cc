#include "client/load/driver.h"

#include <algorithm>
#include <string>
#include <utility>

#include "client/retry_hint.h"
#include "grpcpp/support/client_callback.h"

namespace nsa::client {
namespace {

// A user who was refused or lost the connection tries again later, or a dead server would be asked
// as fast as a connection can fail.
constexpr double kPauseAfterFailureSeconds = 0.1;

/// Of a user before the next request.
double PauseSeconds(const RequestRecord& record) {
  if (record.ok()) return 0;
  return std::max(kPauseAfterFailureSeconds,
                  static_cast<double>(record.retry_after_ms.value_or(0)) / 1000);
}

}  // namespace

/// One request in flight; deletes itself when it has ended.
class Driver::Call final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Call(Driver* driver, int64_t id, const PlannedRequest& planned, v1::GenerateRequest request)
      : driver_(driver),
        id_(id),
        context_(std::make_shared<grpc::ClientContext>()),
        request_(std::move(request)) {
    record_.planned = planned;
    record_.planned.token_ids = {};  // the message has them
  }

  const std::shared_ptr<grpc::ClientContext>& context() const { return context_; }

  void Start(v1::InferenceService::Stub& stub, double scheduled_s) {
    record_.scheduled_s = scheduled_s;
    record_.sent_s = driver_->Now();
    if (record_.planned.deadline_ms > 0) {
      const double left_s = scheduled_s + record_.planned.deadline_ms / 1000 - record_.sent_s;
      context_->set_deadline(std::chrono::system_clock::now() +
                             std::chrono::microseconds(static_cast<int64_t>(left_s * 1e6)));
    }
    stub.async()->Generate(context_.get(), &request_, this);
    StartRead(&message_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const double now = driver_->Now();
    if (message_.has_delta() && !message_.delta().token_ids().empty()) {
      OnTokens(now, message_.delta().token_ids_size());
    } else if (message_.has_finished()) {
      finished_ = true;
      OnFinished(message_.finished());
    }
    StartRead(&message_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.end_s = driver_->Now();
    record_.code = status.error_code();
    record_.message = status.error_message();
    record_.retry_after_ms = RetryHint(*context_);
    if (status.ok() && !finished_) {
      record_.code = grpc::StatusCode::INTERNAL;
      record_.message = "the stream ended without its last message";
    } else if (status.ok() && aborted_) {
      record_.code = grpc::StatusCode::ABORTED;
      record_.message = "the request was aborted on the server";
    }
    if (!record_.ok()) record_.finish_reason.clear();
    // The driver may go when it has heard of the last call.
    Driver* const driver = driver_;
    RequestRecord record = std::move(record_);
    const int64_t id = id_;
    delete this;
    driver->OnCallDone(id, std::move(record));
  }

 private:
  void OnTokens(double now, int count) {
    if (record_.first_token_s > 0) {
      record_.gaps_s.push_back(now - record_.last_token_s);
    } else {
      record_.first_token_s = now;
    }
    record_.last_token_s = now;
    record_.output_tokens += count;
  }

  void OnFinished(const v1::Finished& finished) {
    aborted_ = finished.has_aborted();
    record_.finish_reason = finished.has_stop() ? "stop" : "length";
    record_.prompt_tokens = finished.usage().prompt_tokens();
    record_.cached_tokens = finished.usage().cached_tokens();
    record_.output_tokens = finished.usage().generated_tokens();
  }

  Driver* const driver_;
  const int64_t id_;
  const std::shared_ptr<grpc::ClientContext> context_;
  const v1::GenerateRequest request_;
  v1::GenerateResponse message_;
  RequestRecord record_;
  bool finished_ = false;
  bool aborted_ = false;
};

Driver::Driver(Options options) : options_(std::move(options)), origin_(Clock::now()) {}

Driver::~Driver() { Stop(); }

double Driver::Now() const { return std::chrono::duration<double>(Clock::now() - origin_).count(); }

Driver::Clock::time_point Driver::At(double seconds) const {
  // Far enough for every wait, near enough for the clock's type.
  constexpr double kLongestSeconds = 1e8;
  return origin_ + std::chrono::duration_cast<Clock::duration>(
                       std::chrono::duration<double>(std::min(seconds, kLongestSeconds)));
}

v1::GenerateRequest Driver::Message(const PlannedRequest& planned) const {
  v1::GenerateRequest message = options_.common;
  const std::vector<int32_t> ids = options_.prompts->Make(planned);
  message.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  message.mutable_stopping()->set_max_tokens(planned.output_tokens);
  if (planned.priority != 0) message.set_priority(planned.priority);
  if (!planned.cache_salt.empty()) message.set_cache_salt(planned.cache_salt);
  return message;
}

bool Driver::AwaitTurn(const Phase& phase, const PlannedRequest& planned, double& scheduled_s) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!phase.concurrency.has_value()) {
    if (planned.arrival_s >= phase.duration_s) return false;
    scheduled_s = planned.arrival_s;
    return !changed_.wait_until(lock, At(planned.arrival_s), [this] { return stopped_; });
  }
  while (true) {
    const double now = Now();
    if (stopped_ || now >= phase.duration_s) return false;
    if (!free_users_.empty() && free_users_.top() <= now) {
      free_users_.pop();
      scheduled_s = now;
      return true;
    }
    // Woken also when a request ends, for its user may be free before the others.
    const double next = free_users_.empty() ? phase.duration_s : free_users_.top();
    changed_.wait_until(lock, At(std::min(next, phase.duration_s)));
  }
}

void Driver::Send(const PlannedRequest& planned, double scheduled_s, v1::GenerateRequest message) {
  Call* call = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t id = progress_.num_sent++;
    call = new Call(this, id, planned, std::move(message));  // deletes itself
    active_.emplace(id, call->context());
    // Stop has not seen this one; a context that is cancelled before its start ends at its start.
    if (stopped_) call->context()->TryCancel();
  }
  v1::InferenceService::Stub& stub = *options_.stubs[next_stub_];
  next_stub_ = (next_stub_ + 1) % options_.stubs.size();
  call->Start(stub, scheduled_s);
}

void Driver::OnCallDone(int64_t id, RequestRecord record) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_loop_) free_users_.push(record.end_s + PauseSeconds(record));
  options_.on_done(std::move(record));
  active_.erase(id);
  // Under the lock: Run may return, and the driver go, as soon as it is free.
  changed_.notify_all();
}

void Driver::Run(const Source& source, const Phase& phase) {
  origin_ = Clock::now();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_loop_ = phase.concurrency.has_value();
    free_users_ = {};
    for (int64_t i = 0; i < phase.concurrency.value_or(0); ++i) free_users_.push(0);
  }
  while (true) {
    const std::optional<PlannedRequest> planned = source();
    if (!planned.has_value()) break;
    // Made before its time has come, so that making it delays nothing.
    v1::GenerateRequest message = Message(*planned);
    double scheduled_s = 0;
    if (!AwaitTurn(phase, *planned, scheduled_s)) break;
    Send(*planned, scheduled_s, std::move(message));
  }
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return active_.empty(); });
}

void Driver::Stop() {
  std::vector<std::shared_ptr<grpc::ClientContext>> contexts;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    contexts.reserve(active_.size());
    for (const auto& [id, context] : active_) contexts.push_back(context);
    changed_.notify_all();
  }
  // Outside of the lock, which a call takes when it ends.
  for (const auto& context : contexts) context->TryCancel();
}

Driver::Progress Driver::progress() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  Progress progress = progress_;
  progress.num_in_flight = static_cast<int64_t>(active_.size());
  return progress;
}

}  // namespace nsa::client

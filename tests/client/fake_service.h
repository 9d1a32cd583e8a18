#ifndef NSA_TESTS_CLIENT_FAKE_SERVICE_H_
#define NSA_TESTS_CLIENT_FAKE_SERVICE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "nsa/v1/inference.grpc.pb.h"

namespace nsa::client {

/// A service on a loopback port that does what a test tells it to.
class FakeService final : public v1::InferenceService::CallbackService {
 public:
  enum class Way {
    kComplete,    // max_tokens messages with one token each, and the end
    kHold,        // the same, but not before Release
    kReject,      // RESOURCE_EXHAUSTED with a hint
    kAbort,       // ends as if another had aborted the request
    kUnfinished,  // ends well without its last message
  };

  FakeService() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = v1::InferenceService::NewStub(channel_);
  }
  ~FakeService() override {
    Release();
    Stop();
  }

  void Stop() { server_->Shutdown(std::chrono::system_clock::now()); }

  v1::InferenceService::Stub& stub() { return *stub_; }
  const std::string& address() const { return address_; }
  void set_way(Way way) {
    const std::lock_guard<std::mutex> lock(mutex_);
    way_ = way;
  }
  void set_retry_after_ms(const std::string& text) { retry_after_ms_ = text; }  // between requests

  /// Answers what is held, and from now on at once.
  void Release() {
    std::set<Call*> held;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (way_ == Way::kHold) way_ = Way::kComplete;
      held.swap(held_);
    }
    for (Call* call : held) call->Write();
  }

  int num_open() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return num_open_;
  }
  std::vector<v1::GenerateRequest> requests() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }

  /// What the last request brought under `key`.
  std::vector<std::string> metadata(const std::string& key) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::string> values;
    const auto [begin, end] = metadata_.equal_range(key);
    for (auto it = begin; it != end; ++it) values.push_back(it->second);
    return values;
  }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    auto* call = new Call(this, *request);
    std::unique_lock<std::mutex> lock(mutex_);
    requests_.push_back(*request);
    metadata_.clear();
    for (const auto& [key, value] : context->client_metadata()) {
      metadata_.emplace(std::string(key.data(), key.size()),
                        std::string(value.data(), value.size()));
    }
    ++num_open_;
    const Way way = way_;
    if (way == Way::kHold) {
      held_.insert(call);
      return call;
    }
    lock.unlock();
    if (way == Way::kReject) {
      if (!retry_after_ms_.empty()) {
        context->AddTrailingMetadata("retry-after-ms", retry_after_ms_);
      }
      call->Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full"});
    } else if (way == Way::kUnfinished) {
      call->Finish(grpc::Status::OK);
    } else {
      call->set_aborted(way == Way::kAbort);
      call->Write();
    }
    return call;
  }

 private:
  class Call final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
   public:
    Call(FakeService* service, const v1::GenerateRequest& request)
        : service_(service),
          num_prompt_(request.token_ids().ids_size()),
          num_left_(request.stopping().max_tokens()),
          num_tokens_(num_left_) {}

    void set_aborted(bool aborted) { aborted_ = aborted; }

    void Write() {
      message_.Clear();
      if (num_left_ > 0) {
        --num_left_;
        message_.mutable_delta()->add_token_ids(1);
        StartWrite(&message_);
        return;
      }
      v1::Finished& finished = *message_.mutable_finished();
      aborted_ ? (void)finished.mutable_aborted() : (void)finished.mutable_length();
      finished.mutable_usage()->set_prompt_tokens(num_prompt_);
      finished.mutable_usage()->set_generated_tokens(num_tokens_);
      finished.mutable_usage()->set_cached_tokens(2);
      last_ = true;
      StartWriteAndFinish(&message_, {}, grpc::Status::OK);
    }

    void OnWriteDone(bool ok) override {
      if (last_) return;
      if (ok) {
        Write();
      } else {
        Finish(grpc::Status::CANCELLED);
      }
    }

    /// One that is held has no write in flight, so nothing else would end it.
    void OnCancel() override {
      if (service_->TakeHeld(this)) Finish(grpc::Status::CANCELLED);
    }

    void OnDone() override {
      service_->OnCallDone();
      delete this;
    }

   private:
    FakeService* const service_;
    const int64_t num_prompt_;
    int64_t num_left_;
    const int64_t num_tokens_;
    bool aborted_ = false;
    bool last_ = false;
    v1::GenerateResponse message_;
  };

  bool TakeHeld(Call* call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return held_.erase(call) > 0;
  }

  void OnCallDone() {
    const std::lock_guard<std::mutex> lock(mutex_);
    --num_open_;
  }

  mutable std::mutex mutex_;
  Way way_ = Way::kComplete;
  std::string retry_after_ms_;
  int num_open_ = 0;
  std::set<Call*> held_;
  std::vector<v1::GenerateRequest> requests_;
  std::multimap<std::string, std::string> metadata_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace nsa::client

#endif  // NSA_TESTS_CLIENT_FAKE_SERVICE_H_

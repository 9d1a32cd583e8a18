#include "client/load/load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "client/flags.h"
#include "client/interrupts.h"
#include "client/load/driver.h"
#include "client/load/progress.h"
#include "client/load/prompt_maker.h"
#include "client/load/report.h"
#include "client/load/trace.h"
#include "grpcpp/grpcpp.h"

namespace nsa::client {
namespace {

constexpr int kMaxMessageBytes = 1 << 30;
constexpr size_t kTokenizePieceBytes = 1 << 20;  // far below any server's message limit
constexpr uintmax_t kMostTextBytes = 256 << 20;

using Stub = v1::InferenceService::Stub;

/// Stubs with a connection each.
std::vector<std::unique_ptr<Stub>> Connect(int64_t count) {
  std::vector<std::unique_ptr<Stub>> stubs;
  for (int64_t i = 0; i < count; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    // Without it channels to one address share one connection.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    stubs.push_back(v1::InferenceService::NewStub(NewChannel(arguments)));
  }
  return stubs;
}

/// Contexts of short calls before the run, each with a deadline of its own; Ctrl-C cancels them
/// all.
class ShortCalls {
 public:
  explicit ShortCalls(size_t count) : contexts_(count) {}

  grpc::ClientContext& Next() {
    grpc::ClientContext& context = contexts_.at(next_++);
    const double seconds = TimeoutSeconds() > 0 ? TimeoutSeconds() : 60;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)));
    return context;
  }

 private:
  std::vector<grpc::ClientContext> contexts_;
  size_t next_ = 0;
  const InterruptGuard guard_{[this] {
    for (grpc::ClientContext& context : contexts_) context.TryCancel();
  }};
};

/// Asks each connection, so that all of them stand before the run begins.
grpc::Status GetModelInfo(const std::vector<std::unique_ptr<Stub>>& stubs,
                          v1::GetModelInfoResponse& model) {
  ShortCalls calls(stubs.size());
  for (const auto& stub : stubs) {
    const grpc::Status status = stub->GetModelInfo(&calls.Next(), {}, &model);
    if (!status.ok()) return status;
  }
  return grpc::Status::OK;
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::error_code error;
  std::ifstream file;
  const uintmax_t size = std::filesystem::file_size(path, error);  // an error for a folder
  if (!error) file.open(path, std::ios::binary);
  if (!file.is_open()) {
    return absl::InvalidArgumentError(absl::StrCat("--text_file: cannot read '", path, "'"));
  }
  if (size == 0 || size > kMostTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--text_file '", path, "' has ", size,
                                                   " bytes, expected 1 to ", kMostTextBytes));
  }
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// Token ids of a text, which the server tokenizes piece by piece.
grpc::Status Tokenize(Stub& stub, const std::string& text, std::vector<int32_t>& ids) {
  ShortCalls calls(text.size() / kTokenizePieceBytes + 1);
  for (size_t begin = 0; begin < text.size(); begin += kTokenizePieceBytes) {
    v1::TokenizeRequest request;
    request.set_text(text.substr(begin, kTokenizePieceBytes));
    request.set_add_special_tokens(false);
    request.set_parse_special_tokens(false);
    v1::TokenizeResponse response;
    const grpc::Status status = stub.Tokenize(&calls.Next(), request, &response);
    if (!status.ok()) return status;
    ids.insert(ids.end(), response.token_ids().begin(), response.token_ids().end());
  }
  return grpc::Status::OK;
}

/// What the phases of a run share.
class Run {
 public:
  Run(const LoadOptions& options, v1::GenerateRequest common)
      : options_(options), common_(std::move(common)), statistics_(options.slo) {}

  LoadOutcome Go() {
    if (!options_.trace_out.empty()) {
      trace_out_.open(options_.trace_out, std::ios::trunc);
      if (!trace_out_.is_open()) return Usage("--trace_out: cannot write '", options_.trace_out);
    }
    stubs_ = Connect(options_.num_connections);
    LoadOutcome outcome = Prepare();
    if (!outcome.usage.ok() || !outcome.status.ok()) return outcome;
    if (!options_.plan_out.empty()) return WritePlan();
    Send();
    Print();
    trace_out_.close();
    if (!trace_out_ && !options_.trace_out.empty()) {
      return Usage("--trace_out: could not write all of '", options_.trace_out);
    }
    return {absl::OkStatus(), RunStatus(description_, statistics_)};
  }

 private:
  static LoadOutcome Usage(const char* what, const std::string& path) {
    return {absl::InvalidArgumentError(absl::StrCat(what, path, "'")), grpc::Status::OK};
  }

  /// Asks for the model, reads files, and makes workload and prompts.
  LoadOutcome Prepare() {
    v1::GetModelInfoResponse model;
    grpc::Status status = GetModelInfo(stubs_, model);
    if (!status.ok()) return {absl::OkStatus(), status};
    auto workload = MakeTheWorkload(model.max_context());
    if (!workload.ok()) return {workload.status(), grpc::Status::OK};
    workload_ = *std::move(workload);
    std::vector<int32_t> ids;
    if (!options_.text_file.empty()) {
      const auto text = ReadText(options_.text_file);
      if (!text.ok()) return {text.status(), grpc::Status::OK};
      status = Tokenize(*stubs_[0], *text, ids);
      if (!status.ok()) return {absl::OkStatus(), status};
    }
    prompts_ = std::make_unique<PromptMaker>(options_.workload.seed,
                                             std::max(model.vocabulary_size(), 1), std::move(ids));
    Describe(model.name());
    return {};
  }

  absl::StatusOr<std::unique_ptr<Workload>> MakeTheWorkload(int64_t max_context) const {
    if (options_.trace_file.empty()) return MakeWorkload(options_.workload, max_context);
    auto trace = ReadTraceFile(options_.trace_file);
    if (!trace.ok()) return trace.status();
    return MakeTraceWorkload(*std::move(trace), options_.trace_speed, max_context);
  }

  void Describe(const std::string& model) {
    description_.server = ServerAddress();
    description_.model = model;
    description_.seed = options_.workload.seed;
    description_.concurrency = options_.concurrency.value_or(0);
    if (options_.concurrency.has_value()) {
      description_.arrivals = "closed";
    } else if (!options_.trace_file.empty()) {
      description_.arrivals = "trace";
    } else {
      description_.arrivals = options_.workload.poisson ? "poisson" : "constant";
      description_.rate = options_.workload.rate;
    }
  }

  /// The requests of the run as a trace, prompts and all.
  LoadOutcome WritePlan() {
    std::ofstream file(options_.plan_out, std::ios::trunc);
    if (!file.is_open()) return Usage("--plan_out: cannot write '", options_.plan_out);
    int64_t num_left = options_.num_requests.value_or(std::numeric_limits<int64_t>::max());
    while (num_left-- > 0 && file) {
      std::optional<PlannedRequest> request = workload_->Next();
      if (!request.has_value() || request->arrival_s >= DurationSeconds()) break;
      request->token_ids = prompts_->Make(*request);
      file << Line(TraceJson(*request)) << '\n';
    }
    file.close();
    if (!file) return Usage("--plan_out: could not write all of '", options_.plan_out);
    return {};
  }

  double DurationSeconds() const {
    return options_.duration_s.value_or(std::numeric_limits<double>::infinity());
  }

  /// Warm-up and the run itself.
  void Send() {
    Driver::Options options;
    for (const auto& stub : stubs_) options.stubs.push_back(stub.get());
    options.common = common_;
    options.prompts = prompts_.get();
    options.on_done = [this](const RequestRecord& record) { OnRequestDone(record); };
    Driver driver(std::move(options));
    const InterruptGuard guard([&] {
      interrupted_ = true;
      driver.Stop();
    });
    const ProgressLine progress([&](double elapsed_s) {
      if (TimeoutSeconds() > 0 && elapsed_s >= TimeoutSeconds() && !timed_out_.exchange(true)) {
        driver.Stop();
      }
      return ProgressText(driver.progress());
    });
    int64_t next_warmup = 0;
    driver.Run(
        [&]() -> std::optional<PlannedRequest> {
          if (next_warmup == options_.warmup_requests) return std::nullopt;
          return workload_->Warmup(next_warmup++);
        },
        {.concurrency = options_.concurrency.value_or(1)});
    int64_t num_left = options_.num_requests.value_or(std::numeric_limits<int64_t>::max());
    driver.Run(
        [&]() -> std::optional<PlannedRequest> {
          if (num_left-- == 0) return std::nullopt;
          return workload_->Next();
        },
        {.concurrency = options_.concurrency, .duration_s = DurationSeconds()});
    description_.interrupted = interrupted_;
    description_.timed_out = timed_out_;
  }

  /// On threads of gRPC, one at a time.
  void OnRequestDone(const RequestRecord& record) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      statistics_.Add(record);
    }
    if (trace_out_.is_open()) trace_out_ << Line(RecordJson(record, options_.slo)) << '\n';
  }

  std::string ProgressText(const Driver::Progress& driver) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return absl::StrCat(driver.num_sent, " sent, ", driver.num_in_flight, " in flight, ",
                        statistics_.num_completed(), " completed, ", statistics_.num_rejected(),
                        " rejected, ", statistics_.num_failed(), " failed, ",
                        statistics_.output_tokens(), " tokens");
  }

  static std::string Line(const nlohmann::ordered_json& json) {
    // Words of a server need not be UTF-8.
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }

  void Print() const {
    const std::string report = JsonOutput() ? Line(ReportJson(description_, statistics_)) + "\n"
                                            : ReportText(description_, statistics_);
    std::fwrite(report.data(), 1, report.size(), stdout);
    std::fflush(stdout);
  }

  const LoadOptions& options_;
  const v1::GenerateRequest common_;
  std::ofstream trace_out_;
  std::vector<std::unique_ptr<Stub>> stubs_;
  std::unique_ptr<Workload> workload_;
  std::unique_ptr<PromptMaker> prompts_;
  RunDescription description_;
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> timed_out_{false};
  mutable std::mutex mutex_;  // of what the progress line reads beside the run
  Statistics statistics_;
};

}  // namespace

LoadOutcome RunLoad(const LoadOptions& options, v1::GenerateRequest common) {
  // Each token is to be seen when it comes, also where it makes no text yet.
  common.mutable_response()->set_token_ids(true);
  common.mutable_response()->set_prefill_progress(false);
  common.mutable_stopping()->set_ignore_eos(!options.stop_at_eos);
  return Run(options, std::move(common)).Go();
}

}  // namespace nsa::client

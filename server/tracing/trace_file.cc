#include "server/tracing/trace_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/log.h"
#include "engine/thread_name.h"
#include "server/tracing/otlp_json.h"
#include "server/tracing/span_tree.h"
#include "server/version.h"

namespace nsa::server {
namespace {

// Lines are gathered up to this size, then written at once.
constexpr size_t kWriteBytes = 256 << 10;
constexpr int kInstanceIdBytes = 16;

/// Without O_NONBLOCK a pipe that nobody reads would hold up the thread for ever.
int OpenToAppend(const std::string& path) {
  return open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0600);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceFile>> TraceFile::Open(Options options) {
  const int file = OpenToAppend(options.path);
  if (file < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--trace_file is '", options.path, "', which cannot be written: ", std::strerror(errno)));
  }
  close(file);
  return absl::WrapUnique(new TraceFile(std::move(options)));
}

TraceFile::TraceFile(Options options)
    : options_(std::move(options)),
      resource_{{"service.name", "nsa-serve"},
                {"service.version", kVersion},
                {"service.instance.id", RandomId(kInstanceIdBytes)}} {
  thread_ = std::thread([this] { Loop(); });
}

TraceFile::~TraceFile() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void TraceFile::Add(std::shared_ptr<const CallRecorder> recorder) {
  const int64_t num_spans = recorder->record().MaxSpans();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (num_queued_spans_ + num_spans <= options_.max_queued_spans) {
      num_queued_spans_ += num_spans;
      queue_.push_back(std::move(recorder));
      wake_.notify_one();
      return;
    }
  }
  options_.on_spans(SpanOutcome::kQueueFull, num_spans);
}

void TraceFile::Loop() {
  engine::NameThread("nsa-trace");
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const auto recorders = std::exchange(queue_, {});
    lock.unlock();
    WriteAll(recorders);
    lock.lock();
    for (const auto& recorder : recorders) num_queued_spans_ -= recorder->record().MaxSpans();
  }
}

void TraceFile::WriteAll(const std::deque<std::shared_ptr<const CallRecorder>>& recorders) {
  std::string lines;
  int64_t num_spans = 0;
  const auto write = [&] {
    if (lines.empty()) return;
    const absl::Status status = Append(lines);
    options_.on_spans(status.ok() ? SpanOutcome::kWritten : SpanOutcome::kWriteFailed, num_spans);
    NoteHealth(status);
    lines.clear();
    num_spans = 0;
  };
  for (const auto& recorder : recorders) {
    const SpanTree tree = MakeSpanTree(recorder->record(), options_.model_name);
    lines += ToOtlpJson(resource_, tree);
    num_spans += static_cast<int64_t>(tree.spans.size());
    if (lines.size() >= kWriteBytes) write();
  }
  write();
}

absl::Status TraceFile::Append(const std::string& lines) {
  int file = OpenToAppend(options_.path);
  if (file < 0) return absl::ErrnoToStatus(errno, "open");
  const absl::Cleanup close_file = [&file] { close(file); };
  struct stat status{};
  if (fstat(file, &status) != 0) return absl::ErrnoToStatus(errno, "fstat");
  const bool is_regular = S_ISREG(status.st_mode);
  const auto size = static_cast<int64_t>(status.st_size);
  const auto more = static_cast<int64_t>(lines.size());
  if (is_regular && options_.max_bytes > 0 && size > 0 && size + more > options_.max_bytes) {
    const std::string old = options_.path + ".1";
    if (std::rename(options_.path.c_str(), old.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, "rename");
    }
    close(file);
    file = OpenToAppend(options_.path);
    if (file < 0) return absl::ErrnoToStatus(errno, "open");
    status.st_size = 0;
  }
  const std::string text = has_broken_line_ ? "\n" + lines : lines;
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t part = write(file, text.data() + written, text.size() - written);
    if (part < 0 && errno == EINTR) continue;
    if (part <= 0) {
      const absl::Status error = absl::ErrnoToStatus(part < 0 ? errno : EIO, "write");
      // No half line may stay, for the next one would be lost as well.
      const bool clean = written == 0 || (is_regular && ftruncate(file, status.st_size) == 0);
      has_broken_line_ = has_broken_line_ || !clean;
      return error;
    }
    written += static_cast<size_t>(part);
  }
  has_broken_line_ = false;
  return absl::OkStatus();
}

void TraceFile::NoteHealth(const absl::Status& status) {
  if (std::exchange(is_failing_, !status.ok()) == !status.ok()) return;
  if (status.ok()) {
    LOG(INFO) << "--trace_file takes spans again";
  } else {
    LOG(WARNING) << "--trace_file takes no spans: " << status.message()
                 << "; they are dropped until it does (nsa:trace_spans_total counts)";
  }
}

}  // namespace nsa::server

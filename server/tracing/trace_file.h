#ifndef NSA_SERVER_TRACING_TRACE_FILE_H_
#define NSA_SERVER_TRACING_TRACE_FILE_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/tracing/call_record.h"
#include "server/tracing/span_outcome.h"

namespace nsa::server {

/// Appends the spans of ended calls to a file, on a thread of its own. The file is opened anew each
/// time, so that it may be moved away; a disk that is full, slow or gone costs spans, never a
/// request. Any thread.
class TraceFile {
 public:
  struct Options {
    std::string path;
    /// A file that would grow larger is moved to PATH.1, whose content is then gone; 0: no limit.
    int64_t max_bytes = 0;
    std::string model_name;
    /// Spans that may wait for the file.
    int64_t max_queued_spans = 1 << 16;
    /// Told what became of spans; by any thread, must be quick.
    std::function<void(SpanOutcome outcome, int64_t num_spans)> on_spans;
  };

  /// InvalidArgument, beginning with --trace_file, where nothing can be appended to the file.
  static absl::StatusOr<std::unique_ptr<TraceFile>> Open(Options options);
  ~TraceFile();  // writes what waits
  TraceFile(const TraceFile&) = delete;
  TraceFile& operator=(const TraceFile&) = delete;

  /// `recorder` has ended. Never waits for the file.
  void Add(std::shared_ptr<const CallRecorder> recorder);

 private:
  explicit TraceFile(Options options);

  void Loop();
  void WriteAll(const std::deque<std::shared_ptr<const CallRecorder>>& recorders);
  /// Whether all of it is in the file; of what is not, nothing.
  absl::Status Append(const std::string& lines);
  /// Says so in the log where it was otherwise before.
  void NoteHealth(const absl::Status& status);

  const Options options_;
  const Attributes resource_;
  bool is_failing_ = false;       // of the thread
  bool has_broken_line_ = false;  // likewise: the file ends in the middle of a line

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<const CallRecorder>> queue_;
  int64_t num_queued_spans_ = 0;  // with those that are being written
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_TRACING_TRACE_FILE_H_

#ifndef NSA_CLIENT_LOAD_PROGRESS_H_
#define NSA_CLIENT_LOAD_PROGRESS_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace nsa::client {

/// While it lives, asks four times a second what to say, and where standard error is a terminal
/// shows that behind the time, in one line, which goes at the end.
class ProgressLine {
 public:
  /// `text` gets the seconds since the start; called on a thread of the line's own.
  explicit ProgressLine(std::function<std::string(double elapsed_s)> text);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace nsa::client

#endif  // NSA_CLIENT_LOAD_PROGRESS_H_

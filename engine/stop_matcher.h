#ifndef NSA_ENGINE_STOP_MATCHER_H_
#define NSA_ENGINE_STOP_MATCHER_H_

#include <optional>
#include <string>
#include <vector>

namespace nsa::engine {

/// Finds stop strings in text that comes in pieces. Text that may be the beginning of a stop string
/// is held back until that is decided, so no part of one is ever shown. One thread.
class StopMatcher {
 public:
  /// `include_stop` keeps the stop string itself at the end of the text. Empty strings are not
  /// allowed.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  struct Result {
    std::string text;                        // safe to show now
    std::optional<std::string> stop_string;  // the one that was found; the stream then ends
  };

  /// Of several stop strings the one that begins first is found; of two that begin together, the
  /// first listed.
  Result Append(const std::string& piece);

  /// Text held back, when the stream ends for another reason.
  std::string Flush();

 private:
  size_t HeldBack() const;

  std::vector<std::string> stops_;
  bool include_stop_;
  std::string pending_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_STOP_MATCHER_H_

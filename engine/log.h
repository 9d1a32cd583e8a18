#ifndef NSA_ENGINE_LOG_H_
#define NSA_ENGINE_LOG_H_

#include <sstream>
#include <string>
#include <string_view>

/// LOG(INFO) << …, LOG(WARNING), LOG(ERROR), LOG(FATAL) and CHECK(condition) << …: Abseil's names,
/// for Debian's Abseil has no absl/log. LOG_REQUEST(ERROR, name) << …: a line about a request,
/// which says which one. One line to standard error, as text or as a JSON object. Any thread.
namespace nsa::log {

enum class Severity { kInfo, kWarning, kError, kFatal };

enum class Format { kText, kJson };
/// Process-wide; set once by main before threads start.
void SetFormat(Format format);

/// The request that a line is about: any bytes, escaped in the line. An empty part is left out.
struct RequestName {
  std::string_view id;
  std::string_view trace_id;
};

class Line {
 public:
  /// `request` is read at once.
  Line(Severity severity, std::string_view file, int line, const RequestName& request = {});
  ~Line();  // writes; kFatal then aborts
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  std::ostream& stream() { return stream_; }

 private:
  Severity severity_;
  std::string_view file_;
  int line_;
  std::string request_id_;
  std::string trace_id_;
  std::ostringstream stream_;
};

/// Gives a streamed expression the type void, so that CHECK can be a conditional expression.
struct Voidify {
  void operator&(std::ostream&) const {}
};

inline constexpr Severity INFO = Severity::kInfo;
inline constexpr Severity WARNING = Severity::kWarning;
inline constexpr Severity ERROR = Severity::kError;
inline constexpr Severity FATAL = Severity::kFatal;

}  // namespace nsa::log

#define LOG(severity) ::nsa::log::Line(::nsa::log::severity, __FILE__, __LINE__).stream()
#define LOG_REQUEST(severity, name) \
  ::nsa::log::Line(::nsa::log::severity, __FILE__, __LINE__, name).stream()
#define CHECK(condition)                                                                         \
  (condition)                                                                                    \
      ? static_cast<void>(0)                                                                     \
      : ::nsa::log::Voidify() & ::nsa::log::Line(::nsa::log::FATAL, __FILE__, __LINE__).stream() \
                                    << "CHECK failed: " #condition " "

#endif  // NSA_ENGINE_LOG_H_

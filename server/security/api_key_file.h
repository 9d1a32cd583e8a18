#ifndef NSA_SERVER_SECURITY_API_KEY_FILE_H_
#define NSA_SERVER_SECURITY_API_KEY_FILE_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/security/api_keys.h"

namespace nsa::server {

/// The file of API keys. Any thread.
class ApiKeyFile {
 public:
  /// InvalidArgument, beginning with --api_keys_file, where it cannot be read or is wrong.
  static absl::StatusOr<std::unique_ptr<ApiKeyFile>> Open(const std::string& path);

  /// Reads the file again where its content has changed. Where that is wrong the keys before stay,
  /// and the log says so once.
  void Refresh();

  /// As ApiKeys::NameOf.
  std::string NameOf(std::string_view key) const;

 private:
  explicit ApiKeyFile(std::string path) : path_(std::move(path)) {}

  const std::string path_;
  std::string text_;  // as read last; of the thread that refreshes
  mutable absl::Mutex mutex_;
  std::shared_ptr<const ApiKeys> keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace nsa::server

#endif  // NSA_SERVER_SECURITY_API_KEY_FILE_H_

#ifndef NSA_ENGINE_WEIGHTS_MAPPED_FILE_H_
#define NSA_ENGINE_WEIGHTS_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace nsa::engine {

/// A regular file, mapped read-only. Immutable: any thread. A file that others truncate while it is
/// mapped ends the process when the lost part is touched, as with every mapping.
class MappedFile {
 public:
  /// NotFound where there is no such file; PermissionDenied; InvalidArgument where it is empty or
  /// no regular file.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}

  const std::byte* data_;
  size_t size_;
};

/// Tells the system that `num_bytes` from `data` on, of a mapped file, will hardly be read again:
/// they leave resident memory. They can still be read.
void ReleaseMapped(const void* data, int64_t num_bytes);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_MAPPED_FILE_H_

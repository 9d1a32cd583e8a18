#ifndef NSA_ENGINE_WEIGHTS_BYTE_CURSOR_H_
#define NSA_ENGINE_WEIGHTS_BYTE_CURSOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"

namespace nsa::engine {

/// Reads little-endian values one after the other and never past the end.
class ByteCursor {
 public:
  ByteCursor(std::string path, std::span<const std::byte> bytes)
      : path_(std::move(path)), bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    if (remaining() < sizeof(T)) return Truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string_view> ReadBytes(uint64_t count, std::string_view what) {
    if (remaining() < count) return Truncated(what, count);
    const std::string_view view(reinterpret_cast<const char*>(bytes_.data() + offset_), count);
    offset_ += count;
    return view;
  }

  /// InvalidArgument with path and place.
  absl::Status Error(std::string_view message) const {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": ", View(message), " (byte ", offset_, ")"));
  }

 private:
  absl::Status Truncated(std::string_view what, uint64_t needed) const {
    return Error(absl::StrCat("file ends within a ", View(what), ": ", needed, " bytes needed, ",
                              remaining(), " left"));
  }

  std::string path_;
  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_BYTE_CURSOR_H_

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
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/text.h"

namespace nsa::engine {

/// `text` of a file in quotes, fit for a message and a log line: what is not printable ASCII, and
/// quotes, are escaped, and what is longer than 64 bytes is cut.
inline std::string Quoted(std::string_view text) {
  constexpr size_t kMaxBytes = 64;
  return absl::StrCat("'", absl::CHexEscape(View(text.substr(0, kMaxBytes))),
                      text.size() > kMaxBytes ? "…" : "", "'");
}

/// Reads little-endian values one after the other and never past the end.
class ByteCursor {
 public:
  ByteCursor(std::string path, std::span<const std::byte> bytes)
      : path_(std::move(path)), bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }
  /// Where the value that was read last begins.
  uint64_t field_offset() const { return field_offset_; }

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    field_offset_ = offset_;
    if (remaining() < sizeof(T)) return Truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string_view> ReadBytes(uint64_t count, std::string_view what) {
    field_offset_ = offset_;
    if (remaining() < count) return Truncated(what, count);
    const std::string_view view(reinterpret_cast<const char*>(bytes_.data() + offset_), count);
    offset_ += count;
    return view;
  }

  /// InvalidArgument with path and place: the value that was read last, or byte `at`.
  absl::Status Error(std::string_view message) const { return ErrorAt(field_offset_, message); }
  absl::Status ErrorAt(uint64_t at, std::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", Context(), View(message), " (byte ", at, ")"));
  }

  /// What errors say they are about from now on, as "tensor" and its name; nothing where `kind` is
  /// empty. `name` must live as long as it is set.
  void SetContext(std::string_view kind, std::string_view name) {
    context_kind_ = kind;
    context_name_ = name;
  }

 private:
  std::string Context() const {
    if (context_kind_.empty()) return "";
    return absl::StrCat(View(context_kind_), " ", Quoted(context_name_), ": ");
  }

  absl::Status Truncated(std::string_view what, uint64_t needed) const {
    return Error(absl::StrCat("file ends within ", View(what), ": ", needed, " bytes needed, ",
                              remaining(), " left"));
  }

  std::string path_;
  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;
  uint64_t field_offset_ = 0;
  std::string_view context_kind_;
  std::string_view context_name_;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_WEIGHTS_BYTE_CURSOR_H_

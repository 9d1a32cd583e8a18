#ifndef NSA_SERVER_SECURITY_API_KEYS_H_
#define NSA_SERVER_SECURITY_API_KEYS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::server {

/// Keys that clients may use. Only their SHA-256 digests are known: a key is random and long, so
/// that a digest without salt gives nothing away. Immutable, so safe on any thread.
class ApiKeys {
 public:
  /// Lines "NAME DIGEST", DIGEST as 64 hexadecimal digits (what `sha256sum` prints of the key
  /// without a line's end); empty lines and those that begin with # do not count. InvalidArgument
  /// says which line is wrong, and never shows what it holds; no key at all is wrong too.
  static absl::StatusOr<ApiKeys> Parse(std::string_view text);

  /// The name of the key, or nothing where it is not known. Takes the same time whichever key of
  /// the file it is, or none.
  std::string NameOf(std::string_view key) const;

  size_t size() const { return entries_.size(); }

 private:
  using Digest = std::array<uint8_t, 32>;
  struct Entry {
    std::string name;
    Digest digest;
  };

  static Digest DigestOf(std::string_view key);

  std::vector<Entry> entries_;
};

}  // namespace nsa::server

#endif  // NSA_SERVER_SECURITY_API_KEYS_H_

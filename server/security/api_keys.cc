#include "server/security/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace nsa::server {
namespace {

constexpr size_t kMaxNameBytes = 128;

absl::Status BadLine(int number, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("line ", number, " ", what));
}

bool IsHex(const std::string& word) {
  return std::ranges::all_of(word, [](char c) { return absl::ascii_isxdigit(c); });
}

}  // namespace

ApiKeys::Digest ApiKeys::DigestOf(std::string_view key) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(std::string_view text) {
  ApiKeys keys;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(std::string(text), '\n')) {
    ++number;
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
    if (words.empty() || words[0].front() == '#') continue;
    if (words.size() != 2) return BadLine(number, "is no NAME and SHA-256 digest");
    if (words[0].size() > kMaxNameBytes) return BadLine(number, "has a name of over 128 bytes");
    Entry entry = {.name = words[0], .digest = {}};
    if (words[1].size() != 2 * entry.digest.size() || !IsHex(words[1])) {
      return BadLine(number, "has a digest that is not 64 hexadecimal digits");
    }
    const std::string bytes = absl::HexStringToBytes(words[1]);
    std::ranges::copy(bytes, entry.digest.begin());
    for (const Entry& other : keys.entries_) {
      if (other.digest == entry.digest) return BadLine(number, "repeats a digest");
    }
    keys.entries_.push_back(std::move(entry));
  }
  if (keys.entries_.empty()) return absl::InvalidArgumentError("there is no key in it");
  return keys;
}

std::string ApiKeys::NameOf(std::string_view key) const {
  const Digest digest = DigestOf(key);
  const Entry* found = nullptr;
  for (const Entry& entry : entries_) {  // to the end, wherever it is found
    if (CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0) found = &entry;
  }
  return found != nullptr ? found->name : "";
}

}  // namespace nsa::server

#ifndef NSA_ENGINE_TOKENIZER_UTF8_H_
#define NSA_ENGINE_TOKENIZER_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace nsa::engine {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

/// What stands at the head of a byte string.
struct Utf8Head {
  enum class Kind {
    kCharacter,   // a complete, valid character
    kIncomplete,  // the whole string is a proper prefix of some character
    kInvalid,     // cannot become a character whatever follows
  };
  Kind kind;
  size_t num_bytes;  // of the character, or of the maximal subpart that one U+FFFD replaces
};

/// `bytes` is not empty. Surrogates, overlong forms and values over U+10FFFF are invalid. Invalid
/// bytes are grouped as Unicode recommends (chapter 3, "maximal subparts") and as Python's
/// errors="replace" and HTML decoders do.
Utf8Head ReadUtf8Head(std::string_view bytes);

/// The length of the longest prefix of `bytes` that is valid UTF-8.
size_t ValidUtf8Prefix(std::string_view bytes);

/// `bytes` with one U+FFFD for each maximal subpart that is not valid, the end included.
std::string ReplaceInvalidUtf8(std::string_view bytes);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_UTF8_H_

#ifndef NSA_ENGINE_TOKENIZER_PIECE_TEXT_H_
#define NSA_ENGINE_TOKENIZER_PIECE_TEXT_H_

#include <optional>
#include <string>
#include <string_view>

namespace nsa::engine {

inline constexpr std::string_view kVisibleSpace = "\xE2\x96\x81";  // U+2581, SentencePiece's

/// `piece` with spaces for visible ones.
std::string WithPlainSpaces(std::string_view piece);

/// "<0xAB>" → 0xAB.
std::optional<char> ByteOfPiece(std::string_view piece);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_PIECE_TEXT_H_

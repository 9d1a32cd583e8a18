#include "engine/tokenizer/piece_text.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <system_error>

namespace nsa::engine {

std::string WithPlainSpaces(std::string_view piece) {
  std::string text;
  text.reserve(piece.size());
  while (!piece.empty()) {
    const size_t space = std::min(piece.find(kVisibleSpace), piece.size());
    text.append(piece.substr(0, space));
    piece.remove_prefix(space);
    if (!piece.empty()) {
      text.push_back(' ');
      piece.remove_prefix(kVisibleSpace.size());
    }
  }
  return text;
}

std::optional<char> ByteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return std::nullopt;
  uint8_t byte = 0;
  const auto [end, error] = std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
  if (error != std::errc() || end != piece.data() + 5) return std::nullopt;
  return static_cast<char>(byte);
}

}  // namespace nsa::engine

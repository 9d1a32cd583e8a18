#include "engine/tokenizer/jinja/python_text.h"

#include <algorithm>
#include <cstring>

#include "engine/tokenizer/jinja/character_class.h"
#include "engine/tokenizer/jinja/letter_case.h"

namespace nsa::engine::jinja {
namespace {

size_t CharacterBytes(char head) {
  const auto byte = static_cast<unsigned char>(head);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

template <typename Visit>
void ForEachCharacter(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const std::string_view character = FirstCharacter(text);
    visit(character);
    text.remove_prefix(character.size());
  }
}

void AppendHex(uint32_t value, int digits, std::string& out) {
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) {
    out += "0123456789abcdef"[value >> shift & 15];
  }
}

bool IsLineEnd(std::string_view character) {
  const uint32_t code = Decode(character);
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

std::vector<std::string_view> SplitSpace(std::string_view text, int64_t limit) {
  std::vector<std::string_view> parts;
  text = Strip(text, std::nullopt, Side::kLeft);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size() && !IsSpace(FirstCharacter(text.substr(end)))) {
      end += CharacterBytes(text[end]);
    }
    parts.push_back(text.substr(0, end));
    text = Strip(text.substr(end), std::nullopt, Side::kLeft);
  }
  return parts;
}

}  // namespace

std::string_view FirstCharacter(std::string_view text) {
  return text.substr(0, CharacterBytes(text.front()));
}

std::string_view LastCharacter(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && IsContinuation(text[at])) --at;
  return text.substr(at);
}

uint32_t Decode(std::string_view character) {
  const auto head = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return head;
  uint32_t code = head & (0x7F >> character.size());
  for (char c : character.substr(1)) code = code << 6 | (static_cast<unsigned char>(c) & 0x3F);
  return code;
}

size_t CountCharacters(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), IsContinuation));
}

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> characters;
  ForEachCharacter(text, [&](std::string_view c) { characters.push_back(c); });
  return characters;
}

size_t ByteOffset(std::string_view text, size_t characters) {
  size_t at = 0;
  while (characters > 0 && at < text.size()) {
    at += CharacterBytes(text[at]);
    --characters;
  }
  return at;
}

bool IsSpace(std::string_view character) {
  const uint32_t code = Decode(character);
  if (code <= 0x20) return code == 0x20 || (code >= 9 && code <= 13) || code >= 0x1C;
  if (code < 0x1680) return code == 0x85 || code == 0xA0;
  return code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

std::string_view Strip(std::string_view text, std::optional<std::string_view> characters,
                       Side side) {
  auto goes = [&](std::string_view character) {
    return characters ? characters->find(character) != std::string_view::npos : IsSpace(character);
  };
  if (side != Side::kRight) {
    while (!text.empty() && goes(FirstCharacter(text))) {
      text.remove_prefix(CharacterBytes(text.front()));
    }
  }
  if (side != Side::kLeft) {
    while (!text.empty() && goes(LastCharacter(text))) {
      text.remove_suffix(LastCharacter(text).size());
    }
  }
  return text;
}

std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit) {
  if (!separator) return SplitSpace(text, limit);
  std::vector<std::string_view> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = Find(text, *separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator->size());
  }
  parts.push_back(text);
  return parts;
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const std::string_view character = FirstCharacter(text.substr(at));
    size_t next = at + character.size();
    if (IsLineEnd(character)) {
      lines.push_back(text.substr(begin, at - begin));
      if (text.substr(at, 2) == "\r\n") ++next;
      begin = next;
    }
    at = next;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

size_t Find(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  // std::string_view::find takes the product of the lengths on adverse strings; memmem does not.
  const void* hit = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (hit == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(hit) - text.data());
}

std::optional<std::string> Replace(std::string_view text, std::string_view old,
                                   std::string_view replacement, int64_t count, size_t max_bytes) {
  std::string out;
  size_t at = 0;
  for (; count != 0; count = std::max<int64_t>(count - 1, -1)) {
    const size_t hit = Find(text, old, at);
    if (hit == std::string_view::npos) break;
    out += text.substr(at, hit - at);
    out += replacement;
    at = hit + old.size();
    if (old.empty()) {  // one replacement in front of each character and one at the end
      if (at == text.size()) break;
      const std::string_view character = FirstCharacter(text.substr(at));
      out += character;
      at += character.size();
    }
    if (out.size() > max_bytes) return std::nullopt;
  }
  out += text.substr(at);
  if (out.size() > max_bytes) return std::nullopt;
  return out;
}

void AppendLowerIn(std::string_view text, std::string_view character, std::string& out) {
  constexpr uint32_t kSigma = 0x3A3;
  constexpr uint32_t kFinalSigma = 0x3C2;
  const uint32_t code = Decode(character);
  if (code != kSigma) return AppendLower(code, out);
  const auto at = static_cast<size_t>(character.data() - text.data());
  const bool last = EndsWord(text.substr(0, at), text.substr(at + character.size()));
  last ? AppendUtf8(kFinalSigma, out) : AppendLower(code, out);
}

std::string Upper(std::string_view text) {
  std::string out;
  ForEachCharacter(text, [&](std::string_view c) { AppendUpper(Decode(c), out); });
  return out;
}

std::string Lower(std::string_view text) {
  std::string out;
  ForEachCharacter(text, [&](std::string_view c) { AppendLowerIn(text, c, out); });
  return out;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return "";
  const std::string_view first = FirstCharacter(text);
  std::string out;
  AppendTitle(Decode(first), out);
  ForEachCharacter(text.substr(first.size()),
                   [&](std::string_view c) { AppendLowerIn(text, c, out); });
  return out;
}

std::string Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  ForEachCharacter(text, [&](std::string_view character) {
    const uint32_t code = Decode(character);
    in_word ? AppendLowerIn(text, character, out) : AppendTitle(code, out);
    in_word = IsCased(code);
  });
  return out;
}

std::string TitleWords(std::string_view text) {
  std::string out;
  std::string_view word;  // behind its first letter
  bool at_start = true;
  ForEachCharacter(text, [&](std::string_view character) {
    const bool splits =
        IsSpace(character) || std::string_view("-({[<").find(character) != std::string_view::npos;
    if (splits || at_start) {
      out += Lower(word);
      word = std::string_view(character.data() + character.size(), 0);
      splits ? out += character : out += Upper(character);
    } else {
      word = std::string_view(word.data(), word.size() + character.size());
    }
    at_start = splits;
  });
  return out + Lower(word);
}

std::string Repr(std::string_view text) {
  const bool doubled = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = doubled ? '"' : '\'';
  std::string out(1, quote);
  ForEachCharacter(text, [&](std::string_view character) {
    const uint32_t code = Decode(character);
    if (code == static_cast<unsigned char>(quote) || code == '\\') {
      out += '\\';
      out += character;
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out += code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t";
    } else if (IsPrintable(code)) {
      out += character;
    } else {
      const int digits = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
      out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
      AppendHex(code, digits, out);
    }
  });
  out += quote;
  return out;
}

std::string JsonText(std::string_view text, bool ascii) {
  std::string out = "\"";
  ForEachCharacter(text, [&](std::string_view character) {
    static constexpr std::string_view kEscapes = "\b\f\n\r\t\"\\";
    static constexpr std::string_view kNames = "bfnrt\"\\";
    const uint32_t code = Decode(character);
    const size_t known = kEscapes.find(character);
    if (known != std::string_view::npos) {
      out += '\\';
      out += kNames[known];
    } else if (code < 0x20 || (ascii && code >= 0x7F && code < 0x10000)) {
      out += "\\u";
      AppendHex(code, 4, out);
    } else if (ascii && code >= 0x10000) {  // a pair of surrogates
      out += "\\u";
      AppendHex(0xD800 + ((code - 0x10000) >> 10), 4, out);
      out += "\\u";
      AppendHex(0xDC00 + ((code - 0x10000) & 0x3FF), 4, out);
    } else {
      out += character;
    }
  });
  out += '"';
  return out;
}

void AppendUtf8(uint32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int tail = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  const uint32_t mark = tail == 1 ? 0xC0 : tail == 2 ? 0xE0 : 0xF0;
  out += static_cast<char>(mark | code >> (6 * tail));
  for (int i = tail - 1; i >= 0; --i) out += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
}

}  // namespace nsa::engine::jinja

#ifndef NSA_ENGINE_TOKENIZER_JINJA_PYTHON_TEXT_H_
#define NSA_ENGINE_TOKENIZER_JINJA_PYTHON_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nsa::engine::jinja {

// Python's string methods over valid UTF-8; a character is a code point.

size_t CountCharacters(std::string_view text);
std::vector<std::string_view> Characters(std::string_view text);
/// The bytes that the first `characters` take.
size_t ByteOffset(std::string_view text, size_t characters);
/// Of a text that is not empty.
std::string_view FirstCharacter(std::string_view text);
std::string_view LastCharacter(std::string_view text);
uint32_t Decode(std::string_view character);
bool IsSpace(std::string_view character);

enum class Side { kBoth, kLeft, kRight };
/// Without `characters`: white space.
std::string_view Strip(std::string_view text, std::optional<std::string_view> characters,
                       Side side);
/// Without `separator`: runs of white space. `separator` is not empty; a negative `limit` is none.
std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t limit);
std::vector<std::string_view> SplitLines(std::string_view text);
/// Linear in the size, whatever the strings; npos if absent.
size_t Find(std::string_view text, std::string_view part, size_t from = 0);
/// Empty if the result would be over `max_bytes`. A negative `count` is all.
std::optional<std::string> Replace(std::string_view text, std::string_view old,
                                   std::string_view replacement, int64_t count, size_t max_bytes);

/// The lower case of a character where it stands in `text`, of which it is a part.
void AppendLowerIn(std::string_view text, std::string_view character, std::string& out);
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
/// str.title(): each run of letters begins with a capital.
std::string Title(std::string_view text);
/// The filter `title`: words begin after white space and any of -({[<.
std::string TitleWords(std::string_view text);

/// In quotes, escaped as Python does.
std::string Repr(std::string_view text);
/// In double quotes, escaped as json.dumps does; with `ascii` all beyond ASCII too.
std::string JsonText(std::string_view text, bool ascii);
void AppendUtf8(uint32_t code_point, std::string& out);

}  // namespace nsa::engine::jinja

#endif  // NSA_ENGINE_TOKENIZER_JINJA_PYTHON_TEXT_H_

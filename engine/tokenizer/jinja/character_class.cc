#include "engine/tokenizer/jinja/character_class.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "engine/tokenizer/jinja/letter_case.h"
#include "engine/tokenizer/jinja/python_text.h"

namespace nsa::engine::jinja {
namespace {

utf8proc_category_t Category(uint32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

bool IsLetter(uint32_t code) {
  const utf8proc_category_t category = Category(code);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsDecimalDigit(uint32_t code) { return Category(code) == UTF8PROC_CATEGORY_ND; }

bool IsNumeric(uint32_t code) {
  const utf8proc_category_t category = Category(code);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

struct Run {
  uint32_t first;
  uint32_t last;
};

// Of Unicode's Numeric_Type Digit and no decimal digits: raised, lowered, circled ones, ...
constexpr Run kOtherDigits[] = {
    {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
    {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
    {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
    {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
    {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
// Of a case by Other_Lowercase and Other_Uppercase, and letters of no case by their category.
constexpr Run kOtherLower[] = {
    {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},     {0x2C0, 0x2C1},    {0x2E0, 0x2E4},
    {0x345, 0x345},     {0x37A, 0x37A},     {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},  {0x1D9B, 0x1DBF},
    {0x2071, 0x2071},   {0x207F, 0x207F},   {0x2090, 0x209C},   {0x2170, 0x217F},  {0x24D0, 0x24E9},
    {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},   {0xA7F8, 0xA7F9},  {0xAB5C, 0xAB5F},
    {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}};
constexpr Run kOtherUpper[] = {
    {0x2160, 0x216F}, {0x24B6, 0x24CF}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

template <size_t N>
bool IsIn(const Run (&runs)[N], uint32_t code) {
  return std::any_of(std::begin(runs), std::end(runs),
                     [&](const Run& run) { return code >= run.first && code <= run.last; });
}

bool IsDigit(uint32_t code) { return IsDecimalDigit(code) || IsIn(kOtherDigits, code); }

bool IsLowerLetter(uint32_t code) {
  return Category(code) == UTF8PROC_CATEGORY_LL || IsIn(kOtherLower, code);
}

bool IsUpperLetter(uint32_t code) {
  return Category(code) == UTF8PROC_CATEGORY_LU || IsIn(kOtherUpper, code);
}

template <typename Holds>
bool All(std::string_view text, Holds holds) {
  if (text.empty()) return false;
  const std::vector<std::string_view> characters = Characters(text);
  return std::all_of(characters.begin(), characters.end(),
                     [&](std::string_view character) { return holds(Decode(character)); });
}

// True if some character is of the wanted case and none of the other, nor of title case.
bool AllCased(std::string_view text, bool (*wanted)(uint32_t), bool (*other)(uint32_t)) {
  bool found = false;
  for (std::string_view character : Characters(text)) {
    const uint32_t code = Decode(character);
    if (other(code) || Category(code) == UTF8PROC_CATEGORY_LT) return false;
    found = found || wanted(code);
  }
  return found;
}

bool IsCasedLetter(uint32_t code) {
  return IsLowerLetter(code) || IsUpperLetter(code) || Category(code) == UTF8PROC_CATEGORY_LT;
}

// Unicode's Case_Ignorable: marks, modifiers, and the signs that may stand in a word.
bool IsCaseIgnorable(uint32_t code) {
  static constexpr Run kInWords[] = {
      {0x27, 0x27},     {0x2E, 0x2E},     {0x3A, 0x3A},     {0xB7, 0xB7},
      {0x387, 0x387},   {0x55F, 0x55F},   {0x5F4, 0x5F4},   {0x2018, 0x2019},
      {0x2024, 0x2024}, {0x2027, 0x2027}, {0xFE13, 0xFE13}, {0xFE52, 0xFE52},
      {0xFE55, 0xFE55}, {0xFF07, 0xFF07}, {0xFF0E, 0xFF0E}, {0xFF1A, 0xFF1A}};
  switch (Category(code)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return IsIn(kInWords, code);
  }
}

}  // namespace

bool IsPrintable(uint32_t code) {
  switch (Category(code)) {
    case UTF8PROC_CATEGORY_ZS:
      return code == ' ';
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool EndsWord(std::string_view before, std::string_view after) {
  while (!before.empty() && IsCaseIgnorable(Decode(LastCharacter(before)))) {
    before.remove_suffix(LastCharacter(before).size());
  }
  if (before.empty() || !IsCasedLetter(Decode(LastCharacter(before)))) return false;
  while (!after.empty() && IsCaseIgnorable(Decode(FirstCharacter(after)))) {
    after.remove_prefix(FirstCharacter(after).size());
  }
  return after.empty() || !IsCasedLetter(Decode(FirstCharacter(after)));
}

bool IsAlphanumeric(std::string_view text) {
  return All(text, [](uint32_t code) { return IsLetter(code) || IsNumeric(code); });
}
bool IsAlphabetic(std::string_view text) { return All(text, IsLetter); }
bool IsDecimal(std::string_view text) { return All(text, IsDecimalDigit); }
bool IsDigits(std::string_view text) { return All(text, IsDigit); }
bool IsBlank(std::string_view text) {
  return !text.empty() && Strip(text, std::nullopt, Side::kBoth).empty();
}
bool IsLower(std::string_view text) { return AllCased(text, IsLowerLetter, IsUpperLetter); }
bool IsUpper(std::string_view text) { return AllCased(text, IsUpperLetter, IsLowerLetter); }

std::string SwapCase(std::string_view text) {
  std::string out;
  for (std::string_view character : Characters(text)) {
    const uint32_t code = Decode(character);
    if (IsUpperLetter(code)) {
      AppendLowerIn(text, character, out);
    } else if (IsLowerLetter(code)) {
      AppendUpper(code, out);
    } else {
      out += character;
    }
  }
  return out;
}

}  // namespace nsa::engine::jinja

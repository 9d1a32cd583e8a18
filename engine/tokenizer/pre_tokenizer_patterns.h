#ifndef NSA_ENGINE_TOKENIZER_PRE_TOKENIZER_PATTERNS_H_
#define NSA_ENGINE_TOKENIZER_PRE_TOKENIZER_PATTERNS_H_

#include <array>
#include <string_view>

namespace nsa::engine {

/// A family of checkpoints that share their split patterns.
struct PrePattern {
  std::string_view names;  // GGUF's `pre` names, separated by spaces
  std::array<std::string_view, 6> stages;
  bool ignores_merges = false;
  bool adds_bos = false;
};

// White space as Unicode's White_Space has it. PCRE2's own \s also takes U+180E, which lost that
// property in Unicode 6.3.
#define NSA_S "\\t-\\r\\x{85}\\p{Z}"
#define NSA_UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define NSA_LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define NSA_CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define NSA_SPACES "[" NSA_S "]+(?![^" NSA_S "])|[" NSA_S "]+"
#define NSA_LINES "[" NSA_S "]*[\\r\\n]+|" NSA_SPACES
#define NSA_SYMBOLS " ?[^" NSA_S "\\p{L}\\p{N}]+"
#define NSA_WORD "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"

#define NSA_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|" NSA_SYMBOLS "|" NSA_SPACES
#define NSA_LLAMA3(digits) \
  NSA_CONTRACTION "|" NSA_WORD "|\\p{N}" digits "|" NSA_SYMBOLS "[\\r\\n]*|" NSA_LINES
#define NSA_CASED_WORD(suffix)                                    \
  "[^\\r\\n\\p{L}\\p{N}]?[" NSA_UPPER "]*[" NSA_LOWER "]+" suffix \
  "|[^\\r\\n\\p{L}\\p{N}]?[" NSA_UPPER "]+[" NSA_LOWER "]*" suffix
#define NSA_GPT4O(digits, suffix) \
  NSA_CASED_WORD(suffix) "|\\p{N}" digits "|" NSA_SYMBOLS "[\\r\\n/]*|" NSA_LINES

// The cased letters of DeepSeek's first tokenizers, which list them one by one and leave out, among
// others, Georgian and the mathematical alphabets.
#define NSA_DEEPSEEK_LETTERS                                                                       \
  "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"  \
  "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"            \
  "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}"  \
  "\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}"  \
  "\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}"                   \
  "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}"                   \
  "\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}"           \
  "\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}"          \
  "\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}" \
  "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}"  \
  "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"  \
  "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}" \
  "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{"     \
  "ABBF}"                                                                                          \
  "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"                   \
  "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}"           \
  "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"

// Patterns as the checkpoints' own tokenizer.json files have them; the names, and for "default" and
// "falcon" the stages, as llama.cpp has them.
inline constexpr PrePattern kPrePatterns[] = {
    {"default", {"[\\p{P}$+<=>^~|]+", NSA_GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {"gpt-2 phi-2 olmo mpt jais trillion exaone4 granite-docling modern-bert gigachat", {NSA_GPT2}},
    {"smollm starcoder refact command-r codeshell exaone minerva-7b", {"\\p{N}", NSA_GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
     {NSA_LLAMA3("{1,3}")},
     true,
     true},
    {"dbrx smaug-bpe glm4 chatglm-bpe", {NSA_LLAMA3("{1,3}")}},
    {"qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan solar-open", {NSA_LLAMA3("")}},
    {"qwen35",
     {NSA_CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" NSA_S
                      "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" NSA_LINES}},
    // The look-behind changes no match: leftmost matches begin at the head of a run anyway. It
    // spares the search from the middle of every run, which would make long runs quadratic.
    {"deepseek-llm",
     {"[\\r\\n]", "[" NSA_S "]?[" NSA_DEEPSEEK_LETTERS "]+",
      "[" NSA_S "]?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}"
      "\\x{3000}-\\x{3002}]+",
      "(?<![" NSA_S "])[" NSA_S "]++$", "[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+", "\\p{N}+"}},
    {"deepseek-coder",
     {"[\\r\\n]", "[" NSA_S "]?\\p{L}+", "[" NSA_S "]?\\p{P}+",
      "[\\x{800}-\\x{9FA5}\\x{AC00}-\\x{D7FF}]+", "\\p{N}"}},
    {"deepseek-v3 hunyuan-dense",
     {"\\p{N}{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+",
      "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
      " ?[\\p{P}\\p{S}]+[\\r\\n]*|" NSA_LINES}},
    {"falcon", {"[\\p{P}$+<=>^~|`]+", NSA_GPT2, "[0-9][0-9][0-9]"}},
    {"gpt-4o llama4", {NSA_GPT4O("{1,3}", NSA_CONTRACTION "?")}},
    {"tekken", {NSA_GPT4O("", "")}, true, true},
};

#undef NSA_S
#undef NSA_UPPER
#undef NSA_LOWER
#undef NSA_CONTRACTION
#undef NSA_SPACES
#undef NSA_LINES
#undef NSA_SYMBOLS
#undef NSA_WORD
#undef NSA_GPT2
#undef NSA_LLAMA3
#undef NSA_CASED_WORD
#undef NSA_GPT4O
#undef NSA_DEEPSEEK_LETTERS

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_PRE_TOKENIZER_PATTERNS_H_

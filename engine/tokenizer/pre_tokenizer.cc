#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer/pre_tokenizer.h"

#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/freed_by.h"
#include "engine/tokenizer/pre_tokenizer_patterns.h"
#include "engine/weights/byte_cursor.h"
#include "kernels/check.h"

namespace nsa::engine {
namespace {

std::vector<std::string_view> SplitNames(std::string_view names) {
  std::vector<std::string_view> split;
  while (!names.empty()) {
    const std::string_view name = names.substr(0, names.find(' '));
    split.push_back(name);
    names.remove_prefix(std::min(name.size() + 1, names.size()));
  }
  return split;
}

// Steps that a match with a pattern of a checkpoint may take before they are counted, and how many
// of the counted ones one text gets: a second or so. The patterns of the table have no such limit,
// as their time is known to be linear.
constexpr uint32_t kFreeSteps = 1024;
constexpr uint64_t kCountedSteps = 100'000'000;
constexpr uint32_t kForeignHeapKib = 256 << 10;

/// Where the character behind byte `at` begins.
size_t NextCharacter(std::string_view text, size_t at) {
  do {
    ++at;
  } while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
}

int Match(const pcre2_code* code, std::string_view text, size_t start, uint32_t options,
          pcre2_match_data* data, pcre2_match_context* context) {
  return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start,
                     options | PCRE2_NO_UTF_CHECK, data, context);
}

}  // namespace

/// What the matches on one text share.
struct PreTokenizer::Work {
  explicit Work(bool limited);
  int Search(const pcre2_code* code, std::string_view text, size_t start);
  int SearchOnce(const pcre2_code* code, std::string_view text, size_t start);

  std::unique_ptr<pcre2_match_data, FreedBy<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_match_context, FreedBy<pcre2_match_context_free>> context;
  bool limited;
  uint64_t steps_left = kCountedSteps;
};

PreTokenizer::Work::Work(bool limited)
    : data(pcre2_match_data_create(1, nullptr)),
      context(pcre2_match_context_create(nullptr)),
      limited(limited) {
  NSA_CHECK(data != nullptr && context != nullptr);
  // A megabyte of one class of character could pass the defaults. Time stays linear: no pattern of
  // the table backtracks more than once over a run.
  pcre2_set_match_limit(context.get(), UINT32_MAX);
  pcre2_set_heap_limit(context.get(), limited ? kForeignHeapKib : UINT32_MAX);
}

int PreTokenizer::Work::SearchOnce(const pcre2_code* code, std::string_view text, size_t start) {
  const int rc = Match(code, text, start, 0, data.get(), context.get());
  // Compiled code has a small fixed stack; the interpreter takes the heap.
  if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
  return Match(code, text, start, PCRE2_NO_JIT, data.get(), context.get());
}

int PreTokenizer::Work::Search(const pcre2_code* code, std::string_view text, size_t start) {
  if (!limited) return SearchOnce(code, text, start);
  // PCRE2 does not tell how many steps it took, only that they were too many: so few at first.
  for (uint32_t limit = kFreeSteps;; limit *= 16) {
    pcre2_set_match_limit(context.get(), limit);
    const int rc = SearchOnce(code, text, start);
    if (rc != PCRE2_ERROR_MATCHLIMIT) return rc;
    steps_left -= std::min<uint64_t>(steps_left, limit);
    if (steps_left < uint64_t{limit} * 16) return rc;
  }
}

struct PreTokenizer::Stage {
  std::unique_ptr<pcre2_code, FreedBy<pcre2_code_free>> code;
  SplitStage::Behavior behavior = SplitStage::Behavior::kIsolated;

  static absl::StatusOr<std::unique_ptr<Stage>> Compile(std::string_view pattern);
  void Emit(std::string_view gap, std::string_view match,
            std::vector<std::string_view>& pieces) const;
  void Split(std::string_view piece, Work& work, std::vector<std::string_view>& pieces) const;
};

absl::StatusOr<std::unique_ptr<PreTokenizer::Stage>> PreTokenizer::Stage::Compile(
    std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto stage = std::make_unique<Stage>();
  stage->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                  nullptr));
  if (stage->code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("PCRE2 refuses the split pattern %s at offset %d with error %d",
                        Quoted(pattern), offset, error));
  }
  // Without a just-in-time compiler (some hardened kernels) the same patterns are interpreted.
  pcre2_jit_compile(stage->code.get(), PCRE2_JIT_COMPLETE);
  return stage;
}

/// Takes a gap and the match behind it; either may be empty.
void PreTokenizer::Stage::Emit(std::string_view gap, std::string_view match,
                               std::vector<std::string_view>& pieces) const {
  using Behavior = SplitStage::Behavior;
  const auto push = [&](std::string_view piece) {
    if (!piece.empty()) pieces.push_back(piece);
  };
  switch (behavior) {
    case Behavior::kIsolated:
      push(gap);
      push(match);
      return;
    case Behavior::kMergedWithPrevious:
      push({gap.data(), gap.size() + match.size()});
      return;
    case Behavior::kMergedWithNext:
      NSA_CHECK(false);  // split as gaps that begin with their match, see Split
      return;
    case Behavior::kOnlyMatches:
      push(match);
      return;
    case Behavior::kOnlyGaps:
      push(gap);
      return;
  }
}

void PreTokenizer::Stage::Split(std::string_view piece, Work& work,
                                std::vector<std::string_view>& pieces) const {
  size_t done = 0;
  size_t start = 0;
  while (start < piece.size()) {
    // Over a limit the rest is one gap: only patterns that come with a checkpoint can do that.
    if (work.Search(code.get(), piece, start) <= 0) break;
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(work.data.get());
    // Patterns can move the begin of their match: never to where something is cut already.
    if (match[0] < done || match[1] < match[0] || match[1] < start) break;
    if (match[1] == match[0]) {  // an empty match cuts nothing
      start = NextCharacter(piece, match[1]);
      continue;
    }
    if (behavior == SplitStage::Behavior::kMergedWithNext) {
      if (match[0] > done) pieces.push_back(piece.substr(done, match[0] - done));
      done = match[0];
    } else {
      Emit(piece.substr(done, match[0] - done), piece.substr(match[0], match[1] - match[0]),
           pieces);
      done = match[1];
    }
    start = match[1];
  }
  const std::string_view rest = piece.substr(done);
  if (behavior == SplitStage::Behavior::kMergedWithNext) {
    if (!rest.empty()) pieces.push_back(rest);
  } else {
    Emit(rest, {}, pieces);
  }
}

PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(std::string_view name) {
  if (name.empty()) name = "default";
  for (const PrePattern& pattern : kPrePatterns) {
    const std::vector<std::string_view> names = SplitNames(pattern.names);
    if (std::find(names.begin(), names.end(), name) == names.end()) continue;
    std::unique_ptr<PreTokenizer> pre_tokenizer(new PreTokenizer());
    pre_tokenizer->ignores_merges_ = pattern.ignores_merges;
    pre_tokenizer->adds_bos_ = pattern.adds_bos;
    for (std::string_view text : pattern.stages) {
      if (text.empty()) break;
      auto stage = Stage::Compile(text);
      if (!stage.ok()) return stage.status();
      pre_tokenizer->stages_.push_back(*std::move(stage));
    }
    return pre_tokenizer;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("tokenizer.ggml.pre is \"%s\", expected one of %s; such a model needs its "
                      "split pattern added "
                      "to engine/tokenizer/pre_tokenizer_patterns.h",
                      name, absl::StrJoin(KnownNames(), ", ")));
}

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::FromStages(
    const std::vector<SplitStage>& stages, bool ignores_merges) {
  std::unique_ptr<PreTokenizer> pre_tokenizer(new PreTokenizer());
  pre_tokenizer->ignores_merges_ = ignores_merges;
  pre_tokenizer->limited_ = true;
  for (const SplitStage& stage : stages) {
    auto compiled = Stage::Compile(stage.pattern);
    if (!compiled.ok()) return compiled.status();
    (*compiled)->behavior = stage.behavior;
    pre_tokenizer->stages_.push_back(*std::move(compiled));
  }
  return pre_tokenizer;
}

std::vector<std::string_view> PreTokenizer::Split(std::string_view text) const {
  Work work(limited_);
  std::vector<std::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  std::vector<std::string_view> next;
  for (const auto& stage : stages_) {
    next.clear();
    next.reserve(pieces.size() + text.size() / 8);
    for (std::string_view piece : pieces) stage->Split(piece, work, next);
    pieces.swap(next);
  }
  return pieces;
}

std::vector<std::string> PreTokenizer::KnownNames() {
  std::vector<std::string> names;
  for (const PrePattern& pattern : kPrePatterns) {
    for (std::string_view name : SplitNames(pattern.names)) names.emplace_back(name);
  }
  return names;
}

}  // namespace nsa::engine

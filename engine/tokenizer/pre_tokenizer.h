#ifndef NSA_ENGINE_TOKENIZER_PRE_TOKENIZER_H_
#define NSA_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace nsa::engine {

/// One cut of a pre-tokenizer: what its pattern matches, and what lies between.
struct SplitStage {
  enum class Behavior : uint8_t {
    kIsolated,            // matches and gaps are pieces
    kMergedWithPrevious,  // a match ends the piece before it
    kMergedWithNext,      // a match begins the piece after it
    kOnlyMatches,         // gaps are dropped
    kOnlyGaps,            // matches are dropped
  };
  std::string pattern;  // PCRE2, Unicode; matches no empty text
  Behavior behavior = Behavior::kIsolated;
};

/// Cuts text into the pieces that byte-pair merges may not cross. Which pattern a checkpoint was
/// trained with is named by GGUF's `tokenizer.ggml.pre`. Immutable: any thread.
class PreTokenizer {
 public:
  /// InvalidArgument names the known patterns. The empty name is "default".
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(std::string_view name);
  /// From stages that a checkpoint brings along. InvalidArgument where PCRE2 refuses a pattern. The
  /// work on one text is bounded: where a pattern needs more, the rest of a piece stays whole.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromStages(
      const std::vector<SplitStage>& stages, bool ignores_merges);
  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  /// `text` is valid UTF-8. Pieces view it, are not empty and join to it (but for what stages
  /// drop).
  std::vector<std::string_view> Split(std::string_view text) const;

  /// A piece that is a token by itself is taken whole, whatever the merges would make of it.
  bool ignores_merges() const { return ignores_merges_; }
  /// Whether checkpoints of this pattern want a begin-of-sequence token unless they say otherwise.
  bool adds_bos() const { return adds_bos_; }

  static std::vector<std::string> KnownNames();

 private:
  struct Stage;
  struct Work;
  PreTokenizer() = default;

  // Each stage cuts the pieces of the one before into matches and what lies between them.
  std::vector<std::unique_ptr<Stage>> stages_;
  bool limited_ = false;  // the patterns came with a checkpoint
  bool ignores_merges_ = false;
  bool adds_bos_ = false;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_PRE_TOKENIZER_H_

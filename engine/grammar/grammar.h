#ifndef NSA_ENGINE_GRAMMAR_GRAMMAR_H_
#define NSA_ENGINE_GRAMMAR_GRAMMAR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

/// Structured output: which tokens may come next so that a completion is of a given form. By
/// xgrammar, whose headers and exceptions stay behind engine/grammar/c_api.h.
namespace nsa::engine {

struct GrammarSpec {
  enum class Kind : uint8_t { kJsonSchema, kJsonObject, kRegex, kGrammar, kChoice };
  Kind kind = Kind::kJsonObject;
  std::string text;                  // the schema, the expression, or rules of which `root` is one
  std::vector<std::string> choices;  // of kChoice
};

/// Where one completion stands in its grammar. One thread at a time.
class GrammarMatcher {
 public:
  virtual ~GrammarMatcher() = default;
  /// Finds the tokens that may come next. ResourceExhausted, within a bounded time, where the
  /// grammar makes that too hard; the matcher is then of no more use.
  virtual absl::Status Fill() = 0;
  /// What Fill found: bit id % 32 of mask()[id / 32].
  virtual const std::vector<uint32_t>& mask() const = 0;
  /// Goes on behind a token that may come next.
  virtual absl::Status Accept(int32_t token_id) = 0;
};

/// Compiled for one vocabulary. Immutable: any thread.
class Grammar {
 public:
  virtual ~Grammar() = default;
  virtual absl::StatusOr<std::unique_ptr<GrammarMatcher>> NewMatcher() const = 0;
};

/// Compiles grammars for a tokenizer and keeps those that were used last, within a bound of bytes.
/// Any thread.
class GrammarCompiler {
 public:
  /// What compiling may take. Defaults are a server's.
  struct Limits {
    double cpu_seconds = 5;
    int64_t bytes = int64_t{512} << 20;
    int64_t cache_bytes = int64_t{64} << 20;
    int64_t text_bytes = int64_t{256} << 10;
    int depth = 200;  // of brackets
  };

  /// `tokenizer` outlives it. `vocabulary_size` is the model's, at least the tokenizer's.
  static std::unique_ptr<GrammarCompiler> Create(const Tokenizer* tokenizer,
                                                 int32_t vocabulary_size, const Limits& limits);
  virtual ~GrammarCompiler() = default;

  /// InvalidArgument says what is wrong with the text, ResourceExhausted that it takes too much;
  /// Unimplemented where this build has no grammars.
  virtual absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const GrammarSpec& spec) = 0;
};

}  // namespace nsa::engine

#endif  // NSA_ENGINE_GRAMMAR_GRAMMAR_H_

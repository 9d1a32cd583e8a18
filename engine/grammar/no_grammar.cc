// Instead of grammar.cc where NSA_BUILD_GRAMMAR is off.

#include "engine/grammar/grammar.h"

namespace nsa::engine {
namespace {

class NoGrammars final : public GrammarCompiler {
 public:
  absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const GrammarSpec&) override {
    return absl::UnimplementedError("structured_output: this build has no grammars");
  }
};

}  // namespace

std::unique_ptr<GrammarCompiler> GrammarCompiler::Create(const Tokenizer*, int32_t, const Limits&) {
  return std::make_unique<NoGrammars>();
}

}  // namespace nsa::engine

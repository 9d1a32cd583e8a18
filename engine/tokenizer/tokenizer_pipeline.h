#ifndef NSA_ENGINE_TOKENIZER_TOKENIZER_PIPELINE_H_
#define NSA_ENGINE_TOKENIZER_TOKENIZER_PIPELINE_H_

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/pre_tokenizer.h"

namespace nsa::engine {

/// What the normalizer, pre-tokenizer and decoder of a tokenizer.json amount to.
struct Pipeline {
  Normalizer normalizer;        // of every text
  Normalizer first_normalizer;  // of the head of the text
  std::vector<SplitStage> stages;
  bool byte_level = false;
  bool strips_leading_space = false;
  bool fuses = false;
};

/// `document` has passed CheckTokenizerFields. Unimplemented names a component that is not known;
/// InvalidArgument one that contradicts itself, or a file that makes the work on a text, or the
/// text itself, grow too far.
absl::StatusOr<Pipeline> ReadPipeline(const nlohmann::json& document);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_TOKENIZER_TOKENIZER_PIPELINE_H_

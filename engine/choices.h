#ifndef NSA_ENGINE_CHOICES_H_
#define NSA_ENGINE_CHOICES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/sequence.h"
#include "engine/tokenizer/tokenizer.h"

namespace nsa::engine {

/// What the sequences of a request are made with.
struct ChoiceOptions {
  const Tokenizer* tokenizer = nullptr;
  int64_t max_tokens = 0;  // of a completion
  Speculation speculation = Speculation::kNone;
  uint64_t seed = 0;  // of the first choice; the others' follow from it
  absl::Time arrival;
};

/// The request's n completions as a group of sequences with one sink. The first is what n = 1
/// gives. The status is that of a grammar which cannot be followed. Any thread.
absl::StatusOr<std::vector<std::unique_ptr<Sequence>>> MakeChoices(
    const Request& request, const std::shared_ptr<OutputSink>& sink, const ChoiceOptions& options);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_CHOICES_H_

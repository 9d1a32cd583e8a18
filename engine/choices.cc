#include "engine/choices.h"

#include <utility>

#include "engine/prompt_lookup.h"
#include "kernels/sampling.h"

namespace nsa::engine {

absl::StatusOr<std::vector<std::unique_ptr<Sequence>>> MakeChoices(
    const Request& request, const std::shared_ptr<OutputSink>& sink, const ChoiceOptions& options) {
  const auto group = std::make_shared<ChoiceGroup>();
  group->num_open = request.sampling.n;
  std::vector<std::unique_ptr<Sequence>> choices;
  for (int32_t i = 0; i < group->num_open; ++i) {
    const uint64_t seed =
        i == 0 ? options.seed : kernels::MixBits(options.seed + static_cast<uint64_t>(i));
    choices.push_back(std::make_unique<Sequence>(request, sink, *options.tokenizer,
                                                 options.max_tokens, seed, options.arrival));
    Sequence& choice = *choices.back();
    choice.Join(group, i);
    if (choice.request.grammar != nullptr) {
      auto matcher = choice.request.grammar->NewMatcher();
      if (!matcher.ok()) return matcher.status();
      choice.matcher = *std::move(matcher);
    } else if (options.speculation == Speculation::kPromptLookup) {
      choice.prompt_lookup = std::make_unique<PromptLookup>();
    }
  }
  return choices;
}

}  // namespace nsa::engine

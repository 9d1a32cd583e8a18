#include "server/tracing/request_attributes.h"

#include <cstdint>
#include <limits>
#include <string>

namespace nsa::server {
namespace {

void AddSampling(const v1::SamplingParams& sampling, Attributes& attributes) {
  const auto add = [&](const char* name, bool has, auto value) {
    if (has) attributes.emplace_back(name, value);
  };
  const auto real = [](float value) { return static_cast<double>(value); };
  add("gen_ai.request.temperature", sampling.has_temperature(), real(sampling.temperature()));
  add("gen_ai.request.top_p", sampling.has_top_p(), real(sampling.top_p()));
  add("gen_ai.request.top_k", sampling.has_top_k(), int64_t{sampling.top_k()});
  add("gen_ai.request.frequency_penalty", sampling.has_frequency_penalty(),
      real(sampling.frequency_penalty()));
  add("gen_ai.request.presence_penalty", sampling.has_presence_penalty(),
      real(sampling.presence_penalty()));
  // Attributes have no unsigned numbers.
  const bool fits = sampling.seed() <= uint64_t{std::numeric_limits<int64_t>::max()};
  add("gen_ai.request.seed", sampling.has_seed() && fits, static_cast<int64_t>(sampling.seed()));
  add("gen_ai.request.choice.count", sampling.has_n() && sampling.n() != 1, int64_t{sampling.n()});
}

}  // namespace

Attributes RequestAttributes(const v1::GenerateRequest& request) {
  Attributes attributes;
  attributes.emplace_back("gen_ai.operation.name",
                          std::string(request.has_chat() ? "chat" : "text_completion"));
  const v1::StructuredOutput& form = request.structured_output();
  const bool json = form.has_json_schema() || form.has_json_object();
  attributes.emplace_back("gen_ai.output.type", std::string(json ? "json" : "text"));
  attributes.emplace_back("gen_ai.request.stream", true);
  if (request.stopping().has_max_tokens()) {
    attributes.emplace_back("gen_ai.request.max_tokens", request.stopping().max_tokens());
  }
  AddSampling(request.sampling(), attributes);
  if (request.priority() != 0) {
    attributes.emplace_back("nsa.request.priority", int64_t{request.priority()});
  }
  if (request.attention().num_selected_blocks() != 0) {
    attributes.emplace_back("nsa.request.num_selected_blocks",
                            int64_t{request.attention().num_selected_blocks()});
  }
  return attributes;
}

}  // namespace nsa::server

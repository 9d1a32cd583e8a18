// Logits, log-probabilities and greedy continuations of one token sequence, for oracles and quality
// scripts. Results go to files as float32; one JSON line of sizes and times goes to standard error.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "engine/memory.h"
#include "tests/tools/single_sequence.h"

ABSL_FLAG(std::string, tokens, "", "file of int32 little endian ids");
ABSL_FLAG(std::string, logits, "", "writes float32 [tokens - logits_from, vocabulary]");
ABSL_FLAG(int64_t, logits_from, 0, "first position whose logits are written");
ABSL_FLAG(std::string, logprobs, "", "writes float32 [tokens - 1]: log p(token i+1 | 0..i)");
ABSL_FLAG(int32_t, generate, 0, "prints so many greedily chosen ids after the sequence");
ABSL_FLAG(int64_t, max_context, 0, "0: what the sequence needs");

namespace nsa::tools {
namespace {

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double LogSumExp(const float* logits, int64_t size) {
  float top = logits[0];
  for (int64_t i = 1; i < size; ++i) top = std::max(top, logits[i]);
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += std::exp(static_cast<double>(logits[i] - top));
  return std::log(sum) + top;
}

int Run() {
  const auto tokens = ReadTokens(absl::GetFlag(FLAGS_tokens));
  if (!tokens.ok()) {
    std::fprintf(stderr, "%s\n", std::string(tokens.status().message()).c_str());
    return 1;
  }
  const auto num_tokens = static_cast<int64_t>(tokens->size());
  const int32_t generate = absl::GetFlag(FLAGS_generate);
  int64_t context = absl::GetFlag(FLAGS_max_context);
  if (context == 0) context = num_tokens + generate + 1;
  const auto options = OptionsFromFlags(context, 1);
  const auto model = options.ok() ? engine::LoadModelWithCache(*options) : options.status();
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  const int64_t vocabulary = (*model)->info.vocabulary_size;
  SingleSequence sequence(model->get(), 0, (*model)->info.num_pages);

  std::ofstream logits_file, logprobs_file;
  const bool want_logits = !absl::GetFlag(FLAGS_logits).empty();
  const bool want_logprobs = !absl::GetFlag(FLAGS_logprobs).empty();
  if (want_logits) logits_file.open(absl::GetFlag(FLAGS_logits), std::ios::binary);
  if (want_logprobs) logprobs_file.open(absl::GetFlag(FLAGS_logprobs), std::ios::binary);
  const int64_t logits_from = absl::GetFlag(FLAGS_logits_from);
  int64_t from = num_tokens - 1;
  if (want_logits) from = std::min(from, logits_from);
  if (want_logprobs) from = 0;

  int32_t next = -1;
  const double began = Seconds();
  sequence.Append(*tokens, options->max_step_tokens, from, [&](int64_t position, float* logits) {
    if (want_logits && position >= logits_from) {
      logits_file.write(reinterpret_cast<const char*>(logits),
                        static_cast<std::streamsize>(vocabulary * sizeof(float)));
    }
    if (want_logprobs && position + 1 < num_tokens) {
      const int32_t target = (*tokens)[static_cast<size_t>(position + 1)];
      const auto logprob = static_cast<float>(logits[target] - LogSumExp(logits, vocabulary));
      logprobs_file.write(reinterpret_cast<const char*>(&logprob), sizeof(logprob));
    }
    if (position == num_tokens - 1) next = ArgMax(logits, vocabulary);
  });
  const double prefilled = Seconds();
  for (int32_t i = 0; i < generate; ++i) {
    std::printf("%d%c", next, i + 1 < generate ? ' ' : '\n');
    if (i + 1 < generate) next = sequence.Step(next);
  }
  std::fflush(stdout);
  std::fprintf(stderr,
               "{\"num_tokens\": %lld, \"prefill_s\": %.4f, \"decode_s\": %.4f, "
               "\"peak_rss_bytes\": %lld}\n",
               static_cast<long long>(num_tokens), prefilled - began, Seconds() - prefilled,
               static_cast<long long>(engine::PeakResidentBytes()));
  const bool written =
      (!want_logits || logits_file.flush()) && (!want_logprobs || logprobs_file.flush());
  if (!written) std::fprintf(stderr, "cannot write the results\n");
  return written ? 0 : 1;
}

}  // namespace
}  // namespace nsa::tools

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return nsa::tools::Run();
}

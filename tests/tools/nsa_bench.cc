// The engine without gRPC: prefill and decode speed at given contexts, per operator time and bytes,
// beside the machine's own read bandwidth measured in the same run. Operators of a device are timed
// in runs of their own, where each is waited for.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "engine/memory.h"
#include "nlohmann/json.hpp"
#include "tests/tools/profiling_backend.h"
#include "tests/tools/read_bandwidth.h"
#include "tests/tools/single_sequence.h"

ABSL_FLAG(std::string, context, "4096", "prompt lengths in tokens, separated by commas");
ABSL_FLAG(bool, json, false, "one JSON object a line and context");
ABSL_FLAG(int32_t, batch, 1, "sequences of that length, decoded together");
ABSL_FLAG(int32_t, decode_tokens, 32, "tokens decoded per sequence and round");
ABSL_FLAG(int32_t, decode_rounds, 1, "rounds of decoding after one prefill; the median counts");
ABSL_FLAG(std::string, kernel, "", "report this operator alone");

namespace nsa::tools {
namespace {

using Json = nlohmann::ordered_json;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<int32_t> RandomTokens(int64_t count, int32_t vocabulary, uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_int_distribution<int32_t> uniform(0, vocabulary - 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = uniform(generator);
  return tokens;
}

/// K and V bytes that one decode step's attention reads by branch, over layers and KV heads.
Json AttentionBytes(const engine::LoadedModel& model, int64_t position, int64_t batch) {
  const engine::AttentionPlan& plan = model.runner->plan();
  const engine::AttentionReads reads = plan.CountReads(position, model.info.num_selected_blocks);
  const kernels::PagedKv kv = model.cache->view(0);
  const int64_t heads = batch * model.info.num_layers * kv.num_kv_heads;
  const int64_t scale_bytes = kv.scale_offset >= 0 ? 2 * sizeof(float) : 0;
  const int64_t token_bytes =
      (kv.head_dim_k + kv.head_dim_v) * static_cast<int64_t>(kernels::SizeOf(kv.dtype)) +
      scale_bytes;
  Json bytes;
  if (plan.spec().sparse) {
    const engine::KvLayout& layout = model.cache->layout();
    bytes["score_topk"] = batch * model.info.num_layers * reads.cmp * layout.CmpSlotBytes() /
                          layout.cmp_rows_per_page;
    // A plan that joins both reads the window with the selected blocks.
    const bool joined = plan.num_branches() == 1;
    bytes["sel_attn"] = (reads.slc + (joined ? reads.win : 0)) * token_bytes * heads;
    bytes["win_attn"] = reads.win * token_bytes * heads;
    bytes["sparse_attn"] =
        bytes["score_topk"].get<int64_t>() + (reads.slc + reads.win) * token_bytes * heads;
  } else {
    bytes["full_attn"] = reads.win * token_bytes * heads;
  }
  return bytes;
}

Json OperatorTable(const ProfilingBackend& profiler, const Json& attention_bytes, double steps) {
  Json table;
  const std::string only = absl::GetFlag(FLAGS_kernel);
  for (const auto& [name, profile] : profiler.profiles()) {
    if (!only.empty() && name != only) continue;
    int64_t bytes = static_cast<int64_t>(static_cast<double>(profile.weight_bytes) / steps);
    if (attention_bytes.contains(name)) bytes = attention_bytes[name].get<int64_t>();
    const double seconds = profile.seconds / steps;
    table[name] = {{"calls_per_step", static_cast<double>(profile.num_calls) / steps},
                   {"seconds_per_step", seconds},
                   {"bytes_per_step", bytes},
                   {"gb_per_s", seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0.0}};
  }
  return table;
}

/// Sequences of one length, decoded together, and their next tokens.
struct Streams {
  std::vector<SingleSequence> sequences;
  std::vector<int32_t> next;

  int32_t batch() const { return static_cast<int32_t>(sequences.size()); }
};

Streams Prefill(engine::LoadedModel& model, int64_t context, int32_t batch, int64_t chunk) {
  Streams streams;
  streams.next.resize(static_cast<size_t>(batch));
  const int32_t vocabulary = model.info.vocabulary_size;
  const int32_t pages = model.info.num_pages / batch;
  for (int32_t b = 0; b < batch; ++b) {
    streams.sequences.emplace_back(&model, b * pages, pages);
    const auto prompt = RandomTokens(context, vocabulary, static_cast<uint64_t>(b) + 1);
    streams.sequences.back().Append(prompt, chunk, context - 1, [&](int64_t, float* logits) {
      streams.next[static_cast<size_t>(b)] = ArgMax(logits, vocabulary);
    });
  }
  return streams;
}

/// Greedy, by the operator that the server's sampler calls.
class Greedy final : public engine::ModelRunner::TokenChooser {
 public:
  explicit Greedy(std::vector<int32_t>* next) : next_(next) {}
  bool Ask(size_t, int64_t, int32_t, const float*, kernels::SampleParams& params) override {
    params.temperature = 0;
    return true;
  }
  void Take(size_t entry, int64_t, int32_t token_id) override { (*next_)[entry] = token_id; }

 private:
  std::vector<int32_t>* next_;
};

/// Decodes `num_tokens` of each and forgets them again.
void Decode(engine::LoadedModel& model, Streams& streams, int32_t num_tokens) {
  const std::vector<int32_t> first = streams.next;
  Greedy chooser(&streams.next);
  for (int32_t step = 0; step < num_tokens; ++step) {
    engine::Batch rows;
    rows.num_rows = streams.batch();
    for (size_t i = 0; i < streams.sequences.size(); ++i) {
      rows.entries.push_back(streams.sequences[i].EntryFor(std::span(&streams.next[i], 1), 1));
    }
    model.runner->Launch(rows, chooser);
    model.runner->Collect(chooser);
    for (SingleSequence& sequence : streams.sequences) sequence.Advance(1);
  }
  for (SingleSequence& sequence : streams.sequences) sequence.Advance(-num_tokens);
  streams.next = first;
}

/// What operators take in decode one by one, by runs of their own: those of sparse attention are
/// not called together then, and a device does nothing else while one is waited for. Of a device in
/// prefill too.
void ProfileOperators(engine::LoadedModel& model, ProfilingBackend& profiler, Streams& streams,
                      int64_t chunk, Json& result) {
  const int64_t context = result["context"].get<int64_t>();
  const int32_t decode_tokens = absl::GetFlag(FLAGS_decode_tokens);
  profiler.WaitForOperators(true);
  profiler.TakeApart(true);
  if (profiler.on_device()) {
    profiler.Reset();
    Prefill(model, context, 1, chunk);  // the first sequence again, in the pages that it has
    const int64_t num_chunks = (context + chunk - 1) / chunk;
    result["prefill_operators"] =
        OperatorTable(profiler, Json::object(), static_cast<double>(num_chunks));
  }
  profiler.Reset();
  Decode(model, streams, decode_tokens);
  result["decode_operators"] =
      OperatorTable(profiler, AttentionBytes(model, context + decode_tokens / 2, streams.batch()),
                    static_cast<double>(decode_tokens));
  profiler.WaitForOperators(false);
  profiler.TakeApart(false);
}

/// Prefills `batch` sequences of `context` tokens, then decodes them together.
Json Measure(engine::LoadedModel& model, ProfilingBackend& profiler, int64_t context, int32_t batch,
             int64_t chunk) {
  const int32_t decode_tokens = absl::GetFlag(FLAGS_decode_tokens);
  const int32_t num_rounds = absl::GetFlag(FLAGS_decode_rounds);
  Json result = {{"context", context}, {"batch", batch}};
  profiler.Reset();
  const double began = Seconds();
  Streams streams = Prefill(model, context, batch, chunk);
  result["prefill_tokens_per_s"] = static_cast<double>(context * batch) / (Seconds() - began);
  const int64_t num_chunks = (context + chunk - 1) / chunk;
  Json prefill_operators =
      OperatorTable(profiler, Json::object(), static_cast<double>(batch * num_chunks));
  profiler.Reset();
  std::vector<double> rounds;
  double decode_s = 0;
  for (int32_t round = 0; round < num_rounds; ++round) {
    const double round_began = Seconds();
    Decode(model, streams, decode_tokens);
    const double seconds = Seconds() - round_began;
    decode_s += seconds;
    rounds.push_back(static_cast<double>(decode_tokens) * batch / seconds);
  }
  result["decode_rounds_tokens_per_s"] = rounds;
  std::sort(rounds.begin(), rounds.end());
  result["decode_tokens_per_s"] = rounds[rounds.size() / 2];
  result["peak_rss_bytes"] = engine::PeakResidentBytes();
  if (!profiler.on_device()) {
    result["prefill_operators"] = std::move(prefill_operators);
    const double steps = static_cast<double>(decode_tokens) * num_rounds;
    double in_operators = 0;
    for (const auto& [name, profile] : profiler.profiles()) {
      if (!absl::StrContains(name, '.')) in_operators += profile.seconds;
    }
    result["decode_outside_operators"] = 1.0 - in_operators / decode_s;
    result["decode_together"] =
        OperatorTable(profiler, AttentionBytes(model, context + decode_tokens / 2, batch), steps);
  }
  ProfileOperators(model, profiler, streams, chunk, result);
  return result;
}

void PrintTable(const Json& result) {
  std::printf(
      "context %lld, batch %d: prefill %.1f tokens/s, decode %.1f tokens/s, peak %.2f GiB\n",
      result["context"].get<long long>(), result["batch"].get<int>(),
      result["prefill_tokens_per_s"].get<double>(), result["decode_tokens_per_s"].get<double>(),
      result["peak_rss_bytes"].get<double>() / (1 << 30));
  const auto print = [](const std::string& name, const Json& entry) {
    std::printf("  %-17s %8.3f ms a step  %6.2f GB/s\n", name.c_str(),
                entry["seconds_per_step"].get<double>() * 1e3, entry["gb_per_s"].get<double>());
  };
  for (const auto& [name, entry] : result["decode_operators"].items()) print(name, entry);
  const Json none = Json::object();
  const Json& together = result.contains("decode_together") ? result["decode_together"] : none;
  for (const auto& [name, entry] : together.items()) {
    if (absl::StartsWith(name, "sparse_attn")) print(name, entry);
  }
  std::fflush(stdout);
}

int Run() {
  std::vector<int64_t> contexts;
  int64_t longest = 0;
  for (const auto& word : absl::StrSplit(absl::GetFlag(FLAGS_context), ',')) {
    int64_t context = 0;
    if (!absl::SimpleAtoi(word, &context) || context < 1) {
      std::fprintf(stderr, "--context: '%s' is no positive number\n", std::string(word).c_str());
      return 2;
    }
    contexts.push_back(context);
    longest = std::max(longest, context);
  }
  const int32_t batch = absl::GetFlag(FLAGS_batch);
  if (batch < 1 || batch > 256) {
    std::fprintf(stderr, "--batch is %d, expected 1 to 256\n", batch);
    return 2;
  }
  if (absl::GetFlag(FLAGS_decode_rounds) < 1 || absl::GetFlag(FLAGS_decode_tokens) < 1) {
    std::fprintf(stderr, "--decode_rounds and --decode_tokens must be at least 1\n");
    return 2;
  }
  auto options = OptionsFromFlags(longest + absl::GetFlag(FLAGS_decode_tokens) + 1, batch);
  if (!options.ok()) {
    std::fprintf(stderr, "%s\n", std::string(options.status().message()).c_str());
    return 2;
  }
  const int threads = options->num_threads > 0 ? options->num_threads : engine::NumUsableCores();
  const double bandwidth = ReadBandwidthFromChild(threads);
  ProfilingBackend* profiler = nullptr;
  options->wrap_backend = [&](std::unique_ptr<kernels::Backend> inner) {
    auto wrapped = std::make_unique<ProfilingBackend>(std::move(inner));
    profiler = wrapped.get();
    return wrapped;
  };
  const auto model = engine::LoadModelWithCache(*options);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  for (const int64_t context : contexts) {
    Json result = Measure(**model, *profiler, context, batch, options->max_step_tokens);
    result["attention"] = (*model)->info.attention;
    result["num_threads"] = threads;
    result["read_bandwidth_gb_s"] = bandwidth;
    if (absl::GetFlag(FLAGS_json)) {
      std::cout << result.dump() << std::endl;
    } else {
      PrintTable(result);
    }
  }
  return 0;
}

}  // namespace
}  // namespace nsa::tools

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return nsa::tools::Run();
}

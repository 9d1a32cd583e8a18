#include "tests/tools/single_sequence.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/flag_words.h"
#include "kernels/tensor.h"

ABSL_FLAG(std::string, model, "", "path of a GGUF file or of a folder");
ABSL_FLAG(std::string, device, "cpu", "auto, cpu or cuda");
ABSL_FLAG(std::string, weight_dtype, "auto", "auto, bf16, q8_0 or q4_0");
ABSL_FLAG(std::string, attention, "auto", "auto, nsa or full");
ABSL_FLAG(int32_t, num_selected_blocks, 0, "n; 0: the model's own");
ABSL_FLAG(std::string, kv_cache_dtype, "f16", "f16, bf16, int8, fp8 or f32");
ABSL_FLAG(std::string, attention_precision, "auto", "auto, float32 or 16bit");
ABSL_FLAG(int64_t, max_step_tokens, 512, "longest prefill chunk");
ABSL_FLAG(int32_t, num_threads, 0, "0: all usable cores");

namespace nsa::tools {

SingleSequence::SingleSequence(engine::LoadedModel* model, int32_t first_page, int32_t num_pages)
    : model_(model), pages_(static_cast<size_t>(num_pages)) {
  std::iota(pages_.begin(), pages_.end(), first_page);
}

engine::BatchEntry SingleSequence::EntryFor(std::span<const int32_t> tokens,
                                            int32_t num_logit_rows) const {
  engine::BatchEntry entry;
  entry.tokens = tokens;
  entry.num_cached = num_tokens_;
  entry.page_table = pages_;
  entry.num_selected_blocks = model_->info.num_selected_blocks;
  entry.num_logit_rows = num_logit_rows;
  return entry;
}

void SingleSequence::Append(const std::vector<int32_t>& tokens, int64_t chunk, int64_t logits_from,
                            const LogitsConsumer& consumer) {
  const std::span<const int32_t> all(tokens);
  const auto total = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < total; begin += chunk) {
    const int64_t size = std::min(chunk, total - begin);
    const int64_t first = num_tokens_;
    const int64_t wanted = std::clamp<int64_t>(first + size - logits_from, 0, size);
    engine::Batch batch;
    batch.num_rows = size;
    batch.entries.push_back(
        EntryFor(all.subspan(static_cast<size_t>(begin), static_cast<size_t>(size)),
                 static_cast<int32_t>(wanted)));
    std::vector<float> host(static_cast<size_t>(model_->model->config.vocabulary_size));
    model_->runner->Run(batch, [&](size_t, int64_t row, const float* logits) {
      model_->backend->Read(host.data(), logits, static_cast<int64_t>(host.size() * sizeof(float)));
      consumer(first + row, host.data());
    });
    num_tokens_ += size;
  }
}

int32_t SingleSequence::Step(int32_t token) {
  int32_t best = -1;
  Append({token}, 1, num_tokens_,
         [&](int64_t, float* logits) { best = ArgMax(logits, model_->info.vocabulary_size); });
  return best;
}

absl::StatusOr<engine::EngineOptions> OptionsFromFlags(int64_t max_context, int num_sequences) {
  engine::EngineOptions options;
  options.model_path = absl::GetFlag(FLAGS_model);
  using engine::ReadFlagWord;
  absl::Status status = ReadFlagWord("attention", absl::GetFlag(FLAGS_attention),
                                     engine::kAttentionNames, options.attention);
  status.Update(
      ReadFlagWord("device", absl::GetFlag(FLAGS_device), engine::kDeviceNames, options.device));
  status.Update(ReadFlagWord("kv_cache_dtype", absl::GetFlag(FLAGS_kv_cache_dtype),
                             engine::kKvCacheDtypeNames, options.kv_cache_dtype));
  status.Update(ReadFlagWord("weight_dtype", absl::GetFlag(FLAGS_weight_dtype),
                             engine::kWeightDtypeNames, options.weight_dtype));
  status.Update(ReadFlagWord("attention_precision", absl::GetFlag(FLAGS_attention_precision),
                             engine::kPrecisionNames, options.attention_precision));
  if (!status.ok()) return status;
  options.num_selected_blocks = absl::GetFlag(FLAGS_num_selected_blocks);
  options.max_step_tokens = absl::GetFlag(FLAGS_max_step_tokens);
  options.num_threads = absl::GetFlag(FLAGS_num_threads);
  options.max_context = max_context;
  options.max_running_requests = num_sequences;
  return options;
}

absl::StatusOr<std::vector<int32_t>> ReadTokens(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::vector<int32_t> tokens;
  for (int32_t id; file.read(reinterpret_cast<char*>(&id), sizeof(id));) tokens.push_back(id);
  if (tokens.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " holds no tokens"));
  return tokens;
}

int32_t ArgMax(const float* logits, int64_t size) {
  return static_cast<int32_t>(std::max_element(logits, logits + size) - logits);
}

}  // namespace nsa::tools

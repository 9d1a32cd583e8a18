#include "engine/loaded_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/log.h"
#include "engine/memory.h"
#include "engine/models/registry.h"

namespace nsa::engine {
namespace {

using kernels::kPageSize;

// Training-free NSA keeps distances inside the trained length, so the context can go beyond it.
constexpr int64_t kTrainingFreeStretch = 8;

/// What will be built, known before any weight is touched.
struct Sizing {
  ModelConfig config;
  AttentionSpec spec;
  std::string attention_source;
  int64_t max_context = 0;
  ModelRunner::Options runner;
  KvLayout layout;
  int32_t num_pages = 0;
};

std::string Gib(int64_t bytes) { return absl::StrFormat("%.2f GiB", std::ldexp(bytes, -30)); }

absl::Status DecideAttention(const EngineOptions& options, Sizing& sizing) {
  const int64_t trained = sizing.config.trained_context;
  const bool full = options.attention == AttentionFlag::kFull;
  sizing.spec = full ? FullAttentionSpec() : TrainingFreeSpec(trained);
  sizing.attention_source = options.attention == AttentionFlag::kAuto ? "default" : "flag";
  if (options.num_selected_blocks != 0) {
    const int32_t most = MaxSelectedBlocks(sizing.spec, trained);
    if (full) {
      return absl::InvalidArgumentError(
          "--num_selected_blocks has no meaning with --attention=full");
    }
    if (options.num_selected_blocks < 1 || options.num_selected_blocks > most) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "--num_selected_blocks is %d, expected 1 to %d for a model trained on %d tokens",
          options.num_selected_blocks, most, trained));
    }
    sizing.spec.num_selected_blocks = options.num_selected_blocks;
    sizing.attention_source = "flag";
  }
  sizing.max_context = full ? trained : trained * kTrainingFreeStretch;
  if (options.max_context == 0) return absl::OkStatus();
  if (options.max_context < 1 || (full && options.max_context > trained)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--max_context is %d, expected 1 to %d%s", options.max_context,
        full ? trained : int64_t{1} << 30,
        full ? ", the trained length (full attention has no positions beyond it)" : ""));
  }
  sizing.max_context = options.max_context;
  return absl::OkStatus();
}

kernels::DType ElementType(KvCacheDtype dtype) {
  switch (dtype) {
    case KvCacheDtype::kF16:
      return kernels::DType::kF16;
    case KvCacheDtype::kBF16:
      return kernels::DType::kBF16;
    case KvCacheDtype::kInt8:
      return kernels::DType::kInt8;
  }
  return kernels::DType::kF16;
}

/// Pages of the pool: what --kv_cache_gib says, or what memory allows up to all that could run.
absl::Status DecidePool(const EngineOptions& options, int64_t weight_bytes, Sizing& sizing) {
  const int64_t page_bytes = sizing.layout.PageBytes();
  const int64_t workspace = ModelRunner::WorkspaceBytes(sizing.config, sizing.runner);
  const int64_t available = AvailableMemoryBytes();
  const int64_t context_pages = (sizing.max_context + kPageSize - 1) / kPageSize;
  int64_t pool_bytes = 0;
  if (options.kv_cache_gib != 0) {
    if (!(options.kv_cache_gib > 0) || options.kv_cache_gib > 1e6) {
      return absl::InvalidArgumentError(absl::StrCat("--kv_cache_gib is ", options.kv_cache_gib,
                                                     ", expected above 0 and at most 1e6"));
    }
    pool_bytes = static_cast<int64_t>(std::ldexp(options.kv_cache_gib, 30));
    if (weight_bytes + workspace + pool_bytes > available) {
      return absl::ResourceExhaustedError(
          absl::StrCat("not enough memory: weights ", Gib(weight_bytes), " + workspace ",
                       Gib(workspace), " + --kv_cache_gib ", Gib(pool_bytes), " > available ",
                       Gib(available), "; lower --kv_cache_gib"));
    }
  } else {
    // A tenth stays free: the tokenizer, the network and the rest of the machine live there.
    const int64_t room = available - available / 10 - weight_bytes - workspace;
    pool_bytes = std::min(room, page_bytes * context_pages * options.max_running_requests);
  }
  const int64_t num_pages = std::min<int64_t>(pool_bytes / page_bytes, INT32_MAX / 2);
  if (num_pages < 1) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "not enough memory for one page of KV cache (", page_bytes, " bytes): weights ",
        Gib(weight_bytes), " + workspace ", Gib(workspace), ", available ", Gib(available)));
  }
  if (num_pages < context_pages) {
    if (options.max_context != 0) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "the KV cache holds %d tokens (%s), fewer than --max_context %d; one context needs %s",
          num_pages * kPageSize, Gib(num_pages * page_bytes), sizing.max_context,
          Gib(context_pages * page_bytes)));
    }
    sizing.max_context = num_pages * kPageSize;
  }
  sizing.num_pages = static_cast<int32_t>(num_pages);
  return absl::OkStatus();
}

ModelInfo Describe(const EngineOptions& options, const LoadedModel& loaded, const Sizing& sizing) {
  const ModelConfig& config = sizing.config;
  ModelInfo info;
  info.name = config.name;
  info.path = loaded.file->path();
  info.family = config.family;
  info.architecture = config.architecture;
  info.weight_type = config.weight_type;
  info.kv_cache_dtype = kKvCacheDtypeNames[static_cast<size_t>(options.kv_cache_dtype)];
  info.tokenizer_kind = loaded.tokenizer->kind();
  info.attention = Describe(sizing.spec);
  info.attention_source = sizing.attention_source;
  info.backend = loaded.backend->Description();
  info.num_parameters = config.num_parameters;
  info.weight_bytes = loaded.model->packed_bytes;
  info.kv_pool_bytes = sizing.layout.PageBytes() * sizing.num_pages;
  info.num_pages = sizing.num_pages;
  info.max_context = sizing.max_context;
  info.trained_context = config.trained_context;
  info.num_layers = config.num_layers;
  info.num_q_heads = config.attention.num_q_heads;
  info.num_kv_heads = config.attention.num_kv_heads;
  info.head_dim = config.attention.head_dim_k;
  info.hidden_size = config.hidden_size;
  info.vocabulary_size = loaded.tokenizer->vocabulary_size();
  if (sizing.spec.sparse) {
    info.num_selected_blocks = sizing.spec.num_selected_blocks;
    info.window_size = sizing.spec.window_size;
  }
  return info;
}

absl::Status LoadText(LoadedModel& loaded, const ModelConfig& config) {
  auto tokenizer = LoadTokenizer(*loaded.file);
  if (!tokenizer.ok()) return tokenizer.status();
  loaded.tokenizer = *std::move(tokenizer);
  if (loaded.tokenizer->vocabulary_size() > config.vocabulary_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the tokenizer has %d tokens, the embedding only %d rows", loaded.file->path(),
        loaded.tokenizer->vocabulary_size(), config.vocabulary_size));
  }
  if (loaded.file->FindValue("tokenizer.chat_template") == nullptr) return absl::OkStatus();
  const auto source = loaded.file->GetString("tokenizer.chat_template");
  if (!source.ok()) return source.status();
  const auto token = [&](const char* key) {
    const auto id = loaded.file->GetInt(key);
    const bool known = id.ok() && *id >= 0 && *id < loaded.tokenizer->vocabulary_size();
    return known ? loaded.tokenizer->TokenBytes(static_cast<int32_t>(*id)) : std::string();
  };
  auto chat_template = ChatTemplate::Parse(*source, token("tokenizer.ggml.bos_token_id"),
                                           token("tokenizer.ggml.eos_token_id"));
  if (chat_template.ok()) {
    loaded.chat_template = *std::move(chat_template);
  } else {
    // The model still completes text; chat requests are told that there is no template.
    LOG(WARNING) << "chat template not usable: " << chat_template.status().message();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModelWithCache(const EngineOptions& options) {
  auto loaded = std::make_unique<LoadedModel>();
  auto file = GgufFile::Open(options.model_path);
  if (!file.ok()) return file.status();
  loaded->file = *std::move(file);
  Sizing sizing;
  auto config = ReadModelConfig(*loaded->file);
  if (!config.ok()) return config.status();
  sizing.config = *std::move(config);
  if (absl::Status status = LoadText(*loaded, sizing.config); !status.ok()) return status;
  if (absl::Status status = DecideAttention(options, sizing); !status.ok()) return status;
  sizing.runner = {
      .spec = sizing.spec, .max_rows = options.max_step_tokens, .max_context = sizing.max_context};
  sizing.layout = KvLayout::For(sizing.spec, sizing.config.attention, sizing.config.num_layers,
                                ElementType(options.kv_cache_dtype));
  // Packed weights are at most a quarter larger than the file's (float32 scales of K-quants).
  const int64_t weight_bytes = loaded->file->file_bytes() / 4 * 5;
  if (absl::Status status = DecidePool(options, weight_bytes, sizing); !status.ok()) return status;
  sizing.runner.max_context = sizing.max_context;

  const int num_threads = options.num_threads > 0 ? options.num_threads : NumUsableCores();
  loaded->backend = kernels::MakeCpuBackend(num_threads);
  if (options.wrap_backend) loaded->backend = options.wrap_backend(std::move(loaded->backend));
  auto model = LoadModel(*loaded->file, *loaded->backend, options.on_load_progress);
  if (!model.ok()) return model.status();
  loaded->model = *std::move(model);
  auto cache = KvCache::Create(sizing.layout, sizing.num_pages);
  if (!cache.ok()) return cache.status();
  loaded->cache = *std::move(cache);
  auto runner = ModelRunner::Create(loaded->model.get(), loaded->backend.get(), loaded->cache.get(),
                                    sizing.runner);
  if (!runner.ok()) return runner.status();
  loaded->runner = *std::move(runner);
  loaded->info = Describe(options, *loaded, sizing);
  return loaded;
}

}  // namespace nsa::engine

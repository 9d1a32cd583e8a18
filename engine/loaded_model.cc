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
#include "engine/tokenizer/folder_text.h"

namespace nsa::engine {
namespace {

using kernels::kPageSize;

// Training-free NSA keeps distances inside the trained length, so the context can go beyond it.
constexpr int64_t kTrainingFreeStretch = 8;

absl::Status CheckOptions(const EngineOptions& options) {
  if (options.max_step_tokens < 1 || options.max_step_tokens > (1 << 16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_step_tokens is ", options.max_step_tokens, ", expected 1 to 65536"));
  }
  if (options.max_running_requests < 1 || options.max_queued_requests < 1) {
    return absl::InvalidArgumentError(
        "max_running_requests and max_queued_requests must be at least 1");
  }
  return absl::OkStatus();
}

/// What will be built, known before any weight is touched.
struct Sizing {
  ModelConfig config;
  AttentionSpec spec;
  std::string attention_source;
  int64_t max_context = 0;
  ModelRunner::Options runner;
  KvLayout layout;
  int32_t num_pages = 0;   // in memory
  int32_t num_blocks = 0;  // of the tier below
  Residency residency;     // of sequences that run with pages there
};

std::string Gib(int64_t bytes) { return absl::StrFormat("%.2f GiB", std::ldexp(bytes, -30)); }

/// Layers with a window keep it whatever is asked for.
bool HasFullLayers(const ModelConfig& config) {
  return std::ranges::any_of(config.layers,
                             [](const LayerAttention& layer) { return layer.window_size == 0; });
}

absl::Status ChooseSpec(const EngineOptions& options, Sizing& sizing) {
  const ModelConfig& config = sizing.config;
  const AttentionFlag flag = options.attention;
  sizing.attention_source = flag == AttentionFlag::kAuto ? "default" : "flag";
  if (config.native_attention.has_value()) {
    if (flag == AttentionFlag::kFull &&
        config.native_attention->combination == Combination::kGates) {
      return absl::InvalidArgumentError(
          "--attention=full: the checkpoint was trained with gated branches and has no full "
          "attention");
    }
    if (flag != AttentionFlag::kFull) {
      sizing.spec = *config.native_attention;
      sizing.attention_source = "checkpoint";
      return absl::OkStatus();
    }
  } else if (!HasFullLayers(config)) {
    if (flag == AttentionFlag::kNsa) {
      return absl::InvalidArgumentError(
          "--attention=nsa: every layer of the checkpoint has a window; there is nothing to select "
          "from");
    }
    sizing.attention_source = "checkpoint";
    sizing.spec = FullAttentionSpec();
    return absl::OkStatus();
  }
  sizing.spec =
      flag == AttentionFlag::kFull ? FullAttentionSpec() : TrainingFreeSpec(config.trained_context);
  return absl::OkStatus();
}

absl::Status DecideBlocks(const EngineOptions& options, Sizing& sizing) {
  if (options.num_selected_blocks == 0) return absl::OkStatus();
  if (!sizing.spec.sparse) {
    return absl::InvalidArgumentError("--num_selected_blocks has no meaning with full attention");
  }
  const int64_t trained = sizing.config.trained_context;
  const int32_t most = MaxSelectedBlocks(sizing.spec, trained);
  const int32_t least = std::max(1, sizing.spec.num_initial_blocks + sizing.spec.num_local_blocks);
  if (options.num_selected_blocks < least || options.num_selected_blocks > most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--num_selected_blocks is %d, expected %d to %d for a model trained on %d tokens",
        options.num_selected_blocks, least, most, trained));
  }
  sizing.spec.num_selected_blocks = options.num_selected_blocks;
  sizing.attention_source = "flag";
  return absl::OkStatus();
}

absl::Status DecideAttention(const EngineOptions& options, Sizing& sizing) {
  if (absl::Status status = ChooseSpec(options, sizing); !status.ok()) return status;
  if (absl::Status status = DecideBlocks(options, sizing); !status.ok()) return status;
  const int64_t trained = sizing.config.trained_context;
  // Only limited distances reach beyond what was trained.
  const bool stretches = sizing.spec.sparse && sizing.spec.max_page_distance >= 0;
  sizing.max_context = stretches ? trained * kTrainingFreeStretch : trained;
  if (options.max_context == 0) return absl::OkStatus();
  if (options.max_context < 1 || (!stretches && options.max_context > trained)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--max_context is %d, expected 1 to %d%s", options.max_context,
        stretches ? int64_t{1} << 30 : trained,
        stretches ? "" : ", the trained length (this attention has no positions beyond it)"));
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
    case KvCacheDtype::kF8:
      return kernels::DType::kF8E4M3;
    case KvCacheDtype::kF32:
      return kernels::DType::kF32;
  }
  return kernels::DType::kF16;
}

/// A GPU's pages go to memory of the host, the host's to a file.
absl::Status CheckSpill(const EngineOptions& options, const kernels::Backend& backend) {
  const bool has_device = backend.free_bytes().has_value();
  if (has_device && !options.kv_spill_dir.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv_spill_dir is '", options.kv_spill_dir,
                     "': a GPU's pages go to memory of the host, for which --kv_spill_gib stands "
                     "alone; leave --kv_spill_dir out"));
  }
  const bool has_size = options.kv_spill_gib > 0 && options.kv_spill_gib <= 1e6;
  if (!has_size || options.kv_spill_dir.empty() != has_device) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv_spill_dir is '", options.kv_spill_dir, "' and --kv_spill_gib ",
                     options.kv_spill_gib, ", expected ", has_device ? "" : "a folder and ",
                     "a size above 0 and at most 1e6, or ", has_device ? "none" : "neither"));
  }
  if (!has_device) return absl::OkStatus();
  const int64_t available = AvailableMemoryBytes();
  if (std::ldexp(options.kv_spill_gib, 30) > static_cast<double>(available)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory of the host: --kv_spill_gib ", options.kv_spill_gib,
                     " GiB > available ", Gib(available), "; lower --kv_spill_gib"));
  }
  return absl::OkStatus();
}

/// Pages that the tier below takes.
absl::Status DecideSpill(const EngineOptions& options, const kernels::Backend& backend,
                         Sizing& sizing) {
  if (options.kv_spill_dir.empty() && options.kv_spill_gib == 0) return absl::OkStatus();
  if (absl::Status status = CheckSpill(options, backend); !status.ok()) return status;
  sizing.layout.has_places = backend.free_bytes().has_value();
  const double num_blocks =
      std::ldexp(options.kv_spill_gib, 30) / static_cast<double>(sizing.layout.SlotsBytes());
  sizing.num_blocks = static_cast<int32_t>(std::min<double>(num_blocks, INT32_MAX / 4));
  const ModelConfig& config = sizing.config;
  int64_t window = 0;
  for (const LayerAttention& layer : config.layers) window = std::max(window, layer.window_size);
  sizing.residency =
      Residency::Of(sizing.spec, window, config.num_layers, config.attention.num_kv_heads);
  if (sizing.residency.enabled()) {
    sizing.runner.kept_rows = options.max_running_requests + options.max_step_tokens;
  }
  if (sizing.num_blocks > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--kv_spill_gib is ", options.kv_spill_gib,
                                                 ", less than one page (",
                                                 sizing.layout.SlotsBytes(), " bytes)"));
}

/// Pages of the longest context, where memory has `num_pages`; without what one sequence needs of
/// that, its pages must all be there.
int64_t LimitContext(int64_t num_pages, Sizing& sizing) {
  const int32_t blocks = sizing.spec.num_selected_blocks;
  Residency& residency = sizing.residency;
  if (residency.enabled() && residency.LeastFrames(blocks) > num_pages) residency = {};
  if (!residency.enabled()) return num_pages;
  return std::max(num_pages, num_pages + sizing.num_blocks - residency.RowFrames(blocks) - 1);
}

/// Pages of the pool: what --kv_cache_gib says, or what memory allows up to all that could run.
absl::Status DecidePool(const EngineOptions& options, const kernels::Backend& backend,
                        int64_t weight_bytes, Sizing& sizing) {
  const auto bytes_of = [&](int64_t num_pages) {
    return KvCache::NumBytes(sizing.layout, num_pages, sizing.num_blocks);
  };
  const int64_t fixed_bytes = bytes_of(0);  // compressed rows of pages in the tier below
  const int64_t page_bytes = bytes_of(1) - fixed_bytes;
  const int64_t workspace = ModelRunner::WorkspaceBytes(sizing.config, sizing.runner);
  const int64_t available = backend.free_bytes().value_or(AvailableMemoryBytes());
  const int64_t context_pages = PagesFor(sizing.max_context);
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
    pool_bytes =
        std::min(room, fixed_bytes + page_bytes * context_pages * options.max_running_requests);
  }
  const int64_t num_pages =
      std::min<int64_t>((pool_bytes - fixed_bytes) / page_bytes, INT32_MAX / 4);
  if (num_pages < 1) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "not enough memory for one page of KV cache (", page_bytes, " bytes): weights ",
        Gib(weight_bytes), " + workspace ", Gib(workspace), " + compressed rows of the tier below ",
        Gib(fixed_bytes), ", available ", Gib(available)));
  }
  if (const int64_t most = LimitContext(num_pages, sizing); most < context_pages) {
    if (options.max_context != 0) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "the KV cache holds %d tokens (%s), fewer than --max_context %d; one context needs %s",
          most * kPageSize, Gib(num_pages * page_bytes), sizing.max_context,
          Gib(bytes_of(context_pages))));
    }
    sizing.max_context = most * kPageSize;
  }
  sizing.num_pages = static_cast<int32_t>(num_pages);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<kernels::Backend>> OpenBackend(const EngineOptions& options) {
  std::unique_ptr<kernels::Backend> backend;
  if (options.device != Device::kCpu) {
    kernels::CudaDevice device = kernels::OpenCudaDevice();
    if (device.backend == nullptr && options.device == Device::kCuda) {
      return absl::FailedPreconditionError(absl::StrCat("--device=cuda: ", device.error));
    }
    backend = std::move(device.backend);
  }
  if (backend == nullptr) {
    backend =
        kernels::MakeCpuBackend(options.num_threads > 0 ? options.num_threads : NumUsableCores());
  }
  return options.wrap_backend ? options.wrap_backend(std::move(backend)) : std::move(backend);
}

ModelInfo Describe(const EngineOptions& options, const LoadedModel& loaded, const Sizing& sizing) {
  const ModelConfig& config = sizing.config;
  ModelInfo info;
  info.name = config.name;
  info.path = loaded.checkpoint->path();
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
  info.kv_pool_bytes = KvCache::NumBytes(sizing.layout, sizing.num_pages, sizing.num_blocks);
  info.num_pages = sizing.num_pages;
  info.num_spilled_pages = sizing.num_blocks;
  info.residency = sizing.residency;
  info.max_context = sizing.max_context;
  info.trained_context = config.trained_context;
  info.num_layers = config.num_layers;
  info.num_q_heads = config.attention.num_q_heads;
  info.num_kv_heads = config.attention.num_kv_heads;
  info.head_dim = config.attention.head_dim_k;
  info.hidden_size = config.hidden_size;
  info.vocabulary_size = loaded.tokenizer->vocabulary_size();
  info.has_full_attention = !sizing.spec.sparse || sizing.spec.combination != Combination::kGates;
  if (sizing.spec.sparse) {
    info.num_selected_blocks = sizing.spec.num_selected_blocks;
    info.window_size = sizing.spec.window_size;
  }
  return info;
}

/// The text side of a GGUF file, in the form that a folder's has.
absl::StatusOr<FolderText> LoadGgufText(const GgufFile& file) {
  FolderText text;
  auto tokenizer = LoadTokenizer(file);
  if (!tokenizer.ok()) return tokenizer.status();
  text.tokenizer = *std::move(tokenizer);
  const auto token = [&](const char* key) {
    const auto id = file.GetInt(key);
    const bool known = id.ok() && *id >= 0 && *id < text.tokenizer->vocabulary_size();
    return known ? text.tokenizer->TokenBytes(static_cast<int32_t>(*id)) : std::string();
  };
  text.bos_token = token("tokenizer.ggml.bos_token_id");
  text.eos_token = token("tokenizer.ggml.eos_token_id");
  if (!file.Has("tokenizer.chat_template")) return text;
  const auto source = file.GetString("tokenizer.chat_template");
  if (!source.ok()) return source.status();
  text.chat_template = std::string(*source);
  return text;
}

absl::Status LoadText(LoadedModel& loaded, const ModelConfig& config) {
  const Checkpoint& checkpoint = *loaded.checkpoint;
  auto text = checkpoint.gguf() != nullptr
                  ? LoadGgufText(*checkpoint.gguf())
                  : LoadFolderText(*checkpoint.folder(), config.vocabulary_size);
  if (!text.ok()) return text.status();
  loaded.tokenizer = std::move(text->tokenizer);
  if (loaded.tokenizer->vocabulary_size() > config.vocabulary_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the tokenizer has %d tokens, the embedding only %d rows", checkpoint.path(),
        loaded.tokenizer->vocabulary_size(), config.vocabulary_size));
  }
  if (!text->chat_template.has_value()) return absl::OkStatus();
  auto chat_template = ChatTemplate::Parse(*text->chat_template, text->bos_token, text->eos_token);
  if (chat_template.ok()) {
    loaded.chat_template = *std::move(chat_template);
  } else {
    // The model still completes text; chat requests are told that there is no template.
    LOG(WARNING) << "chat template not usable: " << chat_template.status().message();
  }
  return absl::OkStatus();
}

/// Bytes of the packed weights: at most a quarter more than the file's (float32 scales of
/// K-quants), less where they are rounded on the way.
int64_t EstimateWeightBytes(const Checkpoint& checkpoint, WeightDtype dtype) {
  const int64_t as_it_is = checkpoint.file_bytes() / 4 * 5;
  if (dtype == WeightDtype::kAuto) return as_it_is;
  int64_t num_bytes = 0;
  for (const WeightTensor& tensor : checkpoint.weights().tensors()) {
    const kernels::WeightBlock* block = kernels::FindWeightBlock(tensor.type);
    if (block == nullptr) continue;
    const int64_t elements = tensor.num_bytes / block->num_bytes * block->num_elements;
    const int64_t bytes_per_32 = dtype == WeightDtype::kBF16   ? 64
                                 : dtype == WeightDtype::kQ8_0 ? 36
                                                               : 20;
    // What is quantised already stays.
    num_bytes += block->num_elements > 1 ? tensor.num_bytes : elements / 32 * bytes_per_32;
  }
  return std::min(as_it_is, num_bytes / 4 * 5);
}

}  // namespace

kernels::AttentionPrecision PrecisionOf(PrecisionFlag flag, std::string_view weight_type) {
  const bool is_float32 =
      flag == PrecisionFlag::kFloat32 || (flag == PrecisionFlag::kAuto && weight_type == "F32");
  return is_float32 ? kernels::AttentionPrecision::kFloat32
                    : kernels::AttentionPrecision::kSixteenBits;
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModelWithCache(const EngineOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  auto loaded = std::make_unique<LoadedModel>();
  auto checkpoint = Checkpoint::Open(options.model_path);
  if (!checkpoint.ok()) return checkpoint.status();
  loaded->checkpoint = *std::move(checkpoint);
  Sizing sizing;
  auto description = DescribeModel(*loaded->checkpoint);
  if (!description.ok()) return description.status();
  sizing.config = std::move(description->config);
  if (absl::Status status = LoadText(*loaded, sizing.config); !status.ok()) return status;
  if (absl::Status status = DecideAttention(options, sizing); !status.ok()) return status;
  sizing.runner = {
      .spec = sizing.spec,
      .max_rows = options.max_step_tokens,
      .max_context = sizing.max_context,
      .precision = PrecisionOf(options.attention_precision, sizing.config.weight_type)};
  sizing.layout = KvLayout::For(sizing.spec, sizing.config.attention, sizing.config.num_layers,
                                ElementType(options.kv_cache_dtype));
  auto backend = OpenBackend(options);
  if (!backend.ok()) return backend.status();
  loaded->backend = *std::move(backend);
  const int64_t weight_bytes = EstimateWeightBytes(*loaded->checkpoint, options.weight_dtype);
  if (absl::Status status = DecideSpill(options, *loaded->backend, sizing); !status.ok()) {
    return status;
  }
  if (absl::Status status = DecidePool(options, *loaded->backend, weight_bytes, sizing);
      !status.ok()) {
    return status;
  }
  sizing.runner.max_context = sizing.max_context;

  auto model = LoadDecoder(loaded->checkpoint->weights(), sizing.config, description->names,
                           options.weight_dtype, *loaded->backend, options.on_load_progress);
  if (!model.ok()) return model.status();
  loaded->model = *std::move(model);
  auto cache =
      KvCache::Create(*loaded->backend, sizing.layout, sizing.num_pages, sizing.num_blocks);
  if (!cache.ok()) return cache.status();
  loaded->cache = *std::move(cache);
  auto runner = ModelRunner::Create(loaded->model.get(), loaded->backend.get(), loaded->cache.get(),
                                    sizing.runner);
  if (!runner.ok()) return runner.status();
  loaded->runner = *std::move(runner);
  loaded->info = Describe(options, *loaded, sizing);
  return loaded;
}

void LogSummary(const ModelInfo& info) {
  LOG(INFO) << "model " << info.name << " (" << info.family << ", " << info.weight_type << ", "
            << info.num_parameters << " parameters), attention " << info.attention << " ("
            << info.attention_source << "), context " << info.max_context << " tokens, KV pool "
            << info.num_pages << " pages (" << info.kv_pool_bytes << " bytes), " << info.backend;
}

}  // namespace nsa::engine

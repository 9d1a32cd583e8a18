#ifndef NSA_ENGINE_LOADED_MODEL_H_
#define NSA_ENGINE_LOADED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/kv_cache.h"
#include "engine/model_runner.h"
#include "engine/models/model.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/weights/checkpoint.h"
#include "kernels/backend.h"

namespace nsa::engine {

/// A checkpoint ready to run: files, tokenizer, weights, cache and runner, without requests and
/// threads. The engine stands on it, and so do the benches. Members in order of construction.
struct LoadedModel {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the checkpoint has none
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Model> model;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<ModelRunner> runner;
  ModelInfo info;
};

/// Decides attention and sizes from the file and the options, checks memory, then packs the
/// weights. Errors: those of the reader, the tokenizer and the family; InvalidArgument where
/// options contradict the checkpoint; ResourceExhausted, before loading, where memory does not
/// suffice.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModelWithCache(const EngineOptions& options);

/// What attention may round for a checkpoint most of whose weights have the type "F32", "Q4_1", ….
kernels::AttentionPrecision PrecisionOf(PrecisionFlag flag, std::string_view weight_type);

/// What was loaded, in a line of the log.
void LogSummary(const ModelInfo& info);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_LOADED_MODEL_H_

#ifndef NSA_ENGINE_ENGINE_H_
#define NSA_ENGINE_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/cache_events.h"
#include "engine/grammar/grammar.h"
#include "engine/metrics.h"
#include "engine/models/weight_dtype.h"
#include "engine/request.h"
#include "engine/residency.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/tokenizer_export.h"
#include "kernels/backend.h"

namespace nsa::engine {

enum class AttentionFlag : uint8_t { kAuto, kNsa, kFull };
inline constexpr std::string_view kAttentionNames[] = {"auto", "nsa", "full"};

/// What K and V are kept as; kInt8 with a scale for each token and head, kF8 as E4M3 without one.
enum class KvCacheDtype : uint8_t { kF16, kBF16, kInt8, kF8, kF32 };
/// The enumerators as flags and clients know them.
inline constexpr std::string_view kKvCacheDtypeNames[] = {"f16", "bf16", "int8", "fp8", "f32"};
inline constexpr std::string_view kWeightDtypeNames[] = {"auto", "bf16", "q8_0", "q4_0"};

/// What attention may round on a GPU (kernels/ops/attention.h); kAuto: to 16 bits, unless the
/// checkpoint's own weights are float32.
enum class PrecisionFlag : uint8_t { kAuto, kFloat32, kSixteenBits };
inline constexpr std::string_view kPrecisionNames[] = {"auto", "float32", "16bit"};

/// Where the model runs; kAuto: on a GPU where this build and machine have one.
enum class Device : uint8_t { kAuto, kCpu, kCuda };
inline constexpr std::string_view kDeviceNames[] = {"auto", "cpu", "cuda"};

/// Where drafts of next tokens come from. They never show in the output, only in its speed.
enum class Speculation : uint8_t { kNone, kPromptLookup };
inline constexpr std::string_view kSpeculationNames[] = {"none", "prompt_lookup"};

#ifdef NDEBUG
inline constexpr bool kChecksEachStep = false;
#else
inline constexpr bool kChecksEachStep = true;
#endif

class FaultInjector;

struct EngineOptions {
  std::string model_path;
  Device device = Device::kAuto;
  AttentionFlag attention = AttentionFlag::kAuto;
  int32_t num_selected_blocks = 0;  // 0: the spec's own
  int64_t max_context = 0;          // tokens; 0: design.md §8's default
  double kv_cache_gib = 0;          // 0: what memory allows
  WeightDtype weight_dtype = WeightDtype::kAuto;
  KvCacheDtype kv_cache_dtype = KvCacheDtype::kF16;
  PrecisionFlag attention_precision = PrecisionFlag::kAuto;
  int num_threads = 0;            // 0: the cores that this process may use
  int64_t max_step_tokens = 512;  // token budget of a step, so the longest prefill chunk
  Speculation speculation = Speculation::kNone;
  bool prefix_cache = true;  // full pages are found again by requests that begin alike
  /// What a step beside running streams may take: prompts are read in chunks that keep to it.
  absl::Duration target_inter_token = absl::Milliseconds(250);
  /// When a prompt should have its first token, after it came; a long one has twice what it takes
  /// alone, where that is more. Who would have it later is refused. Zero: no goal.
  absl::Duration target_first_token = absl::ZeroDuration();
  absl::Duration priority_ageing = absl::Seconds(30);  // for one class of priority; infinite: none
  /// A step that takes longer hangs: healthy() is then false.
  absl::Duration longest_step = absl::Seconds(120);
  int32_t max_running_requests = 64;
  int32_t max_queued_requests = 256;
  int64_t max_queued_tokens = 0;    // 0: 8 times max_context
  int32_t max_tenant_requests = 0;  // of these, those of one tenant; 0: no limit of its own
  int64_t max_tenant_tokens = 0;
  /// Folder of a file that takes pages for which memory has no place, and its size. On the CPU.
  std::string kv_spill_dir;  // empty: none
  double kv_spill_gib = 0;
  MetricsObserver* metrics = nullptr;  // outlives the engine; may be null
  /// Told how far loading is, in [0, 1].
  std::function<void(double)> on_load_progress;
  /// May put another backend around the one that was made: benches measure it, tests break it.
  std::function<std::unique_ptr<kernels::Backend>(std::unique_ptr<kernels::Backend>)> wrap_backend;
  FaultInjector* faults = nullptr;  // tests; outlives the engine
  /// Tests the engine's own state after every step, in the place of whenever it has become idle.
  bool checks_each_step = kChecksEachStep;
};

/// What was loaded, for GetModelInfo and `nsa_client info`.
struct ModelInfo {
  std::string name;
  std::string path;
  std::string family;        // "llama"
  std::string architecture;  // the file's own word
  std::string weight_type;   // of the most weights: "Q4_1"
  std::string kv_cache_dtype;
  std::string tokenizer_kind;
  std::string attention;         // AttentionSpec in words
  std::string attention_source;  // "checkpoint", "flag" or "default"
  std::string backend;
  int64_t num_parameters = 0;
  int64_t weight_bytes = 0;
  int64_t kv_pool_bytes = 0;
  int64_t num_pages = 0;          // in memory
  int64_t num_spilled_pages = 0;  // that the tier below can take
  int64_t max_context = 0;
  int64_t trained_context = 0;
  int32_t num_layers = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t hidden_size = 0;
  int32_t vocabulary_size = 0;
  int32_t num_selected_blocks = 0;
  int64_t window_size = 0;
  Residency residency;             // of sequences beyond memory; not enabled: there are none
  bool has_full_attention = true;  // requests may ask for it; not where gates were trained
};

struct EngineLoad {
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int64_t num_waiting_tokens = 0;
  absl::Time oldest_arrival = absl::InfiniteFuture();  // of those that wait for their first step
  int64_t num_pages_total = 0;
  int64_t num_pages_free = 0;
};

/// What is known of a request before its prompt is tokenized.
struct Arrival {
  int64_t prompt_bytes = 0;
  std::string_view tenant;
  int32_t priority = 0;
};

/// The whole engine behind one door: model, cache, scheduler and the one thread that owns them.
/// All methods may be called from any thread.
class Engine {
 public:
  virtual ~Engine() = default;  // aborts what runs, ends the engine thread

  /// Limits that need no token ids, tested before the prompt is tokenized: ResourceExhausted where
  /// the queue, or the tenant's part of it, is full, or the first token would come later than its
  /// goal (then RetryAfterOf, admission.h, says when to come back), or `prompt_bytes` can't fit
  /// (more bytes than max_context tokens can have).
  virtual absl::Status Admit(const Arrival& arrival) const = 0;

  /// For Request::grammar. Takes seconds at most, of the caller's thread; InvalidArgument says what
  /// is wrong, ResourceExhausted that it takes too much.
  virtual absl::StatusOr<std::shared_ptr<const Grammar>> CompileGrammar(
      const GrammarSpec& spec) const = 0;

  /// Takes the request or says why not (InvalidArgument names field, value and range;
  /// ResourceExhausted; Unavailable while draining; AlreadyExists for an id in use). After OK,
  /// `sink` gets exactly one OnDone: with ResourceExhausted and a hint (RetryAfterOf), before all
  /// else, where the first token cannot come in time.
  virtual absl::Status Submit(Request request, std::shared_ptr<OutputSink> sink) = 0;

  /// Ends a request at the next step boundary with FinishReason::kAborted. Idempotent; unknown ids
  /// are no error.
  virtual void Abort(std::string_view request_id) = 0;

  /// Forgets cached prefixes at the next step boundary, then calls `done` on the engine thread with
  /// the number of pages that became free.
  virtual void FlushCache(std::function<void(int32_t)> done) = 0;

  /// Tells the watcher from the next step boundary on what the prefix cache holds, as long as
  /// somebody else keeps it.
  virtual void WatchCache(const std::shared_ptr<CacheWatcher>& watcher) = 0;

  /// Refuses new requests, lets what was accepted finish until `deadline`, aborts the rest,
  /// returns.
  virtual void Drain(absl::Time deadline) = 0;

  virtual EngineLoad load() const = 0;
  virtual const ModelInfo& model_info() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const ChatTemplate* chat_template() const = 0;  // null: the checkpoint has none
  /// The tokenizer in files that other programs read. Takes a second or so of the caller's thread.
  virtual absl::StatusOr<std::vector<TokenizerFile>> ExportTokenizer() const = 0;
  /// False once the engine thread has not finished a step for `longest_step`. (Where the thread
  /// dies the process ends, with a message and exit status 1.)
  virtual bool healthy() const = 0;
};

/// Loads the model and starts the engine thread. Memory for weights, pool and the largest step is
/// checked before loading and taken before this returns.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineOptions& options);

}  // namespace nsa::engine

#endif  // NSA_ENGINE_ENGINE_H_

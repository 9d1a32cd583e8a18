#include "server/flags.h"

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/flag_words.h"

ABSL_FLAG(std::string, model, "",
          "path of a GGUF file, or of a Hugging Face folder (config.json, safetensors, tokenizer)");
ABSL_FLAG(std::string, weight_dtype, "auto",
          "auto, bf16, q8_0 or q4_0: what matrices that the checkpoint holds as F32, F16 or BF16 "
          "become; auto: they stay");
ABSL_FLAG(std::string, served_model_name, "",
          "name in answers and metrics; empty: the file's name");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051",
          "HOST:PORT of the gRPC server; port 0: a free one");
ABSL_FLAG(
    std::string, gateway_listen, "",
    "HOST:PORT for a gateway that knows neither TLS nor keys: VllmEngine and health for anybody "
    "who reaches it, so keep it private; empty: off, the service is on --listen");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:9090",
          "HOST:PORT of Prometheus metrics at /metrics; empty: off");
ABSL_FLAG(
    std::string, attention, "auto",
    "auto, nsa or full; auto: what the checkpoint was trained for, and training-free NSA for a "
    "full-attention checkpoint");
ABSL_FLAG(int32_t, num_selected_blocks, 0, "blocks of 64 tokens that NSA selects; 0: the default");
ABSL_FLAG(int64_t, max_context, 0,
          "longest prompt and completion in tokens; 0: the trained length, 8 times that for "
          "training-free NSA, less where memory is short");
ABSL_FLAG(bool, prefix_cache, true,
          "keep the pages of ended requests for those that begin with the same tokens");
ABSL_FLAG(std::string, device, "auto", "auto, cpu or cuda");
// On 2,000 tokens of SmolLM2 the least cosine of the logits with float32 is 0.9978 with bf16, which
// misses the bar of 0.999; float16 has three bits more at the same size.
ABSL_FLAG(std::string, kv_cache_dtype, "f16",
          "f16, bf16, int8 (a scale for each token and head; half the memory) or f32");
ABSL_FLAG(std::string, attention_precision, "auto",
          "on a GPU: float32, or 16bit, which rounds queries and softmax weights for tensor cores; "
          "auto: 16bit, unless the checkpoint's weights are float32");
ABSL_FLAG(double, kv_cache_gib, 0, "memory of the KV cache in GiB; 0: what is free");
ABSL_FLAG(
    std::string, kv_spill_dir, "",
    "on the CPU: folder of a nameless file that takes the pages that memory has no place for; "
    "empty: they are computed again");
ABSL_FLAG(double, kv_spill_gib, 0,
          "size of that file in GiB; on a GPU: memory of the host that takes the GPU's pages");
ABSL_FLAG(bool, allow_test_faults, false,
          "tests only: break what the environment variable NSA_FAULTS says");
ABSL_FLAG(int32_t, num_threads, 0, "compute threads; 0: all cores that this process may use");
ABSL_FLAG(int64_t, max_step_tokens, 512, "tokens of a step: the longest prefill chunk");
ABSL_FLAG(double, target_inter_token_ms, 250,
          "milliseconds that a step beside running streams should take: prompts are read in chunks "
          "that keep to it; 0: no target, chunks of max_step_tokens");
ABSL_FLAG(
    double, target_first_token_ms, 0,
    "milliseconds in which a prompt should have its first token, or twice what it takes alone "
    "where that is more: who would have it later is refused, with a hint when to come back; 0: "
    "no goal");
ABSL_FLAG(double, priority_ageing_s, 30,
          "seconds of waiting that raise a request by one class of priority; 0: none");
ABSL_FLAG(std::string, speculative, "none",
          "none or prompt_lookup: drafts next tokens from the text itself; answers stay the same");
ABSL_FLAG(int32_t, max_running_requests, 64, "requests that run at the same time");
ABSL_FLAG(int32_t, max_queued_requests, 256, "accepted requests that may wait");
ABSL_FLAG(int64_t, max_queued_tokens, 0, "their prompt tokens; 0: 8 times max_context");
ABSL_FLAG(std::string, tls_cert, "", "PEM file of the server's certificate chain; empty: no TLS");
ABSL_FLAG(std::string, tls_key, "", "PEM file of its private key");
ABSL_FLAG(std::string, tls_client_ca, "",
          "PEM file of who signs clients' certificates; given: nothing but health answers without");
ABSL_FLAG(
    std::string, api_keys_file, "",
    "lines NAME SHA256: nothing but health answers without one of these keys; read again when "
    "it changes");
ABSL_FLAG(bool, reflection, true, "answer what services there are");
ABSL_FLAG(int32_t, max_tenant_requests, 0, "accepted requests of one tenant that may wait; 0: all");
ABSL_FLAG(int64_t, max_tenant_tokens, 0, "their prompt tokens; 0: all");
ABSL_FLAG(int64_t, max_message_bytes, 64 << 20, "largest request message");
ABSL_FLAG(double, watchdog_s, 120,
          "seconds after which a step counts as hanging and health turns to NOT_SERVING");
ABSL_FLAG(double, drain_timeout_s, 30, "seconds that running requests get after SIGTERM");
ABSL_FLAG(std::string, latency_buckets, "",
          "seconds, ascending, with commas: histogram buckets; empty: 0.001 to 500");
ABSL_FLAG(std::string, token_buckets, "",
          "tokens, ascending, with commas: histogram buckets; empty: powers of 2 to the context");
ABSL_FLAG(std::string, log_format, "text", "text or json");
ABSL_FLAG(bool, log_requests, false, "a line for each request that ends, without its text");
ABSL_FLAG(std::string, trace_file, "",
          "file that spans of requests are appended to, as lines of OTLP/JSON; empty: none");
ABSL_FLAG(double, trace_ratio, 1,
          "share of the requests that are traced, of those whose caller does not decide it by "
          "traceparent");
ABSL_FLAG(int64_t, trace_file_mib, 256,
          "size in MiB at which the file is moved to FILE.1 and begun anew; 0: never");

namespace nsa::server {
namespace {

constexpr int64_t kLongestBucket = 1 << 20;  // tokens; the context is not known before loading

absl::Status Bad(const char* flag, const std::string& value, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is '", value, "', expected ", expected));
}

absl::Status BadNumber(const char* flag, double value, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, ", expected ", expected));
}

absl::Status CheckNumbers() {
  struct Range {
    const char* flag;
    double value;
    double low;
    double high;
    const char* expected;
  };
  const Range ranges[] = {
      {"num_selected_blocks", double(absl::GetFlag(FLAGS_num_selected_blocks)), 0, 256, "0 to 256"},
      {"max_context", double(absl::GetFlag(FLAGS_max_context)), 0, 1 << 30, "0 to 2^30"},
      {"kv_cache_gib", absl::GetFlag(FLAGS_kv_cache_gib), 0, 1e6, "0 to 1e6"},
      {"kv_spill_gib", absl::GetFlag(FLAGS_kv_spill_gib), 0, 1e6, "0 to 1e6"},
      {"num_threads", double(absl::GetFlag(FLAGS_num_threads)), 0, 1024, "0 to 1024"},
      {"max_step_tokens", double(absl::GetFlag(FLAGS_max_step_tokens)), 1, 65536, "1 to 65536"},
      {"target_inter_token_ms", absl::GetFlag(FLAGS_target_inter_token_ms), 0, 1e6, "0 to 1e6"},
      {"target_first_token_ms", absl::GetFlag(FLAGS_target_first_token_ms), 0, 1e9, "0 to 1e9"},
      {"priority_ageing_s", absl::GetFlag(FLAGS_priority_ageing_s), 0, 1e6, "0 to 1e6"},
      {"max_running_requests", double(absl::GetFlag(FLAGS_max_running_requests)), 1, 65536,
       "1 to 65536"},
      {"max_queued_requests", double(absl::GetFlag(FLAGS_max_queued_requests)), 1, 1e6, "1 to 1e6"},
      {"max_queued_tokens", double(absl::GetFlag(FLAGS_max_queued_tokens)), 0, 1e15, "0 to 1e15"},
      {"max_tenant_requests", double(absl::GetFlag(FLAGS_max_tenant_requests)), 0, 1e6, "0 to 1e6"},
      {"max_tenant_tokens", double(absl::GetFlag(FLAGS_max_tenant_tokens)), 0, 1e15, "0 to 1e15"},
      {"max_message_bytes", double(absl::GetFlag(FLAGS_max_message_bytes)), 1024, 2147483647.0,
       "1024 to 2^31 - 1"},
      {"watchdog_s", absl::GetFlag(FLAGS_watchdog_s), 0.1, 86400, "0.1 to 86400"},
      {"trace_ratio", absl::GetFlag(FLAGS_trace_ratio), 0, 1, "0 to 1"},
      {"trace_file_mib", double(absl::GetFlag(FLAGS_trace_file_mib)), 0, 1 << 30, "0 to 2^30"},
      {"drain_timeout_s", absl::GetFlag(FLAGS_drain_timeout_s), 0, 86400, "0 to 86400"},
  };
  for (const Range& r : ranges) {
    if (!(r.value >= r.low && r.value <= r.high)) return BadNumber(r.flag, r.value, r.expected);
  }
  return absl::OkStatus();
}

absl::Status ReadBuckets(int64_t max_context, PrometheusMetrics::Buckets& buckets) {
  buckets = DefaultBuckets(std::max(kLongestBucket, max_context));
  if (const std::string text = absl::GetFlag(FLAGS_latency_buckets); !text.empty()) {
    auto seconds = ParseBuckets("latency_buckets", text);
    if (!seconds.ok()) return seconds.status();
    buckets.seconds = *std::move(seconds);
  }
  if (const std::string text = absl::GetFlag(FLAGS_token_buckets); !text.empty()) {
    auto tokens = ParseBuckets("token_buckets", text);
    if (!tokens.ok()) return tokens.status();
    buckets.tokens = *std::move(tokens);
  }
  return absl::OkStatus();
}

/// "SmolLM2.gguf" of "/models/SmolLM2.gguf".
std::string FileName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

absl::Status ReadEngineWords(engine::EngineOptions& options) {
  using engine::ReadFlagWord;
  absl::Status status = ReadFlagWord("attention", absl::GetFlag(FLAGS_attention),
                                     engine::kAttentionNames, options.attention);
  status.Update(ReadFlagWord("weight_dtype", absl::GetFlag(FLAGS_weight_dtype),
                             engine::kWeightDtypeNames, options.weight_dtype));
  status.Update(ReadFlagWord("kv_cache_dtype", absl::GetFlag(FLAGS_kv_cache_dtype),
                             engine::kKvCacheDtypeNames, options.kv_cache_dtype));
  status.Update(ReadFlagWord("attention_precision", absl::GetFlag(FLAGS_attention_precision),
                             engine::kPrecisionNames, options.attention_precision));
  status.Update(ReadFlagWord("speculative", absl::GetFlag(FLAGS_speculative),
                             engine::kSpeculationNames, options.speculation));
  status.Update(
      ReadFlagWord("device", absl::GetFlag(FLAGS_device), engine::kDeviceNames, options.device));
  return status;
}

absl::Status ReadWords(ServerOptions& options) {
  engine::EngineOptions& e = options.engine;
  e.model_path = absl::GetFlag(FLAGS_model);
  if (e.model_path.empty()) return Bad("model", "", "the path of a GGUF file or of a folder");
  // A folder's name may end in a slash.
  while (e.model_path.size() > 1 && e.model_path.ends_with('/')) e.model_path.pop_back();
  if (absl::Status status = ReadEngineWords(e); !status.ok()) return status;
  e.prefix_cache = absl::GetFlag(FLAGS_prefix_cache);
  const std::string format = absl::GetFlag(FLAGS_log_format);
  if (format != "text" && format != "json") return Bad("log_format", format, "text or json");
  options.json_log = format == "json";
  options.listen = absl::GetFlag(FLAGS_listen);
  options.metrics_listen = absl::GetFlag(FLAGS_metrics_listen);
  options.gateway_listen = absl::GetFlag(FLAGS_gateway_listen);
  options.security = {.tls_cert = absl::GetFlag(FLAGS_tls_cert),
                      .tls_key = absl::GetFlag(FLAGS_tls_key),
                      .tls_client_ca = absl::GetFlag(FLAGS_tls_client_ca),
                      .api_keys_file = absl::GetFlag(FLAGS_api_keys_file)};
  options.reflection = absl::GetFlag(FLAGS_reflection);
  options.served_model_name = absl::GetFlag(FLAGS_served_model_name);
  if (options.served_model_name.empty()) options.served_model_name = FileName(e.model_path);
  return absl::OkStatus();
}

}  // namespace

const std::vector<FlagGroup>& ServerFlagGroups() {
  static const auto* const groups = new std::vector<FlagGroup>{
      {"Model",
       {"model", "served_model_name", "weight_dtype", "attention", "num_selected_blocks",
        "max_context"}},
      {"Network",
       {"listen", "metrics_listen", "gateway_listen", "max_message_bytes", "reflection"}},
      {"Security", {"tls_cert", "tls_key", "tls_client_ca", "api_keys_file"}},
      {"Machine",
       {"device", "num_threads", "attention_precision", "kv_cache_gib", "kv_cache_dtype",
        "kv_spill_dir", "kv_spill_gib", "prefix_cache"}},
      {"Scheduling",
       {"max_step_tokens", "target_inter_token_ms", "target_first_token_ms", "priority_ageing_s",
        "speculative", "max_running_requests", "max_queued_requests", "max_queued_tokens",
        "max_tenant_requests", "max_tenant_tokens"}},
      {"Operation",
       {"drain_timeout_s", "watchdog_s", "latency_buckets", "token_buckets", "allow_test_faults"}},
      {"Log and traces",
       {"log_format", "log_requests", "trace_file", "trace_ratio", "trace_file_mib"}},
  };
  return *groups;
}

absl::StatusOr<ServerOptions> OptionsFromFlags() {
  ServerOptions options;
  if (absl::Status status = ReadWords(options); !status.ok()) return status;
  if (absl::Status status = CheckNumbers(); !status.ok()) return status;
  engine::EngineOptions& e = options.engine;
  e.num_selected_blocks = absl::GetFlag(FLAGS_num_selected_blocks);
  e.max_context = absl::GetFlag(FLAGS_max_context);
  e.kv_cache_gib = absl::GetFlag(FLAGS_kv_cache_gib);
  e.kv_spill_dir = absl::GetFlag(FLAGS_kv_spill_dir);
  e.kv_spill_gib = absl::GetFlag(FLAGS_kv_spill_gib);
  options.allow_test_faults = absl::GetFlag(FLAGS_allow_test_faults);
  e.num_threads = absl::GetFlag(FLAGS_num_threads);
  e.max_step_tokens = absl::GetFlag(FLAGS_max_step_tokens);
  const auto or_infinite = [](absl::Duration unit, double number) {
    return number > 0 ? number * unit : absl::InfiniteDuration();
  };
  e.target_inter_token =
      or_infinite(absl::Milliseconds(1), absl::GetFlag(FLAGS_target_inter_token_ms));
  e.target_first_token = absl::Milliseconds(absl::GetFlag(FLAGS_target_first_token_ms));
  e.priority_ageing = or_infinite(absl::Seconds(1), absl::GetFlag(FLAGS_priority_ageing_s));
  e.max_running_requests = absl::GetFlag(FLAGS_max_running_requests);
  e.max_queued_requests = absl::GetFlag(FLAGS_max_queued_requests);
  e.max_queued_tokens = absl::GetFlag(FLAGS_max_queued_tokens);
  e.max_tenant_requests = absl::GetFlag(FLAGS_max_tenant_requests);
  e.max_tenant_tokens = absl::GetFlag(FLAGS_max_tenant_tokens);
  options.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  e.longest_step = absl::Seconds(absl::GetFlag(FLAGS_watchdog_s));
  options.drain_timeout = absl::Seconds(absl::GetFlag(FLAGS_drain_timeout_s));
  options.tracer = {.ratio = absl::GetFlag(FLAGS_trace_ratio),
                    .logs_requests = absl::GetFlag(FLAGS_log_requests)};
  options.trace_file = absl::GetFlag(FLAGS_trace_file);
  options.trace_file_bytes = absl::GetFlag(FLAGS_trace_file_mib) << 20;
  if (absl::Status status = ReadBuckets(e.max_context, options.buckets); !status.ok()) {
    return status;
  }
  return options;
}

}  // namespace nsa::server

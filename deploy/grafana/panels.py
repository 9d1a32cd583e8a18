"""Every panel of the dashboards and of the console page, with its PromQL: the one source of both.

generate.py writes the JSON and HTML; tests/deploy evaluates each expression in a Prometheus that scrapes
a server. Names of metrics: nsa_server's /metrics.
"""

import dataclasses

# Grafana replaces $model, $instance and $__rate_interval; the console page and the tests do so as well.
SELECTOR = 'model_name=~"$model",instance=~"$instance"'


@dataclasses.dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    """`unit` and `kind` (timeseries, stat, bargauge) are Grafana's. `console`: also on the console page."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str = ""
    kind: str = "timeseries"
    stacked: bool = False
    console: bool = False


@dataclasses.dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclasses.dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]


def series(name: str, where: str = "") -> str:
    return f"{name}{{{SELECTOR}{',' if where else ''}{where}}}"


def gauge(name: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ' '}({series(name)})"


def rate(name: str, by: str = "", where: str = "") -> str:
    """Increase a second, of all replicas together."""
    head = f"sum by ({by})" if by else "sum"
    return f"{head} (rate({series(name, where)}[$__rate_interval]))"


def quantile(q: float, name: str) -> str:
    return f"histogram_quantile({q}, {rate(name + '_bucket', by='le')})"


def mean(name: str) -> str:
    return f"{rate(name + '_sum')} / {rate(name + '_count')}"


def one(expr: str, legend: str = "") -> tuple[Query, ...]:
    return (Query(expr, legend),)


def quantiles(name: str, *qs: float) -> tuple[Query, ...]:
    return tuple(Query(quantile(q, name), f"p{100 * q:g}") for q in qs or (0.5, 0.9, 0.99))


TTFT = "vllm:time_to_first_token_seconds"
ITL = "vllm:inter_token_latency_seconds"
ENDED = "vllm:request_success_total"
REJECTED = "vllm:admission_rejections_total"
READ = "nsa:attention_tokens_read_total"
FULL = "nsa:attention_tokens_full_total"
# Ages are "0", "1", "2-3", … "128-255", … "16384+".
FAR = 'page_age=~"[0-9]{3,}.*"'
READ_SHARE = f"{rate(READ)} / {rate(FULL)}"
HIT_SHARE = f"{rate('vllm:prefix_cache_hits_total')} / {rate('vllm:prefix_cache_queries_total')}"
OLDEST = series("nsa:oldest_waiting_request_age_seconds")
PAGES_IN_USE = f"max ({series('vllm:kv_cache_usage_perc')})"

OVERVIEW = Row(
    "At a glance",
    (
        Panel("Requests ended", "reqps", one(rate(ENDED)), kind="stat", console=True),
        Panel("Output tokens", "tps", one(rate("vllm:generation_tokens_total")), kind="stat",
              console=True),
        Panel("Time to first token, p90", "s", one(quantile(0.9, TTFT)), kind="stat", console=True),
        Panel("Inter-token latency, p90", "s", one(quantile(0.9, ITL)), kind="stat", console=True),
        Panel("Running", "short", one(gauge("vllm:num_requests_running")), kind="stat", console=True),
        Panel("Waiting", "short", one(gauge("vllm:num_requests_waiting")), kind="stat", console=True),
        Panel("KV pages in use", "percentunit", one(PAGES_IN_USE), kind="stat", console=True,
              about="Of the fullest replica. Cached pages count as free: they are given up on need."),
        Panel("Read of full attention", "percentunit", one(READ_SHARE), kind="stat", console=True,
              about="Rows that attention read, of what full attention would have read."),
    ),
)  # fmt: skip

LATENCY = Row(
    "Latency",
    (
        Panel("Time to first token", "s", quantiles(TTFT), "From arrival.", console=True),
        Panel("Inter-token latency", "s", quantiles(ITL), "Token to next token.", console=True),
        Panel("End to end", "s", quantiles("vllm:e2e_request_latency_seconds")),
        Panel("Time per output token", "s", quantiles("vllm:request_time_per_output_token_seconds"),
              "Mean of a request."),
        Panel("Where a request's time goes", "s", tuple(
            Query(mean(f"vllm:request_{part}_time_seconds"), part)
            for part in ("queue", "prefill", "decode")), "Means of ended requests.", stacked=True),
        Panel("Inference time", "s", quantiles("vllm:request_inference_time_seconds"),
              "Scheduled to end."),
    ),
)  # fmt: skip

THROUGHPUT = Row(
    "Throughput",
    (
        Panel("Requests ended, by reason", "reqps",
              one(rate(ENDED, by="finished_reason"), "{{finished_reason}}"), stacked=True),
        Panel("Tokens", "tps", (
            Query(rate("vllm:prompt_tokens_total"), "prompt"),
            Query(rate("vllm:prompt_tokens_cached_total"), "prompt, from the prefix cache"),
            Query(rate("vllm:generation_tokens_total"), "output")), console=True),
        Panel("Prompt length", "short", quantiles("vllm:request_prompt_tokens", 0.5, 0.99)),
        Panel("Output length", "short", (
            *quantiles("vllm:request_generation_tokens", 0.5, 0.99),
            Query(quantile(0.99, "vllm:request_params_max_tokens"), "max_tokens, p99"))),
    ),
)  # fmt: skip

QUEUE = Row(
    "Queue and batch",
    (
        Panel("Requests", "short", (
            Query(gauge("vllm:num_requests_running"), "running"),
            Query(gauge("vllm:num_requests_waiting"), "waiting")), stacked=True, console=True),
        Panel("Time in the queue", "s", quantiles("vllm:request_queue_time_seconds"),
              "Of requests that have ended."),
        Panel("Oldest waiting request", "s", one(f"max by (instance) ({OLDEST})", "{{instance}}"),
              "How long the first in line waits for its first step; true while a step hangs.",
              console=True),
        Panel("Sequences in a step", "short", quantiles("nsa:step_batch_size", 0.5, 0.99)),
        Panel("Tokens in a step", "short", quantiles("vllm:iteration_tokens_total", 0.5, 0.99)),
        Panel("Decode step", "s", quantiles("nsa:decode_step_seconds"),
              "Steps without prompt tokens."),
        Panel("Prefill chunk", "s", quantiles("nsa:prefill_chunk_seconds"),
              "Steps with prompt tokens; what running streams wait for beside one "
              "(--target_inter_token_ms)."),
    ),
)  # fmt: skip

CACHE = Row(
    "KV cache",
    (
        Panel("KV pages by state", "short", one(gauge("nsa:kv_pages", by="state"), "{{state}}"),
              "Pages of 64 tokens. Cached: kept for prompts that begin alike, free on need.",
              stacked=True, console=True),
        Panel("Pages in use, by replica", "percentunit",
              one(f"max by (instance) ({series('vllm:kv_cache_usage_perc')})", "{{instance}}")),
        Panel("Prefix cache", "tps", (
            Query(rate("vllm:prefix_cache_queries_total"), "looked up"),
            Query(rate("vllm:prefix_cache_hits_total"), "found"))),
        Panel("Prefix cache hits", "percentunit", one(HIT_SHARE, "of prompt tokens"), console=True),
        Panel("Preemptions", "ops", one(rate("vllm:num_preemptions_total"), "sequences")),
        Panel("Tokens computed again", "tps",
              one(rate("vllm:prompt_tokens_recomputed_total"), "after a preemption")),
        Panel("Moved to and from the tier below", "Bps",
              one(rate("nsa:kv_spill_bytes_total", by="direction"), "{{direction}}"),
              "Pages that memory had no place for (--kv_spill_gib): a file, or on a GPU memory of the host."),
        Panel("Pages that could not be moved", "ops",
              one(rate("nsa:kv_spill_failures_total", by="direction"), "{{direction}}"),
              "Their tokens are computed again."),
        Panel("Selected and not in memory", "ops", (
            Query(rate("nsa:kv_slot_misses_total"), "slots read back"),
            Query(rate("nsa:kv_interrupted_rows_total"), "rows that waited")),
              "Contexts beyond memory: many for each token mean that what they select does not fit."),
    ),
)  # fmt: skip

ERRORS = Row(
    "Errors and objectives",
    (
        Panel("Rejections", "reqps", one(rate(REJECTED, by="reason"), "{{reason}}"),
              "Refused before they were accepted.", stacked=True, console=True),
        Panel("Aborted and failed", "reqps",
              one(rate(ENDED, by="finished_reason", where='finished_reason=~"abort|error"'),
                  "{{finished_reason}}"), stacked=True),
        Panel("Error budget burn, 1 h", "none",
              one('model:nsa_slo_violations:ratio_rate1h{model_name=~"$model"} '
                  "/ on (slo) group_left () slo:nsa_budget:ratio", "{{model_name}} {{slo}}"),
              "1: the budget lasts exactly its period (prometheus/rules.yaml).", console=True),
        Panel("Firing alerts", "short",
              one('count by (alertname) (ALERTS{alertname=~"Nsa.*",alertstate="firing"}) '
                  "or vector(0)", "{{alertname}}")),
        Panel("Spans of --trace_file", "ops",
              one(rate("nsa:trace_spans_total", by="outcome"), "{{outcome}}"),
              "queue_full, write_failed: lost. Nothing without a trace file."),
        Panel("Replicas", "short", (
            Query('count by (version) (nsa:build_info{model_name=~"$model",instance=~"$instance"})',
                  "{{version}}"),
            Query('sum (up{job=~".*nsa-serve.*",instance=~"$instance"})', "answer a scrape"))),
        Panel("KV cache configuration", "short",
              one(f"sum by (cache_dtype, num_gpu_blocks) ({series('vllm:cache_config_info')})",
                  "{{num_gpu_blocks}} pages of {{cache_dtype}}"), "Replicas with it."),
    ),
)  # fmt: skip

SPARSITY = Row(
    "What attention reads",
    (
        Panel("Rows read, by branch", "rps", one(rate(READ, by="branch"), "{{branch}}"),
              "cmp: compressed rows, slc: selected blocks, win: the last tokens.", stacked=True,
              console=True),
        Panel("Read and full", "rps", (
            Query(rate(READ), "read"), Query(rate(FULL), "full attention would read"))),
        Panel("Read of full attention", "percentunit", one(READ_SHARE, "share"),
              "The measured sparsity: falls as contexts grow; 100 % where they are short."),
        Panel("Rows read for a token", "short", (
            Query(f"{rate(READ)} / {rate('vllm:iteration_tokens_total_sum')}", "read"),
            Query(f"{rate(FULL)} / {rate('vllm:iteration_tokens_total_sum')}", "full: mean context")),
            "What a token costs hardly grows with what stands before it."),
        Panel("Time in attention, by branch", "percentunit",
              one(rate("nsa:attention_seconds_total", by="branch"), "{{branch}}"),
              "Of the engine's time. cmp: compressing and scoring; slc: selected blocks, and the "
              "window where both are one pass; win: windows and full attention. Not on a GPU.",
              stacked=True, console=True),
        Panel("Share of a branch", "percentunit",
              one(f"{rate(READ, by='branch')} / ignoring (branch) group_left () {rate(READ)}",
                  "{{branch}}"), stacked=True),
    ),
)  # fmt: skip

SELECTION = Row(
    "Where in the context the model looks",
    (
        Panel("Selected pages, by age", "ops",
              one(rate("nsa:page_selection_total", by="page_age"), "{{page_age}}"),
              "Age: pages of 64 tokens between a query and what it selected.", stacked=True,
              console=True),
        Panel("Share of an age, now", "percentunit",
              one(f"{rate('nsa:page_selection_total', by='page_age')} / ignoring (page_age) "
                  f"group_left () {rate('nsa:page_selection_total')}", "{{page_age}}"),
              kind="bargauge"),
        Panel("Selected far away", "percentunit",
              one(f"{rate('nsa:page_selection_total', where=FAR)} / "
                  f"{rate('nsa:page_selection_total')}", "128 pages back or more"),
              "What a sliding window of 8,192 tokens would miss."),
    ),
)  # fmt: skip

SPECULATION = Row(
    "Speculation",
    (
        Panel("Drafted tokens", "tps", (
            Query(rate("vllm:spec_decode_num_draft_tokens_total"), "drafted"),
            Query(rate("vllm:spec_decode_num_accepted_tokens_total"), "right"))),
        Panel("Drafts", "ops", one(rate("vllm:spec_decode_num_drafts_total"), "verified")),
    ),
)  # fmt: skip

DASHBOARDS = (
    Dashboard("nsa-serve", "nsa-serve", "Latency, throughput, queue, cache and errors.",
              (OVERVIEW, LATENCY, THROUGHPUT, QUEUE, CACHE, ERRORS)),
    Dashboard("nsa-attention", "nsa-serve: attention",
              "What Native Sparse Attention reads, selects and saves.",
              (SPARSITY, SELECTION, SPECULATION)),
)  # fmt: skip


def panels() -> list[Panel]:
    return [panel for dashboard in DASHBOARDS for row in dashboard.rows for panel in row.panels]


def bind(expr: str, *, model: str = ".*", instance: str = ".*", rate_interval: str) -> str:
    """The expression with Grafana's variables replaced."""
    for name, value in (("$model", model), ("$instance", instance),
                        ("$__rate_interval", rate_interval)):  # fmt: skip
        expr = expr.replace(name, value)
    return expr

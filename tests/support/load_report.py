"""What `nsa_client load` reports, of records from elsewhere: the same fields by the same rules.

The rules are client/load/README.md's and the arithmetic client/load/statistics.cc's; tests/bench/serving_test.py holds
the two side by side. Times are seconds since a run began.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np


@dataclasses.dataclass
class Record:
    """What became of a request. `code` is a gRPC status' name, whatever protocol it came by."""

    index: int
    scheduled_s: float  # the planned arrival; closed loop: when it was sent
    sent_s: float = 0.0
    first_token_s: float = 0.0  # of the first message with tokens; 0: there was none
    last_token_s: float = 0.0
    end_s: float = 0.0
    gaps_s: list[float] = dataclasses.field(default_factory=list)  # between messages with tokens
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    code: str = "OK"
    message: str = ""

    def on_tokens(self, now: float, count: int) -> None:
        if self.first_token_s > 0:
            self.gaps_s.append(now - self.last_token_s)
        else:
            self.first_token_s = now
        self.last_token_s = now
        self.output_tokens += count

    @property
    def ok(self) -> bool:
        return self.code == "OK"

    @property
    def ttft_s(self) -> float:
        return (self.first_token_s or self.end_s) - self.scheduled_s

    @property
    def e2e_s(self) -> float:
        return self.end_s - self.scheduled_s

    @property
    def tpot_s(self) -> float | None:
        """Of a token after the first; None where there is no such."""
        if self.output_tokens < 2 or self.first_token_s <= 0:
            return None
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)


def met(record: Record, slo: dict[str, float]) -> bool:
    """Whether the request ended well within all limits: ttft_ms, itl_ms (each gap), tpot_ms, e2e_ms."""
    found = {
        "ttft_ms": record.ttft_s,
        "itl_ms": max(record.gaps_s, default=0.0),
        "tpot_ms": record.tpot_s or 0.0,
        "e2e_ms": record.e2e_s,
    }
    return record.ok and all(1000 * found[name] <= limit for name, limit in slo.items())


def summarize(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0, "mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return {
        "count": len(values),
        "mean": float(np.mean(values)),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": max(values),
    }


def report(records: list[Record], slo: dict[str, float], **description) -> dict:
    """The report of a run without its warm-up; `description` stands at its beginning (server, arrivals …)."""
    done = [record for record in records if record.ok]
    codes = collections.Counter(record.code for record in records)
    messages: dict[str, str] = {}
    for record in records:
        if not record.ok:
            messages.setdefault(record.code, record.message)
    good = sum(met(record, slo) for record in done)
    seconds = max((record.end_s for record in records), default=0.0)
    tokens = {
        "prompt": sum(record.prompt_tokens for record in done),
        "cached": sum(record.cached_tokens for record in done),
        "output": sum(record.output_tokens for record in done),
    }

    def rate(count: int) -> float:
        return count / seconds if seconds > 0 else 0.0

    return description | {
        "duration_s": seconds,
        "requests": {
            "sent": len(records),
            "completed": len(done),
            "rejected": codes["RESOURCE_EXHAUSTED"],
            "failed": len(records) - len(done) - codes["RESOURCE_EXHAUSTED"],
        },
        "codes": dict(codes),
        "messages": messages,
        "tokens": tokens,
        "throughput": {
            "requests_per_s": rate(len(done)),
            "prompt_tokens_per_s": rate(tokens["prompt"]),
            "output_tokens_per_s": rate(tokens["output"]),
        },
        "goodput": {
            "slo": slo,
            "requests": good,
            "fraction": good / len(records) if records else 0.0,
            "requests_per_s": rate(good),
        },
        "ttft_s": summarize([record.ttft_s for record in done]),
        "itl_s": summarize([gap for record in done for gap in record.gaps_s]),
        "tpot_s": summarize([record.tpot_s for record in done if record.tpot_s is not None]),
        "e2e_s": summarize([record.e2e_s for record in done]),
        "send_delay_s": summarize([record.sent_s - record.scheduled_s for record in records]),
    }

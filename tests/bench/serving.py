"""What a server promises under load, measured: latency beside a long prompt, the second question, overload.

    .venv/bin/python -m tests.bench.serving [--measure latency,second,overload] [--model PATH]
        [--long 64000] [--document 32000] [--target_ms 250] [--seconds 60]

latency: eight streams run, a prompt of `long` tokens arrives; the gaps between tokens of the eight from there to its first
  token. Limit: p99 of 1.5 × --target_inter_token_ms.
second: a question about a document of `document` tokens, then another about the same. Limit: time to first token 1/20.
overload: requests by open loop at some rates below capacity (of a closed loop), then at three times the capacity. Limit:
  90 % of the best goodput (first token within 5 s, no gap above 1 s).

Ends with 1 where a limit is missed. Everything shares the machine's cores, the clients too.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np

from tests.support import model_files, server

STREAMS = 8
SHORT_PROMPT = ["--prompt_tokens=uniform:200:800", "--output_tokens=uniform:20:60"]
GOALS = ["--slo_ttft_ms=5000", "--slo_itl_ms=1000"]


class Texts:
    """Pieces of the policy manual, each with another beginning."""

    def __init__(self, model: pathlib.Path):
        self.ids = model_files.encode([model_files.manual_text()], model)[0]

    def piece(self, number: int, size: int) -> list[int]:
        begin = 997 * number % len(self.ids)
        repeated = self.ids[begin:] + self.ids * (size // len(self.ids) + 1)
        return repeated[:size]


class Stream(threading.Thread):
    """A completion whose tokens' times are kept."""

    def __init__(self, running, ids: list[int], max_tokens: int):
        super().__init__()
        self.times: list[float] = []
        message = server.request(ids, max_tokens)
        message.stopping.ignore_eos = True
        message.bypass_prefix_cache = True
        self.call = running.stub.Generate(message, timeout=3600)

    def run(self) -> None:
        self.result = server.collect(self.call, lambda token_ids: self.times.append(time.monotonic()))


def time_to_first_token(running, ids: list[int]) -> float:
    began, times = time.monotonic(), []
    call = running.stub.Generate(server.request(ids, 4), timeout=3600)
    done = server.collect(call, lambda token_ids: times.append(time.monotonic()))
    if done.finished is None:
        raise RuntimeError(f"{done.status}: {done.details}")
    return times[0] - began


def latency(options, texts: Texts) -> bool:
    flags = {"max_context": options.long + 2048, "target_inter_token_ms": options.target_ms}
    with server.running(options.model, **flags) as running:
        streams = [Stream(running, texts.piece(i, 512), 100_000) for i in range(STREAMS)]
        for stream in streams:
            stream.start()
        while min(len(stream.times) for stream in streams) < 50:
            time.sleep(0.1)
        alone = [gap for stream in streams for gap in np.diff(stream.times[10:])]
        began = time.monotonic()
        long = Stream(running, texts.piece(50, options.long), 1)
        long.start()
        long.join()
        ended = time.monotonic()
        for stream in streams:
            stream.call.cancel()
        for stream in streams:
            stream.join()
    gaps = [
        later - earlier
        for stream in streams
        for earlier, later in zip(stream.times, stream.times[1:])
        if later >= began and earlier <= ended
    ]
    p50, p99 = np.percentile(gaps, [50, 99])
    limit = 1.5 * options.target_ms / 1000
    print(
        f"latency: {STREAMS} streams, a prompt of {options.long} tokens for {ended - began:.1f} s: gaps p50 {1000 * p50:.0f}, "
        f"p99 {1000 * p99:.0f}, longest {1000 * max(gaps):.0f} ms (limit of p99 {1000 * limit:.0f}); alone p50 "
        f"{1000 * float(np.percentile(alone, 50)):.0f} ms"
    )
    return p99 <= limit


def second(options, texts: Texts) -> bool:
    with server.running(options.model, max_context=options.document + 1024) as running:
        document = texts.piece(0, options.document)
        first = time_to_first_token(running, document + texts.piece(7, 20))
        again = [time_to_first_token(running, document + texts.piece(8 + i, 20)) for i in range(5)]
    ratio = first / float(np.median(again))
    print(
        f"second: document of {options.document} tokens, first token after {first:.2f} s, of the next questions after "
        f"{1000 * float(np.median(again)):.0f} ms: 1/{ratio:.0f} (limit 1/20)"
    )
    return ratio >= 20


def load(address: str, *words: str) -> dict:
    command = [model_files.tool("nsa_client"), "load", f"--server={address}", "--json", *SHORT_PROMPT, *GOALS, *words]
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=3600)
    if not run.stdout.strip():
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout)


def overload(options, texts: Texts) -> bool:
    flags = {"max_context": 2048, "max_queued_requests": 16}
    with server.running(options.model, **flags) as running:
        closed = load(running.address, "--concurrency=8", f"--duration_s={options.seconds / 2}", "--warmup_requests=4")
        capacity = closed["throughput"]["requests_per_s"]
        print(f"overload: capacity {capacity:.2f} requests/s")
        goodput = {}
        for share in (0.6, 0.8, 1.0, 3.0):
            rate = share * capacity
            words = (f"--rate={rate:.3f}", f"--duration_s={options.seconds}", f"--workload_seed={int(10 * share)}")
            report = load(running.address, *words)
            goodput[share] = report["goodput"]["requests_per_s"]
            ttft = report["ttft_s"]
            print(
                f"  {share:.1f} of it: goodput {goodput[share]:.2f} requests/s, {report['requests']['rejected']} of "
                f"{report['requests']['sent']} rejected, first token p50 {ttft['p50']:.2f} p99 {ttft['p99']:.2f} s"
            )
    kept = goodput[3.0] / max(goodput.values())
    print(f"  at three times the capacity {100 * kept:.0f} % of the best goodput (limit 90 %)")
    return kept >= 0.9


MEASURES = {"latency": latency, "second": second, "overload": overload}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", default=",".join(MEASURES))
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--long", type=int, default=64_000)
    parser.add_argument("--document", type=int, default=32_000)
    parser.add_argument("--target_ms", type=float, default=250)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    options.model = options.model or model_files.model_path()
    texts = Texts(options.model)
    held = [MEASURES[name](options, texts) for name in options.measure.split(",")]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())

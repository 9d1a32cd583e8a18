"""What a server promises under load, measured: latency beside a long prompt, the second question, overload.

    .venv/bin/python -m tests.bench.serving [--measure latency,second,overload,shared] [--model PATH]
        [--long 64000] [--document 32000] [--target_ms 250] [--seconds 40] [--num_threads N] [--json FILE]

latency: eight streams run, a prompt of `long` tokens arrives; the gaps between tokens of the eight from there to its
  first token. Limit: p99 of 1.5 × --target_inter_token_ms.
second: a question about a document of `document` tokens, then another about the same. Limit: time to first token 1/20.
overload: requests by open loop at some rates below capacity (of a closed loop), then at three times the capacity; our
  server knows the goal for the first token and nothing else. Limit: 90 % of the best goodput (first token within 5 s,
  no gap above 1 s).
shared: prompts of 8192 tokens of which 6144 are the same, at rates below the capacity of either server. Limit: three
  times llama.cpp's best goodput.

The last two ask llama.cpp's server the same beside ours, where tests/bench/build_llama_server.sh has built it
(serving_beside.py); the table's ratios say how many times better ours is. Ends with 1 where a limit is missed.
Everything shares the machine's cores, the clients too.
"""

import argparse
import json
import os
import pathlib
import sys
import threading
import time

import numpy as np

from tests.bench import serving_beside
from tests.support import model_files, server

STREAMS = 8


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


def check_running(streams: list[Stream]) -> None:
    """RuntimeError where one has ended, which a gap between tokens would not show."""
    for stream in streams:
        if not stream.is_alive():
            raise RuntimeError(f"a stream ended: {stream.result.status}: {stream.result.details}")


def time_to_first_token(running, ids: list[int]) -> float:
    began, times = time.monotonic(), []
    call = running.stub.Generate(server.request(ids, 4), timeout=3600)
    done = server.collect(call, lambda token_ids: times.append(time.monotonic()))
    if done.finished is None:
        raise RuntimeError(f"{done.status}: {done.details}")
    return times[0] - began


def latency(options) -> bool:
    texts = Texts(options.model)
    context = options.long + 2048
    with server.running(options.model, max_context=context, target_inter_token_ms=options.target_ms) as running:
        streams = [Stream(running, texts.piece(i, 512), context - 512) for i in range(STREAMS)]
        for stream in streams:
            stream.start()
        while min(len(stream.times) for stream in streams) < 50:
            check_running(streams)
            time.sleep(0.1)
        alone = [gap for stream in streams for gap in np.diff(stream.times[10:])]
        began = time.monotonic()
        long = Stream(running, texts.piece(50, options.long), 1)
        long.start()
        long.join()
        ended = time.monotonic()
        check_running(streams)
        if long.result.finished is None:
            raise RuntimeError(f"the long prompt: {long.result.status}: {long.result.details}")
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
        f"latency: {STREAMS} streams, a prompt of {options.long} tokens for {ended - began:.1f} s: gaps p50 "
        f"{1000 * p50:.0f}, p99 {1000 * p99:.0f}, longest {1000 * max(gaps):.0f} ms (limit of p99 {1000 * limit:.0f}); "
        f"alone p50 {1000 * float(np.percentile(alone, 50)):.0f} ms"
    )
    return p99 <= limit


def second(options) -> bool:
    texts = Texts(options.model)
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


MEASURES = {"latency": latency, "second": second} | serving_beside.MEASURES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", default=",".join(MEASURES))
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--long", type=int, default=64_000)
    parser.add_argument("--document", type=int, default=32_000)
    parser.add_argument("--target_ms", type=float, default=250)
    parser.add_argument("--seconds", type=float, default=40, help="of arrivals in a run of overload and shared")
    parser.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=pathlib.Path, help="the reports of all runs of overload and shared")
    options = parser.parse_args()
    options.model = options.model or model_files.model_path()
    options.tables = {}
    held = [MEASURES[name](options) for name in options.measure.split(",")]
    if options.json:
        options.json.write_text(json.dumps(options.tables, indent=1) + "\n")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())

"""llama.cpp's speed, in a process of its own: what tests/bench/compare.py sets ours beside.

    .venv-oracles/bin/python -m tests.bench.llama_cpp_peer --max_context N --num_threads N --flash 0|1
        [--prefill_rounds 1] [--decode_rounds 5]
    .venv-oracles/bin/python -m tests.bench.llama_cpp_peer --streams 8 --context N --num_threads N --flash 0|1

The first form reads contexts from standard input, one a line and rising, and prints one JSON object for each: the
prompt of random tokens grows to that length, then 32 tokens are decoded from there in every round. So one pass over
the longest prompt serves all lengths. With --streams 8, eight sequences of one length are decoded together; each has
its own cells (one stream of the cache a sequence), which is llama.cpp's quickest way.
"""

import argparse
import ctypes
import json
import random
import sys
import time

from tests.support import model_files

DECODE_TOKENS = 32
VOCABULARY = 49152


def random_tokens(count: int) -> list[int]:
    generator = random.Random(1)
    return [generator.randrange(VOCABULARY) for _ in range(count)]


class Alone:
    """One sequence, whose prompt grows."""

    def __init__(self, max_context: int, threads: int, flash: bool):
        import llama_cpp

        self.model = llama_cpp.Llama(
            model_path=str(model_files.model_path()),
            n_ctx=max_context + DECODE_TOKENS + 8,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=flash,
            verbose=False,
        )
        self.prompt = random_tokens(max_context)
        self.context = 0
        self.seconds = 0.0  # that the prompt so far took

    def fill(self, context: int, first: int) -> float:
        """Reads the prompt from token `first` on; seconds."""
        self.model.n_tokens = first  # eval drops the cells behind n_tokens first
        began = time.monotonic()
        self.model.eval(self.prompt[first:context])
        return time.monotonic() - began

    def measure(self, context: int, prefill_rounds: int, decode_rounds: int) -> dict:
        self.seconds += self.fill(context, self.context)
        prefill = [context / self.seconds]
        # Again from the begin where that does not take minutes.
        while context <= 4096 and len(prefill) < prefill_rounds:
            prefill.append(context / self.fill(context, 0))
        self.context = context
        decode = []
        for _ in range(decode_rounds):
            self.model.n_tokens = context
            began = time.monotonic()
            # Given tokens: its sampling in Python is not what is compared.
            for token in self.prompt[:DECODE_TOKENS]:
                self.model.eval([token])
            decode.append(DECODE_TOKENS / (time.monotonic() - began))
        return {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode}


class Streams:
    """Sequences that are decoded together, through llama.cpp's C interface."""

    def __init__(self, context: int, threads: int, flash: bool, streams: int):
        import llama_cpp

        self.api, self.context, self.streams = llama_cpp, context, streams
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(model_files.model_path()).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = streams * (context + DECODE_TOKENS + 64) // 256 * 256 + 256 * streams
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        params.flash_attn_type = int(flash)
        self.state = llama_cpp.llama_init_from_model(self.model, params)
        if not self.state:
            raise RuntimeError("llama_init_from_model failed")
        self.memory = llama_cpp.llama_get_memory(self.state)
        self.batch = llama_cpp.llama_batch_init(512, 0, streams)

    def decode(self, rows: list[tuple[int, int, int]], logits: bool) -> None:
        """One call for (token, position, sequence) rows."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        status = self.api.llama_decode(self.state, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gives {status}")

    def fill(self, prompt: list[int]) -> None:
        """The prompt once, then copies of its cells: every sequence has memory of its own."""
        for begin in range(0, self.context, 512):
            chunk = prompt[begin : begin + 512]
            self.decode([(token, begin + i, 0) for i, token in enumerate(chunk)], False)
        for sequence in range(1, self.streams):
            self.api.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def round(self, tokens: list[int]) -> float:
        """Tokens a second, of all sequences together."""
        for sequence in range(self.streams):
            self.api.llama_memory_seq_rm(self.memory, sequence, self.context, -1)
        began = time.monotonic()
        for step, token in enumerate(tokens):
            self.decode([(token, self.context + step, s) for s in range(self.streams)], True)
            # The logits of the last row, as a sampler would read them: waits for the result.
            ctypes.c_float.from_address(
                ctypes.addressof(self.api.llama_get_logits_ith(self.state, -1).contents)
            )
        return self.streams * len(tokens) / (time.monotonic() - began)


def together(context: int, threads: int, flash: bool, rounds: int, streams: int) -> dict:
    peer = Streams(context, threads, flash, streams)
    prompt = random_tokens(context)
    peer.fill(prompt)
    return {"decode_tokens_per_s": [peer.round(prompt[:DECODE_TOKENS]) for _ in range(rounds)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--max_context", type=int, default=0)
    parser.add_argument("--num_threads", type=int, required=True)
    parser.add_argument("--flash", type=int, choices=[0, 1], default=1)
    parser.add_argument("--prefill_rounds", type=int, default=1)
    parser.add_argument("--decode_rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=1)
    options = parser.parse_args()
    flash = bool(options.flash)
    if options.streams > 1:
        print(
            json.dumps(
                together(
                    options.context, options.num_threads, flash, options.decode_rounds, options.streams
                )
            )
        )
        return
    peer = Alone(options.max_context, options.num_threads, flash)
    for line in sys.stdin:
        result = peer.measure(int(line), options.prefill_rounds, options.decode_rounds)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

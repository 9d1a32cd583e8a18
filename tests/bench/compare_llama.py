"""Decode and prefill speed against llama.cpp, on the same file and threads, in one run.

    .venv-oracles/bin/python -m tests.bench.compare_llama [--context 16384] [--num_threads N]
        [--rounds 2] [--json FILE]

Needs llama-cpp-python built from source (tests/requirements-oracles.txt). Rounds alternate between the
two, so that a machine that slows down slows both; each side's best round counts, llama.cpp's over
flash attention on and off. Ends with 1 where our decode is slower.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import time

from tests.support import model_files

DECODE_TOKENS = 32
VOCABULARY = 49152


def ours(context: int, threads: int, attention: str) -> dict:
    run = subprocess.run(
        [
            model_files.tool("nsa_bench"),
            f"--model={model_files.model_path()}",
            f"--context={context}",
            f"--num_threads={threads}",
            f"--attention={attention}",
            f"--decode_tokens={DECODE_TOKENS}",
            "--json",
        ],
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        raise RuntimeError(f"nsa_bench ended with {run.returncode}: {run.stderr}")
    measured = json.loads(run.stdout.splitlines()[-1])
    return {
        "engine": f"nsa-serve {attention}",
        "prefill_tokens_per_s": measured["prefill_tokens_per_s"],
        "decode_tokens_per_s": measured["decode_tokens_per_s"],
        "peak_rss_bytes": measured["peak_rss_bytes"],
        "read_bandwidth_gb_s": measured.get("read_bandwidth_gb_s"),
    }


def llama_cpp(context: int, threads: int, flash: bool) -> dict:
    """In a child, so that its memory is its own and is given back."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench.compare_llama", "--child", str(int(flash))]
        + ["--context", str(context), "--num_threads", str(threads)],
        capture_output=True,
        text=True,
        cwd=model_files.ROOT,
    )
    if run.returncode != 0:
        raise RuntimeError(f"llama.cpp ended with {run.returncode}: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def llama_cpp_child(context: int, threads: int, flash: bool) -> None:
    import resource

    import llama_cpp

    model = llama_cpp.Llama(
        model_path=str(model_files.model_path()),
        n_ctx=context + DECODE_TOKENS + 8,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        flash_attn=flash,
        verbose=False,
    )
    generator = random.Random(1)
    prompt = [generator.randrange(VOCABULARY) for _ in range(context)]
    began = time.monotonic()
    model.eval(prompt)
    prefilled = time.monotonic()
    # Given tokens: its sampling in Python is not what is compared.
    for _ in range(DECODE_TOKENS):
        model.eval([generator.randrange(VOCABULARY)])
    ended = time.monotonic()
    result = {
        "engine": f"llama.cpp flash_attn {'on' if flash else 'off'}",
        "prefill_tokens_per_s": context / (prefilled - began),
        "decode_tokens_per_s": DECODE_TOKENS / (ended - prefilled),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "read_bandwidth_gb_s": None,
    }
    print(json.dumps(result))


def best(rows: list[dict], key: str) -> float:
    return max(row[key] for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    context, threads = options.context, options.num_threads
    if options.child is not None:
        llama_cpp_child(context, threads, bool(options.child))
        return 0

    rows = []
    for _ in range(options.rounds):
        for measure in (
            lambda: ours(context, threads, "nsa"),
            lambda: llama_cpp(context, threads, True),
            lambda: llama_cpp(context, threads, False),
        ):
            rows.append(measure())
            row = rows[-1]
            print(
                f"{row['engine']:<26} prefill {row['prefill_tokens_per_s']:8.1f} tokens/s  "
                f"decode {row['decode_tokens_per_s']:7.2f} tokens/s  "
                f"peak {row['peak_rss_bytes'] / 2**30:.2f} GiB",
                flush=True,
            )
    mine = [row for row in rows if row["engine"].startswith("nsa")]
    theirs = [row for row in rows if not row["engine"].startswith("nsa")]
    ratios = {
        key: best(mine, key) / best(theirs, key)
        for key in ("decode_tokens_per_s", "prefill_tokens_per_s")
    }
    print(
        f"context {context}, {threads} threads, best of {options.rounds}: "
        f"decode {ratios['decode_tokens_per_s']:.2f} times, "
        f"prefill {ratios['prefill_tokens_per_s']:.2f} times llama.cpp's"
    )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1) + "\n")
    return 0 if ratios["decode_tokens_per_s"] >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())

"""The retrieval tables: pass keys in filler up to 64k tokens, and in real text within the trained length.

    .venv/bin/python -m tests.bench.retrieval [--suite] [--filler 4096,8192] [--real 3000,7000]
        [--blocks 0,16] [--filler_blocks 16,32] [--seed N] [--json FILE] [--chat] [--num_threads N]

Of the model that NSA_TEST_MODEL names, by default SmolLM2. --suite is what fits in the test suite. Prints a line per
probe as it comes, then one table; --json writes all of it. n = 0 is the model's own. Another seed has other keys and
another part of the text. Ends with 1 where a bar is missed (shortfalls).
"""

import argparse
import functools
import json
import pathlib
import sys
import time

import numpy as np

from tests.support import nsa_eval, pass_key

FILLER_DEPTHS = [5, 30, 60, 90]
REAL_DEPTHS = [5, 20, 40, 60, 80, 95]
K = 1024


def filler_rows(contexts: list[int], attention, chat: bool, threads: int, seed: int = 0):
    """One row a context: greedy decoding at each depth."""
    for context in contexts:
        hits, texts, began, peak = 0, [], time.monotonic(), 0
        for depth in FILLER_DEPTHS:
            probe = pass_key.make_probe(
                pass_key.filler_haystack, context, depth, chat=chat, seed=seed
            )
            hit, text, measured = pass_key.generate(probe, attention, threads)
            hits += hit
            peak = max(peak, measured.peak_rss_bytes)
            texts.append(text)
            log(
                f"filler {context} depth {depth} % {attention}: {'hit' if hit else 'MISS'} "
                f"{text!r}, prefill {len(probe.prompt) / measured.prefill_s:.0f} tokens/s"
            )
        yield {
            "haystack": "filler",
            "context": context,
            "attention": str(attention),
            "hits": hits,
            "probes": len(FILLER_DEPTHS),
            "texts": texts,
            "peak_rss_bytes": peak,
            "seconds": round(time.monotonic() - began, 1),
        }


def real_rows(contexts: list[int], attentions, chat: bool, threads: int, seed: int = 0):
    """One row a context and attention: hits and mean log-probability per digit of the key."""
    haystack = functools.partial(pass_key.manual_haystack, part=seed)
    for context in contexts:
        probes = [
            pass_key.make_probe(haystack, context, depth, chat=chat, seed=seed)
            for depth in REAL_DEPTHS
        ]
        for attention in attentions:
            began = time.monotonic()
            answers = [pass_key.ask(probe, attention, threads) for probe in probes]
            for probe, answer in zip(probes, answers):
                log(
                    f"manual {context} depth {probe.depth} % {attention}: "
                    f"{'hit' if answer.hit else 'MISS'} {answer.logprob:.3f}"
                )
            yield {
                "haystack": "manual",
                "context": context,
                "attention": str(attention),
                "hits": sum(answer.hit for answer in answers),
                "probes": len(probes),
                "logprob": float(np.mean([answer.logprob for answer in answers])),
                "logprob_by_depth": [round(answer.logprob, 4) for answer in answers],
                "hit_by_depth": [answer.hit for answer in answers],
                "seconds": round(time.monotonic() - began, 1),
            }


def shortfalls(rows: list[dict]) -> list[str]:
    """What misses the bars: 4 of 4 in filler; in real text as many hits as full attention less one
    and a mean log-probability within 0.1 of its, or 0.35 where another n was asked for."""
    full = {r["context"]: r for r in rows if r["haystack"] == "manual" and r["attention"] == "full"}
    missed = []
    for row in rows:
        where = f"{row['haystack']} {row['context']} {row['attention']}"
        if row["haystack"] == "filler" and row["hits"] < row["probes"]:
            missed.append(f"{where}: {row['hits']} of {row['probes']} found")
        if row["haystack"] == "manual" and row["attention"] != "full":
            expected = full[row["context"]]
            if row["hits"] < expected["hits"] - 1:
                missed.append(f"{where}: {row['hits']} hits, full attention {expected['hits']}")
            bar = 0.1 if row["attention"] == str(nsa_eval.NSA) else 0.35
            if row["logprob"] < expected["logprob"] - bar:
                missed.append(
                    f"{where}: log-probability {row['logprob']:.3f}, "
                    f"full attention {expected['logprob']:.3f}"
                )
    return missed


def table(rows: list[dict]) -> str:
    lines = [f"{'haystack':<9}{'context':>8}  {'attention':<10}{'hits':>6}{'logp':>8}{'seconds':>9}"]
    for r in rows:
        logprob = f"{r['logprob']:.3f}" if "logprob" in r else "–"
        lines.append(
            f"{r['haystack']:<9}{r['context']:>8}  {r['attention']:<10}"
            f"{r['hits']}/{r['probes']:<4}{logprob:>8}{r['seconds']:>9}"
        )
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", action="store_true", help="filler to 8k; n: the default")
    parser.add_argument("--filler", type=numbers, default=[4 * K, 8 * K, 16 * K, 32 * K, 64 * K])
    parser.add_argument("--real", type=numbers, default=[3000, 7000])
    parser.add_argument("--blocks", type=numbers, default=[0, 16], help="n in real text")
    parser.add_argument("--filler_blocks", type=numbers, default=[0], help="n in filler")
    parser.add_argument("--seed", type=int, default=0, help="0 to 10")
    parser.add_argument("--chat", action="store_true", help="ask through the chat template")
    parser.add_argument("--num_threads", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.suite:
        options.filler, options.blocks, options.filler_blocks = [4 * K, 8 * K], [0], [0]

    rows = []
    for n in options.filler_blocks:
        attention = nsa_eval.Attention("nsa", n)
        rows += filler_rows(options.filler, attention, options.chat, options.num_threads, options.seed)
    attentions = [nsa_eval.FULL] + [nsa_eval.Attention("nsa", n) for n in options.blocks]
    rows += real_rows(options.real, attentions, options.chat, options.num_threads, options.seed)
    missed = shortfalls(rows)
    print(table(rows))
    for line in missed:
        print(f"below the bar: {line}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "below": missed}, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Perplexity of NSA against full attention on real prose.

    .venv/bin/python -m tests.bench.perplexity [--tokens 8000] [--blocks 16,32,64]
        [--kv_cache_dtype int8] [--json FILE]

Ends with 1 where NSA's is more than 3 % above full attention's.
"""

import argparse
import json
import pathlib
import sys

import numpy as np

from tests.support import model_files, nsa_eval

BAR = 1.03


def prose_tokens(count: int) -> list[int]:
    """Ids of the policy manual, from behind its table of contents."""
    text = model_files.manual_text()[20_000 : 20_000 + 8 * count]
    return model_files.encode([text], model_files.model_path())[0][:count]


def perplexity(tokens: list[int], attention: nsa_eval.Attention, threads: int = 0) -> float:
    result = nsa_eval.evaluate(tokens, attention, logprobs=True, num_threads=threads)
    if not np.isfinite(result.logprobs).all():
        raise RuntimeError("log-probabilities that are not finite")
    return float(np.exp(-result.logprobs.astype(np.float64).mean()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--blocks", default="16,32,64")
    parser.add_argument("--kv_cache_dtype", default="f16", help="of NSA; full attention has f16")
    parser.add_argument("--num_threads", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    tokens = prose_tokens(options.tokens)
    full = perplexity(tokens, nsa_eval.FULL, options.num_threads)
    rows = [{"attention": "full", "perplexity": full, "ratio": 1.0}]
    for n in [int(word) for word in options.blocks.split(",")]:
        attention = nsa_eval.Attention("nsa", n, options.kv_cache_dtype)
        ours = perplexity(tokens, attention, options.num_threads)
        rows.append({"attention": str(attention), "perplexity": ours, "ratio": ours / full})
    print(f"{len(tokens)} tokens\n{'attention':<12}{'perplexity':>11}{'ratio':>9}")
    for row in rows:
        print(f"{row['attention']:<12}{row['perplexity']:>11.4f}{row['ratio']:>9.4f}")
    if options.json:
        options.json.write_text(json.dumps({"tokens": len(tokens), "rows": rows}, indent=1) + "\n")
    return 0 if all(row["ratio"] <= BAR for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Decoding with prompt lookup against plain decoding: the same tokens, how much sooner.

    .venv/bin/python -m tests.bench.speculation [--rounds 3] [--max_tokens 200] [--json FILE]

Two servers, one with --speculative=prompt_lookup, answer the same chats in turn: one that quotes, one that
summarises a long document, one that does neither. Each side's median counts. Ends with 1 where tokens differ.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import sys

from tests.support import model_files, server


def prompts() -> dict[str, str]:
    text = model_files.manual_text()[20_000:]
    return {
        "quote": f"Repeat the following text word for word.\n\n{text[:1600]}",
        "summarise": f"{text[:24_000]}\n\nSummarise the text above. Quote its most important rules.",
        "neither": "Write a story about a lighthouse keeper who finds a map.",
    }


def chat(text: str, max_tokens: int):
    message = server.pb().GenerateRequest()
    message.chat.messages.add(role="user", content=text.encode())
    message.sampling.temperature = 0
    message.stopping.max_tokens = max_tokens
    message.response.token_ids = True
    return message


def drafts(running: server.Server) -> tuple[float, float]:
    values = running.metrics()
    return (
        values["vllm:spec_decode_num_draft_tokens_total"],
        values["vllm:spec_decode_num_accepted_tokens_total"],
    )


def measure(running: server.Server, text: str, max_tokens: int) -> dict:
    drafted, accepted = drafts(running)
    result = server.generate(running, chat(text, max_tokens), timeout=600)
    if result.finished is None:
        raise RuntimeError(f"{result.status}: {result.details}")
    usage = result.finished.usage
    drafted_after, accepted_after = drafts(running)
    return {
        "tokens": list(result.token_ids),
        "tokens_per_s": (len(result.token_ids) - 1) / usage.decode_seconds,
        "prompt_tokens": usage.prompt_tokens,
        "drafted": drafted_after - drafted,
        "accepted": accepted_after - accepted,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max_tokens", type=int, default=200)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    rows, same = [], True
    with contextlib.ExitStack() as stack:
        sides = [
            stack.enter_context(server.running(speculative=kind, kv_cache_gib=1))
            for kind in ("none", "prompt_lookup")
        ]
        for name, text in prompts().items():
            runs = [[measure(side, text, options.max_tokens) for side in sides] for _ in range(options.rounds)]
            same &= all(plain["tokens"] == drafted["tokens"] for plain, drafted in runs)
            speeds = [statistics.median(run[i]["tokens_per_s"] for run in runs) for i in range(2)]
            last = runs[-1][1]
            rows.append(
                {
                    "prompt": name,
                    "prompt_tokens": last["prompt_tokens"],
                    "generated_tokens": len(last["tokens"]),
                    "plain_tokens_per_s": speeds[0],
                    "prompt_lookup_tokens_per_s": speeds[1],
                    "ratio": speeds[1] / speeds[0],
                    "drafted": last["drafted"],
                    "accepted": last["accepted"],
                }
            )
            print(
                f"{name:<10} {last['prompt_tokens']:>6} prompt tokens, {len(last['tokens']):>4} generated: "
                f"{speeds[0]:7.1f} → {speeds[1]:7.1f} tokens/s ({speeds[1] / speeds[0]:.2f} times), "
                f"{last['accepted']:.0f} of {last['drafted']:.0f} drafted tokens right",
                flush=True,
            )
    print("the same tokens" if same else "TOKENS DIFFER")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

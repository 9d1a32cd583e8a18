#!/usr/bin/env python3
"""The engine on a GPU: logits beside the CPU's, the same bits whatever the chunks, and retrieval.

    python3 -m tests.gpu.engine_check [--build_dir build/gpu/build] [--device cuda] [--against cpu]
        [--contexts 4096,16384,65536] [--json FILE]

Models are generated (tests/gpu/generated_models.py, tests/support/tiny_folder.py). Needs numpy; ends with 1 where a
check fails, with 77 where nsa_eval knows no --device.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests.gpu import generated_models
from tests.support import tiny_folder

SKIPPED = 77
NUM_TOKENS = 700
# Float32 cache and weights: what differs is the order of sums and the device's exp, by some 1e-6 of a layer's
# scale. A block at the border of the choice may go the other way, which these seeds do not meet.
LOGITS_LIMIT = 1e-3
DEPTHS = [5, 30, 60, 90]


@dataclasses.dataclass
class Tool:
    """nsa_eval of one build."""

    path: pathlib.Path

    def knows_device(self) -> bool:
        run = subprocess.run([self.path, "--helpfull"], capture_output=True, text=True)
        return "--device" in run.stdout

    def run(self, model: pathlib.Path, tokens: list[int], device: str, *flags: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "tokens")
            np.array(tokens, "<i4").tofile(file)
            command = [self.path, f"--model={model}", f"--tokens={file}", *flags]
            if device:
                command.append(f"--device={device}")
            run = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(flags)} on {device}: {run.stderr.strip()[-2000:]}")
        return run.stdout

    def logits(self, model: pathlib.Path, tokens: list[int], device: str, *flags: str) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "logits")
            self.run(model, tokens, device, f"--logits={file}", *flags)
            return np.fromfile(file, "<f4").reshape(len(tokens), -1)


def write_models(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, str]]:
    """Name → folder and attention."""
    gated = tiny_folder.llama_config() | dict(
        model_type="llama-nsa", block_size=16, block_counts=8, window_size=64
    )
    llama = tiny_folder.write_raw(folder / "llama")
    nsa = tiny_folder.write_raw(folder / "gated", gated, tiny_folder.llama_weights(gated=True))
    paper = tiny_folder.write_raw(
        folder / "paper", tiny_folder.nsa_paper_config(), tiny_folder.nsa_paper_weights()
    )
    return {
        "llama full": (llama, "full"),
        "llama training-free": (llama, "nsa"),
        "llama-nsa": (nsa, "auto"),
        "nsa_paper": (paper, "auto"),
    }


def check_logits(tool: Tool, folder: pathlib.Path, device: str, against: str) -> list[dict]:
    tokens = np.random.default_rng(1).integers(0, tiny_folder.VOCABULARY, NUM_TOKENS).tolist()
    results = []
    for name, (model, attention) in write_models(folder).items():
        flags = [f"--attention={attention}", "--kv_cache_dtype=f32"]
        expected = tool.logits(model, tokens, against, *flags)
        actual = tool.logits(model, tokens, device, *flags)
        in_chunks = tool.logits(model, tokens, device, *flags, "--max_step_tokens=37")
        error = float(np.abs(actual - expected).max() / np.abs(expected).max())
        same_bits = actual.tobytes() == in_chunks.tobytes()
        results.append(
            {
                "check": f"logits {name}",
                "error": error,
                "limit": LOGITS_LIMIT,
                "chunks_have_the_same_bits": same_bits,
                "passed": bool(error <= LOGITS_LIMIT and same_bits),
            }
        )
        log(results[-1])
    return results


def check_retrieval(
    tool: Tool, folder: pathlib.Path, device: str, contexts: list[int]
) -> list[dict]:
    """Training-free NSA and trained branches: the hidden key at every depth."""
    results = []
    for family in ("llama", "llama-nsa"):
        model = generated_models.write_retrieval(folder / f"retrieval-{family}", family, max(contexts))
        for context in contexts:
            began, hits = time.monotonic(), 0
            for depth in DEPTHS:
                tokens, key = generated_models.probe(context, depth)
                answer = tool.run(
                    model, tokens, device, "--attention=nsa", "--generate=1",
                    f"--max_context={context}", "--max_step_tokens=4096", "--attention_precision=16bit",
                )  # fmt: skip
                hits += int(answer) == key
            results.append(
                {
                    "check": f"retrieval {family} {context}",
                    "hits": hits,
                    "probes": len(DEPTHS),
                    "seconds": round(time.monotonic() - began, 1),
                    "passed": hits == len(DEPTHS),
                }
            )
            log(results[-1])
    return results


def log(result: dict) -> None:
    print(json.dumps(result), file=sys.stderr, flush=True)


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build_dir", type=pathlib.Path, default=pathlib.Path("build/gpu/build"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--against", default="cpu")
    parser.add_argument("--contexts", type=numbers, default=[4096, 16384, 65536])
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    tool = Tool(options.build_dir / "nsa_eval")
    if options.device != "" and not tool.knows_device():
        print(f"{tool.path} knows no --device: skipped")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        results = check_logits(tool, path, options.device, options.against)
        results += check_retrieval(tool, path, options.device, options.contexts)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    failed = [result["check"] for result in results if not result["passed"]]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

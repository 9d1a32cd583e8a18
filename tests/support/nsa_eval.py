"""Runs nsa_eval: logits, log-probabilities and greedy continuations of our engine."""

import dataclasses
import json
import pathlib
import subprocess
import tempfile

import numpy as np

from tests.support import model_files


@dataclasses.dataclass(frozen=True)
class Attention:
    """What nsa_eval is told about attention. num_selected_blocks 0: the model's own."""

    mode: str = "auto"
    num_selected_blocks: int = 0
    kv_cache_dtype: str = "f16"

    def __str__(self) -> str:
        words = [self.mode]
        if self.mode == "nsa" and self.num_selected_blocks:
            words.append(f"n={self.num_selected_blocks}")
        if self.kv_cache_dtype != "f16":
            words.append(self.kv_cache_dtype)
        return " ".join(words)


FULL = Attention("full")
NSA = Attention("nsa")


@dataclasses.dataclass
class Evaluation:
    logits: np.ndarray | None = None  # float32 [N - logits_from, vocabulary]
    logprobs: np.ndarray | None = None  # float32 [N - 1]: of token i + 1 given 0…i
    generated: list[int] = dataclasses.field(default_factory=list)
    prefill_s: float = 0.0
    decode_s: float = 0.0
    peak_rss_bytes: int = 0


def evaluate(
    tokens: list[int],
    attention: Attention = Attention(),
    *,
    logits_from: int | None = None,
    logprobs: bool = False,
    generate: int = 0,
    num_threads: int = 0,
    max_step_tokens: int = 0,
    max_context: int = 0,
    model: pathlib.Path | None = None,
) -> Evaluation:
    """One sequence through the engine, made for `max_context` tokens (0: as many as the sequence
    needs). RuntimeError with the tool's own words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        np.array(tokens, "<i4").tofile(path / "tokens")
        command = [
            model_files.tool("nsa_eval"),
            f"--model={model or model_files.model_path()}",
            f"--attention={attention.mode}",
            f"--num_selected_blocks={attention.num_selected_blocks}",
            f"--kv_cache_dtype={attention.kv_cache_dtype}",
            f"--num_threads={num_threads}",
            f"--tokens={path / 'tokens'}",
            f"--generate={generate}",
            f"--max_context={max_context}",
        ]
        if max_step_tokens:
            command.append(f"--max_step_tokens={max_step_tokens}")
        if logits_from is not None:
            command += [f"--logits={path / 'logits'}", f"--logits_from={logits_from}"]
        if logprobs:
            command.append(f"--logprobs={path / 'logprobs'}")
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            raise RuntimeError(f"nsa_eval ended with {run.returncode}: {run.stderr.strip()}")
        result = Evaluation(generated=[int(word) for word in run.stdout.split()])
        measured = json.loads(run.stderr.strip().splitlines()[-1])
        result.prefill_s = measured["prefill_s"]
        result.decode_s = measured["decode_s"]
        result.peak_rss_bytes = measured["peak_rss_bytes"]
        if logits_from is not None:
            rows = len(tokens) - logits_from
            result.logits = np.fromfile(path / "logits", "<f4").reshape(rows, -1)
        if logprobs:
            result.logprobs = np.fromfile(path / "logprobs", "<f4")
            if len(result.logprobs) != len(tokens) - 1:
                raise RuntimeError(f"nsa_eval wrote {len(result.logprobs)} of {len(tokens) - 1} rows")
        return result

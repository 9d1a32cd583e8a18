"""Trains a model, and goes on where it stopped.

    .venv-training/bin/python -m training.train training/configs/smoke.toml [--output build/training/smoke]
        [--steps N] [--num_threads N]

The output folder gets checkpoints, tokenizer.model, losses.csv, validation.csv and losses.svg. A run that finds
checkpoints of its configuration there goes on from the last one, to the same losses. Ctrl-C or SIGTERM ends it behind
the step, with a checkpoint. --steps ends it as early as that, likewise.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import sys
import time

import numpy as np
import torch

from training import checkpoint, loss, plots, text, tokenizer
from training import config as configuration
from training.data import Batch, TrainingData, ValidationData, phase_of
from training.model import Decoder
from training.optimizer import DTYPES, Optimizer, rate_factor
from training.progress import Bar, Table, read_table
from training.selection import SelectionLoss

LOSS_COLUMNS = (
    *("step", "tokens", "phase", "loss", "text_loss", "answer_loss", "choice_loss"),
    *("rate", "gradient_norm", "seconds"),
)
VALIDATION_COLUMNS = ("step", "tokens", "set", "loss", "accuracy")


def default_output(config: configuration.Config) -> pathlib.Path:
    return pathlib.Path("build/training") / config.name


@dataclasses.dataclass
class Losses:
    """Of one step, in nats: the weighted mean that is trained on, and the plain means of its two parts."""

    loss: float
    text_loss: float
    answer_loss: float
    choice_loss: float  # of blocks, SelectionLoss
    gradient_norm: float


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if len(values) else float("nan")


def forward(
    model: Decoder, batch: Batch, precision: str, judged: SelectionLoss | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows that count [rows, hidden], their targets, their places): the rest needs no logits."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        hidden = model(torch.from_numpy(batch.ids), torch.from_numpy(batch.cu_seqlens), judged)
    places = torch.from_numpy(np.flatnonzero(batch.weights))
    return hidden[places], torch.from_numpy(batch.targets)[places], places


def judged_rows(batch: Batch, count: int) -> torch.Tensor:
    """At most `count` of the rows whose tokens count, evenly among them: answers where the batch has some."""
    answers = np.flatnonzero(batch.is_answer)
    rows = answers if len(answers) > 0 else np.flatnonzero(batch.weights)
    return torch.from_numpy(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)])


def train_step(model: Decoder, optimizer: Optimizer, batch: Batch, factor: float) -> Losses:
    config = optimizer.config
    judged = None
    if config.selection_weight > 0 and model.config.attention == "nsa":
        judged = SelectionLoss(judged_rows(batch, config.selection_rows))
    hidden, targets, places = forward(model, batch, config.precision, judged)
    weights = torch.from_numpy(batch.weights)[places]
    weights /= weights.sum()
    dtype = DTYPES[config.precision]
    total, losses = loss.weighted_cross_entropy(hidden, model.output_matrix, targets, weights, dtype)
    choice = judged.mean() if judged is not None else torch.zeros(())
    (total + config.selection_weight * choice).backward()
    norm = optimizer.clip()
    optimizer.step(factor)
    model.zero_grad(set_to_none=False)
    is_answer = torch.from_numpy(batch.is_answer)[places]
    parts = _mean(losses[~is_answer]), _mean(losses[is_answer])
    return Losses(float(total.detach()), *parts, float(choice.detach()), norm)


@torch.no_grad()
def validate(model: Decoder, batches, precision: str) -> tuple[float, float]:
    """(mean loss, share of sequences whose counted tokens are all the best ones)."""
    losses, right = [], []
    for batch in batches:
        hidden, targets, places = forward(model, batch, precision)
        ones = torch.ones(len(places))
        losses.append(loss.weighted_cross_entropy(hidden, model.output_matrix, targets, ones)[1])
        wrong = places[~loss.right_tokens(hidden, model.output_matrix, targets)].numpy()
        sequences = np.searchsorted(batch.cu_seqlens, wrong, side="right") - 1
        right += np.isin(np.arange(len(batch.cu_seqlens) - 1), sequences, invert=True).tolist()
    return float(torch.cat(losses).mean()), float(np.mean(right))


class Run:
    """A configuration, its data, and how far it has come."""

    def __init__(self, config: configuration.Config, output: pathlib.Path):
        self.config, self.output = config, output
        output.mkdir(parents=True, exist_ok=True)
        documents = text.documents(config.text)
        self.tokenizer = tokenizer.load(documents, config.tokenizer)
        training, validation = text.corpora(documents, self.tokenizer)
        self.data = TrainingData(config, training, self.tokenizer)
        self.validation = ValidationData(config, validation, self.tokenizer)
        self.fingerprint = config.fingerprint() + self.tokenizer.digest + documents.digest
        self.model = Decoder(config.model, self.tokenizer.vocabulary_size, config.seed)
        self.optimizer = Optimizer(self.model.named_parameters(), config.optimizer)
        self.step = self.num_tokens = 0
        self.seconds = 0.0
        self._resume()
        (output / "tokenizer.model").write_bytes(self.tokenizer.model)
        (output / "run.json").write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n")
        self.losses = Table(output / "losses.csv", LOSS_COLUMNS, self.step)
        self.validations = Table(output / "validation.csv", VALIDATION_COLUMNS, self.step)

    def _resume(self) -> None:
        found = checkpoint.all_in(self.output)
        if not found:
            return
        saved = checkpoint.load(found[-1])
        checkpoint.check_run(found[-1], saved, self.fingerprint)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.num_tokens, self.seconds = saved["step"], saved["num_tokens"], saved["seconds"]

    def save(self) -> None:
        content = {
            "fingerprint": self.fingerprint,
            "config": json.dumps(dataclasses.asdict(self.config)),
            "step": self.step,
            "num_tokens": self.num_tokens,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        checkpoint.save(self.output, self.step, content, self.config.report.keep_checkpoints)

    def advance(self) -> tuple[Losses, Batch]:
        """One step."""
        began = time.monotonic()
        batch = self.data.batch(self.step)
        factor = rate_factor(self.config.phases, self.step)
        phase, _ = phase_of(self.config.phases, self.step)
        self.model.select_blocks(phase.num_selected_blocks or self.config.model.num_selected_blocks)
        losses = train_step(self.model, self.optimizer, batch, factor)
        if not np.isfinite(losses.loss):
            raise FloatingPointError(f"the loss of step {self.step + 1} is {losses.loss}: lower the learning rates")
        self.step += 1
        self.num_tokens += batch.num_tokens
        self.seconds += time.monotonic() - began
        self.losses.add(
            step=self.step,
            tokens=self.num_tokens,
            phase=phase.name,
            loss=repr(losses.loss),
            text_loss=f"{losses.text_loss:.5f}",
            answer_loss=f"{losses.answer_loss:.5f}",
            choice_loss=f"{losses.choice_loss:.5f}",
            rate=f"{factor:.5g}",
            gradient_norm=f"{losses.gradient_norm:.5g}",
            seconds=f"{self.seconds:.1f}",
        )
        return losses, batch

    def validate(self):
        """(set, loss, accuracy) of each set, which validation.csv gets too."""
        self.model.select_blocks(self.config.model.num_selected_blocks)
        for name, batches in self.validation.sets():
            mean, accuracy = validate(self.model, batches, self.config.optimizer.precision)
            row = {"loss": f"{mean:.5f}", "accuracy": f"{accuracy:.4f}"}
            self.validations.add(step=self.step, tokens=self.num_tokens, set=name, **row)
            yield name, mean, accuracy

    def plot(self) -> None:
        """losses.svg: training's text and answers, and held-out text."""
        rows = read_table(self.output / "losses.csv")
        lines = {}
        for label, column in (("text", "text_loss"), ("answers", "answer_loss")):
            chosen = [(int(row["tokens"]), float(row[column])) for row in rows if row[column] != "nan"]
            lines[label] = smoothed(chosen)
        for length in self.config.report.validation_lengths:
            name = f"text {length}"
            found = [row for row in read_table(self.output / "validation.csv") if row["set"] == name]
            if found:
                points = ([int(row["tokens"]) for row in found], [float(row["loss"]) for row in found])
                lines[f"held-out {name}"] = points
        plots.curves(lines, self.output / "losses.svg", self.config.name, "tokens", "loss (nats a token)")


def smoothed(points: list[tuple[int, float]], window: int = 20) -> tuple[list[int], list[float]]:
    """Means of up to `window` points, one mean a window."""
    groups = [points[i : i + window] for i in range(0, len(points), window)]
    mean = [sum(y for _, y in group) / len(group) for group in groups]
    return [group[-1][0] for group in groups], mean


class Stop:
    """Set by SIGINT or SIGTERM; a second one ends the program at once."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number, frame) -> None:
        if self.asked:
            os._exit(130)
        self.asked = True


def train(run: Run, last_step: int, stop: Stop) -> None:
    report, bar = run.config.report, Bar(last_step, run.config.report.log_every)
    bar.say(
        f"{run.config.name}: {run.model.num_parameters() / 1e6:.2f} M parameters, {run.config.num_steps()} steps, "
        f"from step {run.step}, into {run.output}"
    )
    while run.step < last_step and not stop.asked:
        losses, batch = run.advance()
        done = run.step == last_step
        words = f"loss {losses.loss:.3f} (text {losses.text_loss:.3f}, answers {losses.answer_loss:.3f})"
        bar.show(run.step, batch.num_tokens, words)
        if run.step % report.validate_every == 0 or run.step == run.config.num_steps():
            for name, mean, accuracy in run.validate():
                shown = "" if name.startswith("text") else f", {accuracy:.0%} right"
                bar.say(f"step {run.step}, {name}: {mean:.4f}{shown}")
        if run.step % report.checkpoint_every == 0 or done or stop.asked:
            run.save()
    bar.close()
    run.plot()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    stop = Stop()
    try:
        config = configuration.load(options.config)
        run = Run(config, options.output or default_output(config))
        train(run, min(options.steps, config.num_steps()), stop)
    except (configuration.ConfigError, checkpoint.CheckpointError, text.TextError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 130 if stop.asked else 0


if __name__ == "__main__":
    sys.exit(main())

"""Batches, each a function of (configuration, step) alone: a run that is resumed needs no state but the step."""

import dataclasses

import numpy as np

from training import tasks
from training.config import Config, Phase
from training.text import Corpus, TextError

VALIDATION_SEED = 1_000_003  # beside the run's own; the same sequences in every run


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences one after another. A position's target is the token that follows; its weight is 0 where none counts."""

    ids: np.ndarray  # int64 [tokens]
    targets: np.ndarray  # int64 [tokens]
    weights: np.ndarray  # float32 [tokens]
    is_answer: np.ndarray  # bool [tokens]: the target is an answer's
    cu_seqlens: np.ndarray  # int64 [sequences + 1]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Sequence:
    ids: np.ndarray  # int64 [tokens]
    is_answer: np.ndarray  # bool [tokens]
    is_text: bool


def phase_of(phases: tuple[Phase, ...], step: int) -> tuple[Phase, int]:
    """A step's phase, and the step's number in it."""
    for phase in phases:
        if step < phase.steps:
            return phase, step
        step -= phase.steps
    raise IndexError(f"the run ends {step + 1} steps before")


def pack(sequences: list[Sequence], answer_weight: float) -> Batch:
    """A text's tokens all count 1, a task's answers `answer_weight` and the rest of it nothing."""
    targets, weights, is_answer = [], [], []
    for sequence in sequences:
        follows = np.append(sequence.is_answer[1:], False)
        targets.append(np.append(sequence.ids[1:], 0))
        weight = np.ones(len(sequence.ids)) if sequence.is_text else answer_weight * follows
        weight[-1] = 0
        weights.append(weight)
        is_answer.append(follows)
    return Batch(
        ids=np.concatenate([sequence.ids for sequence in sequences]),
        targets=np.concatenate(targets),
        weights=np.concatenate(weights).astype(np.float32),
        is_answer=np.concatenate(is_answer),
        cu_seqlens=np.cumsum([0] + [len(sequence.ids) for sequence in sequences]),
    )


class Stream:
    """The sequences of one split."""

    def __init__(self, config: Config, corpus: Corpus, tokenizer):
        self.config, self.corpus, self.tokenizer = config, corpus, tokenizer
        self.source = tasks.Source(tokenizer.words, corpus.sample_text, config.data.real_haystack_share)
        if len(tokenizer.words) < 100:
            raise TextError(f"the tokenizer has {len(tokenizer.words)} whole words, the tasks need 100")

    def encode(self, sample: tasks.Sample) -> tasks.Encoded:
        return tasks.encode(sample, self.tokenizer)

    def text(self, seed: list[int], length: int) -> Sequence:
        ids = self.corpus.sample_tokens(np.random.default_rng(seed), length - 1)
        ids = np.concatenate([[self.tokenizer.bos], ids])
        return Sequence(ids, np.zeros(len(ids), bool), is_text=True)

    def task(self, name: str, seed: list[int], length: int, **options) -> Sequence:
        encoded = tasks.fit(name, seed, length, self.source, self.encode, **options)
        return Sequence(encoded.ids, encoded.is_answer, is_text=False)

    def sequence(self, rng: np.random.Generator, seed: list[int], length: int, text_share: float) -> Sequence:
        shares = self.config.data.tasks
        names = [name for name, share in shares.items() if share > 0]
        if rng.random() < text_share:
            return self.text(seed, length)
        weights = np.array([shares[name] for name in names])
        return self.task(str(rng.choice(names, p=weights / weights.sum())), seed, length)


class TrainingData:
    """Batches of a run by their step."""

    def __init__(self, config: Config, corpus: Corpus, tokenizer):
        self.config, self.stream = config, Stream(config, corpus, tokenizer)

    def batch(self, step: int) -> Batch:
        phase, _ = phase_of(self.config.phases, step)
        share = self.config.data.text_share if phase.text_share < 0 else phase.text_share
        rng = np.random.default_rng([self.config.seed, step])
        length = int(rng.choice(phase.lengths))
        made = [
            self.stream.sequence(rng, [self.config.seed, step, i], length, share)
            for i in range(phase.tokens_per_step // length)
        ]
        return pack(made, self.config.data.answer_weight)


class ValidationData:
    """Held-out text by length, and tasks by kind and length: (name, batches) in a fixed order."""

    def __init__(self, config: Config, corpus: Corpus, tokenizer):
        self.config, self.stream = config, Stream(config, corpus, tokenizer)

    def sets(self):
        report = self.config.report
        for length in report.validation_lengths:
            yield f"text {length}", self._batches(length, None)
        for length in report.validation_lengths[:2]:
            for name, share in self.config.data.tasks.items():
                if share > 0:
                    yield f"{name} {length}", self._batches(length, name)

    def _batches(self, length: int, task: str | None):
        """Of 16,384 tokens or one sequence, to bound memory."""
        made = []
        for i in range(self.config.report.validation_sequences):
            seed = [VALIDATION_SEED, length, i]
            made.append(self.stream.task(task, seed, length) if task else self.stream.text(seed, length))
            if (len(made) + 1) * length > 16384:
                yield pack(made, 1.0)
                made = []
        if made:
            yield pack(made, 1.0)

"""Measures of how close two models' logits are, taken in slices of rows to spare memory."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Comparison:
    cosine: np.ndarray  # [rows]
    same_argmax: float  # share of rows
    perplexity: float  # ours
    expected_perplexity: float  # the oracle's

    def __str__(self) -> str:
        return (
            f"cosine mean {self.cosine.mean():.6f} least {self.cosine.min():.6f}, "
            f"same argmax {self.same_argmax:.4f}, perplexity {self.perplexity:.4f} "
            f"against {self.expected_perplexity:.4f} ({self.perplexity_ratio - 1:+.3%})"
        )

    @property
    def perplexity_ratio(self) -> float:
        return self.perplexity / self.expected_perplexity


def logprobs(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 [rows]: log-probability of each row's target."""
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    log_sum = np.log(np.exp(exact - top[:, None]).sum(axis=1)) + top
    return exact[np.arange(len(targets)), targets] - log_sum


def compare(ours: np.ndarray, expected_rows, tokens: list[int], slice_rows: int = 256) -> Comparison:
    """`ours` [N, vocabulary]; `expected_rows(begin, end)` gives the oracle's rows of that range."""
    cosine, same = [], 0
    ours_logprob, expected_logprob = [], []
    for begin in range(0, len(tokens), slice_rows):
        end = min(begin + slice_rows, len(tokens))
        a, b = ours[begin:end].astype(np.float64), expected_rows(begin, end).astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine.append((a * b).sum(axis=1) / norms)
        same += int((a.argmax(axis=1) == b.argmax(axis=1)).sum())
        targets = np.asarray(tokens[begin + 1 : end + 1], np.int64)
        ours_logprob.append(logprobs(a[: len(targets)], targets))
        expected_logprob.append(logprobs(b[: len(targets)], targets))
    return Comparison(
        cosine=np.concatenate(cosine),
        same_argmax=same / len(tokens),
        perplexity=float(np.exp(-np.concatenate(ours_logprob).mean())),
        expected_perplexity=float(np.exp(-np.concatenate(expected_logprob).mean())),
    )

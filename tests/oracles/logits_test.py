"""Our full attention against float32 models of the same dequantised weights, on real text."""

import numpy as np
import pytest

from tests.oracles import numpy_llama
from tests.support import compare, model_files, nsa_eval

NUM_TOKENS = 2000


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    model = model_files.model_path()
    # From the middle of the manual: its first pages are a table of contents.
    text = model_files.manual_text()[20_000:40_000]
    return model_files.encode([text], model)[0][:NUM_TOKENS]


@pytest.fixture(scope="module")
def ours(tokens) -> np.ndarray:
    return nsa_eval.evaluate(tokens, nsa_eval.FULL, logits_from=0).logits


def check(result: compare.Comparison) -> None:
    print(result)
    assert np.isfinite(result.cosine).all()
    assert result.cosine.mean() >= 0.9999
    assert result.cosine.min() >= 0.999
    assert result.same_argmax >= 0.99
    assert result.perplexity_ratio <= 1.005


def test_logits_match_numpy(tokens, ours):
    assert len(tokens) == NUM_TOKENS
    oracle = numpy_llama.NumpyLlama(model_files.model_path())
    hidden = oracle.hidden_states(tokens)
    check(compare.compare(ours, lambda begin, end: oracle.logits(hidden[begin:end]), tokens))


@pytest.mark.oracle
def test_logits_match_torch(tokens, ours):
    from tests.oracles import torch_llama  # PyTorch is in the oracles' environment alone

    expected = torch_llama.logits(model_files.model_path(), tokens)
    check(compare.compare(ours, lambda begin, end: expected[begin:end], tokens))


def test_comparison_sees_a_wrong_model(tokens):
    """The measures must fail where the logits are wrong: here rows are one position off."""
    rng = np.random.default_rng(5)
    right = rng.standard_normal((64, 100)).astype(np.float32) * 3
    few = [int(t) % 100 for t in tokens[:64]]
    same = compare.compare(right, lambda begin, end: right[begin:end], few, slice_rows=7)
    assert same.cosine.min() > 0.999999 and same.same_argmax == 1 and same.perplexity_ratio == 1
    wrong = np.roll(right, 1, axis=0)
    off = compare.compare(wrong, lambda begin, end: right[begin:end], few, slice_rows=7)
    assert off.cosine.mean() < 0.5 and off.same_argmax < 0.5

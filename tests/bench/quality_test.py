"""The part of the quality bars that fits in the suite; tests/bench/retrieval.py has the rest."""

import pytest

from tests.bench import perplexity, retrieval
from tests.support import model_files, nsa_eval, pass_key


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("depth", [5, 60, 90])
def test_a_probe_hides_its_key_once_and_fits(depth, chat):
    probe = pass_key.make_probe(pass_key.manual_haystack, 1500, depth, chat=chat)
    text = model_files.decode(probe.prompt, model_files.model_path())
    assert text.count(probe.key) == 2
    assert 1350 < len(probe.prompt) + len(probe.answer) <= 1500
    assert abs(text.index("The pass key is " + probe.key) / len(text) - depth / 100) < 0.12
    assert model_files.decode(probe.answer, model_files.model_path()).strip() == probe.key
    assert len(probe.answer) in (pass_key.NUM_DIGITS, pass_key.NUM_DIGITS + 1)


def test_bars_see_misses():
    rows = [
        {"haystack": "filler", "context": 1, "attention": "nsa", "hits": 3, "probes": 4},
        {"haystack": "manual", "context": 1, "attention": "full", "hits": 6, "probes": 6,
         "logprob": -0.1},
        {"haystack": "manual", "context": 1, "attention": "nsa", "hits": 4, "probes": 6,
         "logprob": -0.21},
        {"haystack": "manual", "context": 1, "attention": "nsa n=64", "hits": 5, "probes": 6,
         "logprob": -0.44},
    ]
    missed = retrieval.shortfalls(rows)
    assert len(missed) == 3 and not any("n=64" in line for line in missed)


@pytest.mark.slow
@pytest.mark.parametrize("context", [4096, 8192])
def test_pass_key_in_filler(context):
    (row,) = retrieval.filler_rows([context], nsa_eval.NSA, chat=False, threads=0)
    assert row["hits"] == row["probes"], row


@pytest.mark.slow
@pytest.mark.parametrize("context", [3000, 7000])
def test_pass_key_in_real_text(context):
    rows = list(
        retrieval.real_rows([context], [nsa_eval.FULL, nsa_eval.NSA], chat=False, threads=0)
    )
    print(retrieval.table(rows))
    assert not retrieval.shortfalls(rows)


@pytest.mark.slow
def test_perplexity_of_nsa():
    tokens = perplexity.prose_tokens(8000)
    assert len(tokens) == 8000
    full = perplexity.perplexity(tokens, nsa_eval.FULL)
    sparse = perplexity.perplexity(tokens, nsa_eval.NSA)
    print(f"full {full:.4f}, NSA {sparse:.4f}, ratio {sparse / full:.4f}")
    assert sparse <= perplexity.BAR * full
    int8 = perplexity.perplexity(tokens, nsa_eval.Attention("nsa", kv_cache_dtype="int8"))
    print(f"int8 cache {int8:.4f}, ratio to f16 {int8 / sparse:.4f}")
    assert int8 <= 1.005 * sparse

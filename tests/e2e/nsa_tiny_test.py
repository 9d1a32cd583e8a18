"""The model in training/models is served with nothing fetched, and finds a key far behind every length it could recite."""

import numpy as np
import pytest

from tests.support import model_files, server
from training import tasks

NSA_TINY = model_files.SHIPPED / "nsa_tiny"
BYTES_PER_TOKEN = 3.6  # of the manual, by its 8,192 pieces


@pytest.fixture(scope="module")
def running():
    with server.running(NSA_TINY, kv_cache_gib=0.5) as started:
        yield started


def manual(rng: np.random.Generator, chars: int) -> str:
    """A piece of the policy manual, which was in no training."""
    text = model_files.manual_text()
    begin = int(rng.integers(0, len(text) - chars))
    return text[begin : begin + chars]


@pytest.mark.parametrize(("length", "depth"), [(4000, 0.9), (32000, 0.5), (60000, 0.02)])
def test_a_key_is_found(running, length, depth):
    rng = np.random.default_rng([length, int(100 * depth)])
    sample = tasks.pass_key(rng, int(length * BYTES_PER_TOKEN), tasks.Source((), manual, 1.0), depth)
    done = server.generate(running, server.request(sample.prompt(), 8))
    assert done.finished.usage.prompt_tokens > 0.8 * length
    # That it sometimes goes on with digits behind the key stands in docs/quality; here it must find the place.
    assert done.text.strip().startswith(sample.expected()[0].strip())


def test_it_says_what_it_is(running):
    info = running.stub.GetModelInfo(server.pb().GetModelInfoRequest())
    assert (info.family, info.attention_source) == ("nsa_paper", "checkpoint")
    assert info.num_parameters < 8_000_000
    assert info.max_context == 131072

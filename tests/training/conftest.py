"""A corpus that is made up on the spot, and runs on it that take seconds."""

import dataclasses
import pathlib

import numpy as np
import pytest

from training import config as configuration
from training import tasks

SYLLABLES = ("ba", "den", "fi", "gor", "hu", "kal", "lem", "mi", "nos", "pra", "quet", "ri", "sol", "tun", "ve", "zan")
NUM_DOCUMENTS = 160  # of which about five are held out


def made_up_documents(folder: pathlib.Path) -> None:
    """Words as frequent as words are, those of the tasks among them, so that they are tokens."""
    rng = np.random.default_rng(5)
    words = (tasks.INTRODUCTION + tasks.FILLER + "pass key keys stands list variables hold Which What").split()
    words += ["".join(SYLLABLES[i] for i in rng.integers(0, 16, rng.integers(2, 4))) for _ in range(300)]
    for number in range(NUM_DOCUMENTS):
        chosen = rng.zipf(1.3, 400) % len(words)
        sentences = [" ".join(words[i] for i in chosen[at : at + 10]) + "." for at in range(0, 400, 10)]
        (folder / f"{number}.txt").write_text("\n".join(sentences) + "\n")


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    made_up_documents(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(corpus_folder):
    """NSA in 100,000 parameters; every part of the configuration is small, none is left out."""
    return configuration.Config(
        name="tiny",
        text=str(corpus_folder),
        tokenizer=configuration.Tokenizer(vocabulary_size=1000, sample_bytes=200_000),
        model=configuration.Model(
            hidden_size=32,
            ffn_size=48,
            num_layers=2,
            num_q_heads=2,
            head_dim=16,
            gate_hidden_size=8,
            compression_hidden_size=40,
            compression_length=8,
            compression_stride=4,
            sel_block_size=16,
            num_selected_blocks=5,
            window_size=24,
            max_context=8192,
        ),
        phases=(
            configuration.Phase("short", 6, (256, 384), 768, (0.0, 1.0), num_selected_blocks=4),
            configuration.Phase("long", 4, (512,), 1024, (1.0, 0.1), "cosine"),
        ),
        report=configuration.Report(
            checkpoint_every=4, validate_every=5, validation_lengths=(256,), validation_sequences=2
        ),
    )


@pytest.fixture(scope="session")
def tiny_twin(tiny_config):
    return dataclasses.replace(tiny_config, name="twin", model=dataclasses.replace(tiny_config.model, attention="full"))


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSA_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield

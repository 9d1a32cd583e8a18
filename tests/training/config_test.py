"""Configurations: what is wrong is named; those of the repository can be run; a twin differs in its attention alone."""

import pathlib

import pytest

from tests.support import model_files
from training import config

CONFIGS = model_files.ROOT / "training" / "configs"
PHASE = '[[phases]]\nname = "only"\nsteps = 2\nlengths = [128]\ntokens_per_step = 128\n'


def load(folder: pathlib.Path, text: str) -> config.Config:
    path = folder / "some.toml"
    path.write_text(text)
    return config.load(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 1", ["phases", "at least one"]),
        (f"{PHASE}[model]\nhidden = 3", ["model.hidden is 3", "no such field", "hidden_size"]),
        (f"{PHASE}[model]\nhidden_size = 0", ["model.hidden_size is 0", "1 to 65536"]),
        (f'{PHASE}[model]\nhidden_size = "8"', ["model.hidden_size is '8'", "an integer"]),
        (f"{PHASE}[model]\nhidden_size = true", ["model.hidden_size is True", "an integer"]),
        (f"{PHASE}[model]\nhead_dim = 63", ["model.head_dim is 63", "even"]),
        (f"{PHASE}[model]\nnum_q_heads = 3\nnum_kv_heads = 2", ["model.num_q_heads is 3", "num_kv_heads (2)"]),
        (f"{PHASE}[model]\nsel_block_size = 24", ["model.sel_block_size is 24", "multiple of compression_stride (16)"]),
        (f"{PHASE}[model]\ncompression_hidden_size = 20", ["compression_hidden_size is 20", "at least 128"]),
        (f'{PHASE}[model]\nattention = "some"', ["model.attention is 'some'", "nsa or full"]),
        (f'{PHASE}[optimizer]\nkind = "sgd"', ["optimizer.kind is 'sgd'", "muon or adamw"]),
        (f"{PHASE}[data.tasks]\nchess = 1.0", ["data.tasks is 'chess'", "pass_key"]),
        (f"{PHASE}[data]\ntext_share = 1.5", ["data.text_share is 1.5", "0 to 1"]),
        (PHASE.replace("[128]", "[32]"), ["phases[0].lengths is 32", "128 to tokens_per_step"]),
        (PHASE.replace("[128]", "64"), ["phases[0].lengths is 64", "an array"]),
        (PHASE + "rate = [1.0]", ["phases[0].rate is (1.0,)", "two factors"]),
        (PHASE + "num_selected_blocks = 3", ["only: num_selected_blocks is 3", "more than the 3 that are forced"]),
        (f"{PHASE}[model]\nhidden_size = 32", ["model.hidden_size is 32", "at least head_dim (64)"]),
        (f"{PHASE}[model]\ncopying_layers = 3", ["model.copying_layers is 3", "0 to 2"]),
        (PHASE + PHASE, ["phases is ['only', 'only']", "differ"]),
        ('stop_after = "never"\n' + PHASE, ["stop_after is 'never'", "only"]),
        ("seed = ", ["some.toml", "no TOML"]),
        ('base = "some.toml"', ["leads back"]),
        ('base = "other.toml"', ["other.toml", "No such file"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises(config.ConfigError) as error:
        load(tmp_path, text)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_repositorys_can_be_run(path):
    assert config.load(path).num_steps() > 0


def test_twin_has_the_same_data():
    nsa, twin = config.load(CONFIGS / "nsa_tiny.toml"), config.load(CONFIGS / "nsa_tiny_full.toml")
    assert (nsa.model.attention, twin.model.attention) == ("nsa", "full")
    for name in ("seed", "data", "phases", "tokenizer", "optimizer", "text"):
        assert getattr(nsa, name) == getattr(twin, name), name
    assert max(length for phase in twin.run_phases() for length in phase.lengths) <= 8192
    shared = nsa.phases[: len(twin.run_phases())]
    assert shared == twin.run_phases() and len(nsa.phases) > len(shared)


def test_base_is_merged_by_field(tmp_path):
    (tmp_path / "base.toml").write_text(PHASE + "[model]\nhidden_size = 64\nnum_layers = 2\n")
    merged = load(tmp_path, 'base = "base.toml"\n[model]\nnum_layers = 4\n')
    assert (merged.name, merged.model.hidden_size, merged.model.num_layers) == ("some", 64, 4)


def test_fingerprint_is_of_what_decides_losses(tmp_path):
    one = load(tmp_path, PHASE)
    assert load(tmp_path, 'name = "other"\n' + PHASE).fingerprint() == one.fingerprint()
    assert load(tmp_path, "seed = 2\n" + PHASE).fingerprint() != one.fingerprint()

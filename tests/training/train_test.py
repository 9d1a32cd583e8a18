"""A run that stops anywhere goes on to the same losses; models begin as they are said to."""

import dataclasses
import signal

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from training import checkpoint, train  # noqa: E402
from training.model import Decoder, Rotation  # noqa: E402
from training.progress import read_table  # noqa: E402

pytestmark = pytest.mark.training


class Never:
    asked = False


def losses(folder) -> list[str]:
    return [row["loss"] for row in read_table(folder / "losses.csv")]


@pytest.fixture(scope="module", params=["nsa", "full"])
def whole(request, tiny_config, tiny_twin, tmp_path_factory):
    """(configuration, folder of a run without a stop)."""
    torch.use_deterministic_algorithms(True)
    config = tiny_config if request.param == "nsa" else tiny_twin
    folder = tmp_path_factory.mktemp("whole")
    train.train(train.Run(config, folder), config.num_steps(), Never())
    return config, folder


@pytest.mark.parametrize("stops", [(1,), (4, 5), (3, 6, 9)])
def test_resume_gives_the_same_losses(whole, stops, tmp_path):
    config, folder = whole
    for step in (*stops, config.num_steps()):
        train.train(train.Run(config, tmp_path), step, Never())
    assert losses(tmp_path) == losses(folder) and len(losses(folder)) == config.num_steps()
    names = ("step", "tokens", "set", "loss", "accuracy")
    validations = [[[row[n] for n in names] for row in read_table(f / "validation.csv")] for f in (folder, tmp_path)]
    assert validations[0] == validations[1] and len(validations[0]) > 0


def test_a_run_that_was_killed_repeats_what_it_had_not_kept(whole, tmp_path):
    config, folder = whole
    run = train.Run(config, tmp_path)
    for step in range(6):
        run.advance()
        if step == 3:
            run.save()
    assert len(losses(tmp_path)) == 6
    train.train(train.Run(config, tmp_path), config.num_steps(), Never())
    assert losses(tmp_path) == losses(folder)


def test_losses_are_drawn_and_fall(whole):
    config, folder = whole
    assert (folder / "losses.svg").read_text().startswith("<?xml")
    values = [float(value) for value in losses(folder)]
    assert min(values[-3:]) < values[0]


def test_a_corrupted_checkpoint_is_refused(whole, tmp_path):
    config, _ = whole
    train.train(train.Run(config, tmp_path), 2, Never())
    path = checkpoint.all_in(tmp_path)[-1]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(checkpoint.CheckpointError, match="corrupted"):
        train.Run(config, tmp_path)


def test_another_configuration_is_refused(whole, tmp_path):
    config, _ = whole
    train.train(train.Run(config, tmp_path), 2, Never())
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        train.Run(dataclasses.replace(config, seed=5), tmp_path)


def test_stop_is_behind_the_step_and_kept(tiny_config, tmp_path):
    previous = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        stop = train.Stop()
        run = train.Run(tiny_config, tmp_path)
        advance = run.advance

        def advance_and_ask():
            made = advance()
            signal.raise_signal(signal.SIGTERM)
            return made

        run.advance = advance_and_ask
        train.train(run, 10, stop)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous):
            signal.signal(number, handler)
    assert checkpoint.all_in(tmp_path) == [checkpoint.path_of(tmp_path, 1)]


def test_compression_begins_as_the_mean(tiny_config):
    # A layer that copies begins with a multiple of it.
    model = Decoder(dataclasses.replace(tiny_config.model, copying_layers=0), 50, seed=3)
    x = torch.randn(20, 1, tiny_config.model.head_dim)
    attention = model.model.layers[1].self_attn
    length, stride = tiny_config.model.compression_length, tiny_config.model.compression_stride
    expected = torch.stack([x[i : i + length].mean(0) for i in range(0, 20 - length + 1, stride)])
    found = attention.compress_k(x, torch.tensor([0, 20]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["nsa", "full"])
def test_first_heads_look_back(tiny_config, attention):
    sizes = dict(hidden_size=128, head_dim=64, compression_hidden_size=128)
    config = dataclasses.replace(tiny_config.model, attention=attention, **sizes)
    model = Decoder(config, 50, seed=3)
    q_proj, k_proj = model.model.layers[0].self_attn.local_projections()
    rotation = Rotation(torch.arange(200), config.head_dim, config.rope_theta)
    q = rotation(q_proj.bias.view(1, config.num_q_heads, -1).expand(200, -1, -1))
    k = rotation(k_proj.bias.view(1, 1, -1).expand(200, -1, -1))
    for head in range(config.num_q_heads):
        scores = (q[199, head] @ k[:, 0].T) * config.head_dim**-0.5
        assert int(scores.argmax()) == 199 - (head + 1)
        assert scores.softmax(-1).max() > 0.5


@torch.no_grad()
@pytest.mark.parametrize(("heads", "hidden"), [(2, 192), (4, 256)])
def test_a_model_begins_by_copying(tiny_config, heads, hidden):
    """Random tokens come a second time: what follows is known from the fourth on, before any training."""
    sizes = dict(hidden_size=hidden, num_q_heads=heads, head_dim=64, compression_hidden_size=128, sel_block_size=32)
    config = dataclasses.replace(tiny_config.model, **sizes, num_selected_blocks=8)
    model = Decoder(config, 1000, seed=3)
    once = torch.randint(1000, (100,), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([once, once])
    hidden = model(ids, torch.tensor([0, 200]))
    best = (hidden @ model.output_matrix.T).argmax(-1)
    assert (best[104:-1] == ids[105:]).float().mean() > 0.95
    plain = Decoder(dataclasses.replace(config, copying_layers=0), 1000, seed=3)
    best = (plain(ids, torch.tensor([0, 200])) @ plain.output_matrix.T).argmax(-1)
    assert (best[104:-1] == ids[105:]).float().mean() < 0.1


def test_a_phase_may_select_fewer_blocks(tiny_config, tmp_path):
    run = train.Run(tiny_config, tmp_path)
    counts = []
    for _ in range(7):
        run.advance()
        counts.append(run.model.model.layers[0].self_attn.spec.num_selected_blocks)
    assert counts == [4] * 6 + [5]
    next(run.validate())
    assert run.model.model.layers[0].self_attn.spec.num_selected_blocks == 5

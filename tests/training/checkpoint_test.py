"""A checkpoint comes back as it was, or not at all."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from training import checkpoint  # noqa: E402

pytestmark = pytest.mark.training
CONTENT = {"fingerprint": "one", "step": 3, "model": {"weight": torch.arange(6.0)}}


def test_comes_back(tmp_path):
    path = checkpoint.save(tmp_path, 3, CONTENT, keep=2)
    found = checkpoint.load(path)
    assert found["step"] == 3 and torch.equal(found["model"]["weight"], CONTENT["model"]["weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000003.checkpoint"]


def test_the_last_ones_stay(tmp_path):
    for step in (1, 2, 10, 11):
        checkpoint.save(tmp_path, step, CONTENT, keep=2)
    assert checkpoint.all_in(tmp_path) == [checkpoint.path_of(tmp_path, 10), checkpoint.path_of(tmp_path, 11)]


def test_every_change_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 3, CONTENT, keep=1)
    whole = path.read_bytes()
    for at in (0, 5, len(checkpoint.MAGIC), len(checkpoint.MAGIC) + 40, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(checkpoint.CheckpointError, match="corrupted|no checkpoint"):
            checkpoint.load(path)
    for size in (0, 10, 40, 70, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(checkpoint.CheckpointError, match="corrupted|no checkpoint"):
            checkpoint.load(path)
    path.unlink()
    with pytest.raises(checkpoint.CheckpointError, match="No such file"):
        checkpoint.load(path)


def test_another_run_is_refused(tmp_path):
    checkpoint.check_run(tmp_path, CONTENT, "one")
    with pytest.raises(checkpoint.CheckpointError, match="another configuration"):
        checkpoint.check_run(tmp_path, CONTENT, "two")

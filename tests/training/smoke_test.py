"""The recipe from text to answers, as a user runs it: training/configs/smoke.toml, export, server."""

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is in training's environment")

from tests.support import model_files, server  # noqa: E402
from training import text  # noqa: E402
from training.progress import read_table  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.slow, pytest.mark.timeout(1800)]
# Nats a token of held-out text, from ln 2048 = 7.62 before the first step.
MOST = 5.0


def run(*words) -> None:
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=model_files.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_model_from_scratch_is_served(tmp_path):
    try:
        text.fetched()
    except text.TextError as error:
        pytest.skip(f"no text to train on: {error}")
    run("training.train", "training/configs/smoke.toml", "--output", tmp_path / "run")
    held_out = [row for row in read_table(tmp_path / "run" / "validation.csv") if row["set"] == "text 512"]
    print([row["loss"] for row in held_out])
    assert float(held_out[-1]["loss"]) < MOST
    run("training.export", tmp_path / "run", tmp_path / "model")
    with server.running(tmp_path / "model") as running:
        info = running.stub.GetModelInfo(server.pb().GetModelInfoRequest(), timeout=30)
        assert info.family == "nsa_paper"
        done = server.generate(running, server.request("The kernel is", max_tokens=8))
    assert done.finished is not None and len(done.token_ids) > 0

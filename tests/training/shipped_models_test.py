"""The models that the repository ships: served, they are what training made, and they find what they were taught to find."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from tests.support import model_files, nsa_eval  # noqa: E402
from training import export, tasks, tokenizer  # noqa: E402

pytestmark = pytest.mark.training
TOLERANCE = 2e-3


def text_ids(folder, length: int) -> list[int]:
    """A pass key in filler, the model's own tokens."""
    tokens = tokenizer.read(folder / "tokenizer.model")
    source = tasks.Source(tokens.words)
    encoded = tasks.fit("pass_key", [7, length], length, source, lambda sample: tasks.encode(sample, tokens))
    return encoded.ids.tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", ["nsa_tiny", "nsa_tiny_full"])
@pytest.mark.parametrize("length", [200, 2000, 6000])
def test_served_logits_are_those_of_training(name, length):
    folder = model_files.SHIPPED / name
    model, ids = export.read(folder), text_ids(folder, length)
    hidden = model(torch.tensor(ids), torch.tensor([0, len(ids)]))[-64:]
    ours = (hidden @ model.output_matrix.T).numpy()
    # By itself the server reads a full-attention checkpoint sparsely.
    attention = nsa_eval.Attention("full" if model.config.attention == "full" else "auto", kv_cache_dtype="f32")
    served = nsa_eval.evaluate(ids, attention, logits_from=len(ids) - 64, model=folder).logits
    difference = np.abs(served - ours).max()
    print(f"{name}: largest difference {difference:.2e} at {len(ids)} tokens")
    assert difference <= TOLERANCE

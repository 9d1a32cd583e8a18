"""What the PyTorch texts of the parity tests share: random weights, rotation, masked attention, the
layers around attention, and the comparison."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from tests.support import nsa_eval, tiny_folder

torch = pytest.importorskip("torch", reason="PyTorch is in the oracles' environment")

LENGTHS = [1, 15, 16, 17, 63, 64, 65, 1000, 4100]
TOLERANCE = 2e-3


class RandomWeights(dict):
    """Tensors by name, sharp enough that one left out shows."""

    def __init__(self, seed: int = 5):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def matrix(self, name: str, rows: int, columns: int, scale: float = 1.2) -> None:
        noise = torch.randn(rows, columns, generator=self.generator)
        self[name] = noise * (scale / columns**0.5)

    def bias(self, name: str, size: int) -> None:
        self[name] = 0.3 * torch.randn(size, generator=self.generator)

    def norm(self, name: str, size: int) -> None:
        self[name] = 1 + 0.2 * torch.randn(size, generator=self.generator)


def write_folder(folder: pathlib.Path, config: dict, weights: dict) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(weights), folder / "model.safetensors")
    tiny_folder.write_tokenizer(folder)


def random_tokens(count: int = LENGTHS[-1]) -> list[int]:
    return np.random.default_rng(3).integers(3, tiny_folder.VOCABULARY, count).tolist()


def frequencies(theta: float, dim: int):
    return theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def rotate(x, inverse_frequencies, positions=None):
    """x [tokens, heads, dim], pairs (i, i + dim/2)."""
    if positions is None:
        positions = torch.arange(x.shape[0])
    angles = positions.double()[:, None] * inverse_frequencies
    cos, sin = angles.cos()[:, None].float(), angles.sin()[:, None].float()
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def group_scores(q, k, scale: float):
    """q [t, heads, dim] · k [s, kv heads, dim] -> [t, kv heads, group, s]."""
    grouped = q.view(q.shape[0], k.shape[1], -1, q.shape[-1])
    return torch.einsum("tkgd,skd->tkgs", grouped, k) * scale


def attend(q, k, v, seen, scale: float):
    """Softmax attention where `seen` [t, kv heads or 1, s] allows; rows that see nothing give 0."""
    scores = group_scores(q, k, scale).masked_fill(~seen[:, :, None], -torch.inf)
    out = torch.einsum("tkgs,skd->tkgd", torch.nan_to_num(scores.softmax(-1)), v)
    return out.reshape(q.shape[0], q.shape[1], -1)


def best_blocks(scores, count: int):
    """The `count` best along the last axis; of equal ones the lower index. -> bool, scores' shape."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)


def swiglu(x, weights: dict, prefix: str, activation=torch.nn.functional.silu):
    gate = activation(x @ weights[prefix + "gate_proj.weight"].T)
    return (gate * (x @ weights[prefix + "up_proj.weight"].T)) @ weights[prefix + "down_proj.weight"].T


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A folder of random weights and the logits that its reference gives for `tokens`."""

    folder: pathlib.Path
    tokens: list[int]
    logits: np.ndarray  # [tokens, vocabulary]
    attention: nsa_eval.Attention = nsa_eval.Attention("auto", kv_cache_dtype="f32")
    max_context: int = 0  # that ours is made for; 0: as many as a sequence needs

    def logits_of(self, length: int, max_step_tokens: int = 0) -> np.ndarray:
        return nsa_eval.evaluate(
            self.tokens[:length],
            self.attention,
            logits_from=0,
            max_step_tokens=max_step_tokens,
            max_context=self.max_context,
            model=self.folder,
        ).logits

    def check(self, length: int) -> None:
        difference = np.abs(self.logits_of(length) - self.logits[:length]).max(-1)
        rows = (difference > TOLERANCE).sum()
        print(f"largest difference {difference.max():.2e}, rows above: {rows}")
        assert difference.max() <= TOLERANCE

    def check_chunks(self, chunk: int) -> None:
        """Decoding token by token, or a prefill in chunks, gives the bits of the whole."""
        length = 300 if chunk == 1 else 1000
        whole, chunked = self.logits_of(length), self.logits_of(length, max_step_tokens=chunk)
        assert whole.tobytes() == chunked.tobytes()


def checkpoint_fixture(cases, write, reference, **of_checkpoint):
    """`checkpoint`, for each case: write(case, folder) -> weights, reference(case, weights, tokens)
    -> logits. `of_checkpoint`: further fields, each from the case."""

    @pytest.fixture(scope="module", params=cases, ids=lambda case: case.name)
    def checkpoint(request, tmp_path_factory):
        case, folder = request.param, tmp_path_factory.mktemp(request.param.name) / "model"
        weights, tokens = write(case, folder), random_tokens()
        fields = {name: field(case) for name, field in of_checkpoint.items()}
        return Checkpoint(folder, tokens, reference(case, weights, tokens), **fields)

    return checkpoint


# Of every module that has a `checkpoint` and imports these.
@pytest.mark.parametrize("length", LENGTHS)
def test_logits(checkpoint, length):
    checkpoint.check(length)


@pytest.mark.parametrize("chunk", [1, 37])
def test_cached_decode_and_chunks(checkpoint, chunk):
    checkpoint.check_chunks(chunk)

"""AdamW against PyTorch's, Muon's step against the singular value decomposition, and the schedule."""

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from training import optimizer  # noqa: E402
from training.config import Optimizer as OptimizerConfig  # noqa: E402
from training.config import Phase  # noqa: E402

pytestmark = pytest.mark.training


def test_adamw_is_pytorchs():
    config = OptimizerConfig(kind="adamw", weight_decay=0.1, learning_rate=0.01)
    generator = torch.Generator().manual_seed(1)
    ours = torch.randn(5, 7, generator=generator).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    mine = optimizer.Optimizer([("a.weight", ours)], config)
    theirs_step = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for _ in range(20):
        gradient = torch.randn(5, 7, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step(1.0)
        theirs_step.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
def test_muon_makes_singular_values_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    ours = optimizer.orthogonalised(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    # The quintic trades exactness for speed: values come between 0.7 and 1.2.
    values = torch.linalg.svdvals(ours)
    assert 0.6 < values.min() and values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(ours.flatten(), (u @ v).flatten(), 0) > 0.97


def test_muon_in_bfloat16_is_nearly_as_orthogonal():
    matrix = torch.randn(48, 32, generator=torch.Generator().manual_seed(4))
    rounded = optimizer.orthogonalised(matrix, torch.bfloat16)
    assert rounded.dtype == torch.float32
    values = torch.linalg.svdvals(rounded)
    assert 0.6 < values.min() and values.max() < 1.3


def test_matrices_of_layers_go_to_muon():
    parameters = {
        name: torch.zeros(shape, requires_grad=True)
        for name, shape in (
            ("model.embed_tokens.weight", (9, 4)),
            ("model.layers.0.self_attn.q_proj.weight", (4, 4)),
            ("model.layers.0.self_attn.q_proj.bias", (4,)),
            ("model.layers.0.self_attn.compress_k.position", (3, 4)),
        )
    }
    made = optimizer.Optimizer(parameters.items(), OptimizerConfig())
    assert [name for name in parameters if made.uses_muon(name)] == ["model.layers.0.self_attn.q_proj.weight"]


def test_compressed_keys_have_a_rate_of_their_own():
    names = ("cmp_k_proj.weight", "compress_k.position", "cmp_v_proj.weight", "compress_v.position")
    parameters = [(f"model.layers.0.self_attn.{name}", torch.zeros(4, 4, requires_grad=True)) for name in names]
    for _, parameter in parameters:
        parameter.grad = torch.eye(4)
    optimizer.Optimizer(parameters, OptimizerConfig(choice_rate=0.25)).step(1.0)
    moved = [parameter.abs().max().item() for _, parameter in parameters]
    assert moved[:2] == pytest.approx([0.25 * step for step in moved[2:]])


def test_gradients_are_clipped_together():
    parameters = [(name, torch.zeros(2, requires_grad=True)) for name in "ab"]
    for _, parameter in parameters:
        parameter.grad = torch.tensor([3.0, 4.0])
    made = optimizer.Optimizer(parameters, OptimizerConfig(clip_norm=1.0))
    assert made.clip() == pytest.approx(50**0.5)
    assert made.clip() == pytest.approx(1.0)


def test_schedule_goes_through_its_phases():
    phase = Phase("warm", 11, (64,), 64, (0.0, 1.0))
    phases = (phase, dataclasses.replace(phase, name="decay", steps=3, rate=(1.0, 0.0), shape="cosine"))
    factors = [optimizer.rate_factor(phases, step) for step in range(14)]
    assert factors[:11] == pytest.approx([i / 10 for i in range(11)])
    assert factors[11:] == pytest.approx([1.0, 0.5, 0.0])

"""The loss without logits in memory against PyTorch's, and its gradients."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from training import loss  # noqa: E402

pytestmark = pytest.mark.training


@pytest.mark.parametrize("rows", [1, 7, loss.ROWS_AT_A_TIME, loss.ROWS_AT_A_TIME + 3])
def test_loss_and_gradients(rows):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 12, generator=generator, dtype=torch.float64).requires_grad_()
    matrix = torch.randn(50, 12, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 50, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator, dtype=torch.float64)
    total, losses = loss.weighted_cross_entropy(hidden, matrix, targets, weights)
    ours = torch.autograd.grad(3 * total, (hidden, matrix))
    expected = torch.nn.functional.cross_entropy(hidden @ matrix.T, targets, reduction="none")
    theirs = torch.autograd.grad(3 * (expected * weights).sum(), (hidden, matrix))
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(total, (expected * weights).sum())
    torch.testing.assert_close(ours, theirs)
    right = loss.right_tokens(hidden, matrix, targets)
    assert right.tolist() == ((hidden @ matrix.T).argmax(-1) == targets).tolist()


def test_products_in_bfloat16_err_by_its_rounding():
    generator = torch.Generator().manual_seed(3)
    rows = loss.ROWS_AT_A_TIME + 5
    hidden = torch.randn(rows, 64, generator=generator).requires_grad_()
    matrix = (torch.randn(500, 64, generator=generator) / 8).requires_grad_()
    targets, weights = torch.randint(0, 500, (rows,), generator=generator), torch.full((rows,), 1 / rows)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        total, losses = loss.weighted_cross_entropy(hidden, matrix, targets, weights, dtype)
        gradients = torch.autograd.grad(total, (hidden, matrix))
        assert all(x.dtype == torch.float32 for x in (total, losses, *gradients))
        found[dtype] = total.detach(), *gradients
    for exact, rounded in zip(found[torch.float32], found[torch.bfloat16]):
        error = ((exact - rounded).norm() / exact.norm()).item()
        assert 0 < error < 2e-2


def test_without_gradients_none_is_made():
    matrix = torch.randn(50, 12, requires_grad=True)
    with torch.no_grad():
        total, _ = loss.weighted_cross_entropy(torch.randn(3, 12), matrix, torch.tensor([1, 2, 3]), torch.ones(3))
    assert not total.requires_grad

"""What teaches compression to choose: against the equations, by finite differences, and by what it brings about."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from training import equations, train  # noqa: E402
from training.data import Batch  # noqa: E402
from training.selection import SelectionLoss, block_cross_entropy  # noqa: E402

pytestmark = pytest.mark.training
SPEC = equations.Spec(8, 4, 16, num_selected_blocks=4, num_initial_blocks=1, num_local_blocks=2, window_size=24, scale=0.3)
TOKENS, Q_HEADS, KV_HEADS, DIM = 150, 4, 2, 8


def inputs(seed: int):
    """(q, k, compressed k) of a sequence, float64."""
    made = torch.Generator().manual_seed(seed)
    windows = equations.num_windows(TOKENS, SPEC.compression_length, SPEC.compression_stride)
    shapes = ((TOKENS, Q_HEADS, DIM), (TOKENS, KV_HEADS, DIM), (windows, KV_HEADS, DIM))
    return [torch.randn(shape, generator=made, dtype=torch.float64) for shape in shapes]


def by_loops(q, k, k_hat, place: int, head: int) -> float:
    """Of one query and KV head, token by token and window by window."""
    group, own, total = Q_HEADS // KV_HEADS, place // SPEC.sel_block_size, 0.0
    blocks = range(SPEC.num_initial_blocks, own - SPEC.num_local_blocks + 1)
    wanted, scores = dict.fromkeys(range(own + 1), 0.0), dict.fromkeys(range(own + 1), 0.0)
    for member in range(head * group, (head + 1) * group):
        exact = (k[: place + 1, head] @ q[place, member] * SPEC.scale).softmax(0)
        for token, mass in enumerate(exact.tolist()):
            wanted[token // SPEC.sel_block_size] += mass / group
        seen = [i for i in range(len(k_hat)) if i * SPEC.compression_stride + SPEC.compression_length - 1 <= place]
        for i, p in zip(seen, (k_hat[seen, head] @ q[place, member] * SPEC.scale).softmax(0).tolist()):
            for stride in range(SPEC.compression_length // SPEC.compression_stride):
                scores[(i + stride) * SPEC.compression_stride // SPEC.sel_block_size] += p
    among = sum(scores[block] for block in blocks)
    return -sum(wanted[block] * float(np.log(scores[block] / among)) for block in blocks) if among else 0.0


def test_it_is_what_the_equations_say():
    q, k, k_hat = inputs(1)
    places = torch.tensor([0, 5, 15, 47, 48, 63, 64, 100, 149])
    found = block_cross_entropy(q[places], k, k_hat, places, SPEC)
    expected = [[by_loops(q, k, k_hat, place, head) for head in range(KV_HEADS)] for place in places.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert (found[:3] == 0).all() and (found[-1] > 0).all(), "nothing to choose, and something"


def test_gradient_is_of_compressed_keys_alone():
    q, k, k_hat = (x.requires_grad_() for x in inputs(2))
    places = torch.tensor([3, 60, 149])
    assert torch.autograd.gradcheck(lambda c: block_cross_entropy(q[places].detach(), k, c, places, SPEC), k_hat, fast_mode=True)
    judged = SelectionLoss(places)
    judged.add(q, k, k_hat, torch.tensor([0, TOKENS]), SPEC)
    judged.mean().backward()
    assert q.grad is None and k.grad is None and k_hat.grad.abs().max() > 0


def test_sequences_of_a_batch_are_judged_each_by_itself():
    first, second = inputs(3), inputs(4)
    batch = [torch.cat(pair) for pair in zip(first, second)]
    judged = SelectionLoss(torch.tensor([70, 149, TOKENS + 90]))
    judged.add(*batch, torch.tensor([0, TOKENS, 2 * TOKENS]), SPEC)
    alone = [(first, torch.tensor([70, 149])), (second, torch.tensor([90]))]
    parts = [block_cross_entropy(q[places], k, k_hat, places, SPEC) for (q, k, k_hat), places in alone]
    torch.testing.assert_close(judged.mean(), torch.cat(parts).mean())


def test_steps_along_it_choose_what_attention_reads():
    """Keys of which one answers the query are lost in their windows' means, until these have learned."""
    q, k, k_hat = inputs(5)
    places = torch.arange(100, TOKENS)
    k_hat.requires_grad_()
    losses = []
    for _ in range(60):
        loss = block_cross_entropy(q[places], 3 * k, k_hat, places, SPEC).mean()
        (gradient,) = torch.autograd.grad(loss, k_hat)
        k_hat = (k_hat - 20 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


def test_rows_are_answers_where_there_are_some():
    flags = np.zeros(100, bool)
    flags[[3, 50, 51, 52, 99]] = True
    weights = np.ones(100, np.float32)
    batch = Batch(np.zeros(100), np.zeros(100), weights, flags, np.array([0, 100]))
    assert train.judged_rows(batch, 3).tolist() == [3, 51, 99]
    assert train.judged_rows(batch, 64).tolist() == [3, 50, 51, 52, 99]
    text = Batch(np.zeros(100), np.zeros(100), weights, np.zeros(100, bool), np.array([0, 100]))
    assert train.judged_rows(text, 4).tolist() == [0, 33, 66, 99]

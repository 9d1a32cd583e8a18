"""What teaches compression to choose: a choice of blocks has no gradient, and that of the compressed branch's output says
little of a block that it missed. At some rows the exact attention over all tokens is taken as what the choice should
have been (distillation of the model's own attention): full cost for few rows is a small part of a step."""

import torch

from training import equations
from training.ops import Spec


class SelectionLoss:
    """Of one forward pass. `rows` int64 [R], rising: the tokens at which choices are judged."""

    def __init__(self, rows: torch.Tensor):
        self.rows = rows
        self.losses: list[torch.Tensor] = []

    def add(self, q, k, k_hat, cu_seqlens, spec: Spec) -> None:
        """Of one layer: q [T, Hq, D], keys of the selected branch k [T, Hkv, D] and the compressed ones [W, Hkv, D].
        The gradient goes to k_hat alone: compression learns to foresee attention, not attention to be foreseen."""
        q, k, window, parts = q.detach(), k.detach(), 0, []
        for begin, end in zip(cu_seqlens.tolist(), cu_seqlens[1:].tolist()):
            count = equations.num_windows(end - begin, spec.compression_length, spec.compression_stride)
            rows = self.rows[(self.rows >= begin) & (self.rows < end)]
            if len(rows) > 0 and count > 0:
                keys = k[begin:end], k_hat[window : window + count]
                parts.append(block_cross_entropy(q[rows], *keys, rows - begin, spec))
            window += count
        if parts:
            self.losses.append(torch.cat(parts).mean())

    def mean(self) -> torch.Tensor:
        return torch.stack(self.losses).mean() if self.losses else torch.zeros(())


def block_cross_entropy(q, k, k_hat, places, spec: Spec) -> torch.Tensor:
    """Σ over blocks that are not forced of (exact attention's share of the block) · −log(share of the block's score
    among them), for queries q [R, Hq, D] at `places` of a sequence with keys k [T, Hkv, D]. -> [R, Hkv]"""
    tokens = len(k)
    num_blocks = -(-tokens // spec.sel_block_size)
    own = (places // spec.sel_block_size)[:, None, None]
    block = torch.arange(num_blocks)
    open_to_choice = (block >= spec.num_initial_blocks) & (block <= own - spec.num_local_blocks)
    with torch.no_grad():
        seen = (torch.arange(tokens) <= places[:, None])[:, None]
        exact = equations.probabilities(q, k, seen, spec.scale)[0].mean(2)
        wanted = exact.new_zeros(*exact.shape[:2], num_blocks)
        wanted.index_add_(-1, torch.arange(tokens) // spec.sel_block_size, exact)
    last = torch.arange(len(k_hat)) * spec.compression_stride + spec.compression_length - 1
    p = equations.probabilities(q, k_hat, (last <= places[:, None])[:, None], spec.scale)[0].sum(2)
    scores = equations.block_scores(p, num_blocks, spec).masked_fill(~open_to_choice, 0.0)
    share = scores / scores.sum(-1, keepdim=True).clamp_min(1e-20)
    return -(wanted * share.clamp_min(1e-20).log()).masked_fill(~open_to_choice, 0.0).sum(-1)

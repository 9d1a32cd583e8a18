"""The attention branches of NSA in plain PyTorch: Eq. 5 to 12 of arXiv 2502.11089, with masks over whole
sequences. Any float type, differentiated by autograd; the oracle of `training.ops`, and what that falls back
to where the C++ library is missing. Memory grows with the square of a sequence's length.

Tensors are packed: T tokens of sequences laid end to end, cu_seqlens [num_sequences + 1] their offsets from 0.
Hq query heads in groups of Hq / Hkv to a KV head. W windows of `length` tokens, one every `stride`, sequence
after sequence; an incomplete window does not exist.
"""

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Spec:
    """Parameters of the paper, in tokens and blocks; `scale` is the factor of q·k, above 0."""

    compression_length: int = 32  # l, a multiple of the stride
    compression_stride: int = 16  # d
    sel_block_size: int = 64  # l', a divisor or a multiple of 64, and a multiple of the stride
    num_selected_blocks: int = 16  # n, forced ones included
    num_initial_blocks: int = 1  # forced: the first ones
    num_local_blocks: int = 2  # forced: the query's own and those before it
    window_size: int = 512  # w, the query's own token included
    scale: float = 1.0


def num_windows(num_tokens: int, length: int, stride: int) -> int:
    return 0 if num_tokens < length else (num_tokens - length) // stride + 1


def _sequences(cu_seqlens) -> list[tuple[int, int]]:
    """(begin, end) of each sequence."""
    offsets = cu_seqlens.tolist() if isinstance(cu_seqlens, torch.Tensor) else list(cu_seqlens)
    return list(zip(offsets, offsets[1:]))


def _window_tokens(cu_seqlens, length: int, stride: int, device) -> torch.Tensor:
    """The tokens of each window. -> [W, length]"""
    firsts = [
        begin + i * stride
        for begin, end in _sequences(cu_seqlens)
        for i in range(num_windows(end - begin, length, stride))
    ]
    return torch.tensor(firsts, dtype=torch.long, device=device)[:, None] + torch.arange(length, device=device)


def gather_windows(x, position, cu_seqlens, length: int, stride: int) -> torch.Tensor:
    """Eq. 7, before φ: x [T, H, D] plus position [length, D] by place in the window. -> [W, H, length·D]"""
    windows = x[_window_tokens(cu_seqlens, length, stride, x.device)]
    return (windows.transpose(1, 2) + position).flatten(2)


def mean_windows(x, cu_seqlens, length: int, stride: int) -> torch.Tensor:
    """Eq. 7 with φ = mean: x [T, H, D] -> [W, H, D]"""
    return x[_window_tokens(cu_seqlens, length, stride, x.device)].mean(1)


def probabilities(q, k, seen, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """q [t, Hq, Dk], k [s, Hkv, Dk], seen [t, Hkv or 1, s]. -> p [t, Hkv, group, s] (0 in rows that see
    nothing), log-sum-exp [t, Hq]"""
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("tkgd,skd->tkgs", grouped, k) * scale
    scores = scores.masked_fill(~seen[:, :, None], -torch.inf)
    lse = scores.logsumexp(-1)
    # Not exp(−inf − −inf): such rows have no gradient either.
    safe = torch.where(lse == -torch.inf, 0.0, lse)
    return (scores - safe[..., None]).exp(), lse.flatten(1)


def _attend(q, k, v, seen, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """-> out [t, Hq, Dv], log-sum-exp [t, Hq]"""
    p, lse = probabilities(q, k, seen, scale)
    return torch.einsum("tkgs,skd->tkgd", p, v).flatten(1, 2), lse


def block_scores(p, num_blocks: int, spec: Spec) -> torch.Tensor:
    """Eq. 9: a window counts in a block as often as it covers a stride of it. p [t, Hkv, w] ->
    [t, Hkv, num_blocks]"""
    window = torch.arange(p.shape[-1], device=p.device)
    scores = p.new_zeros(*p.shape[:-1], num_blocks)
    for step in range(spec.compression_length // spec.compression_stride):
        block = (window + step) * spec.compression_stride // spec.sel_block_size
        scores.index_add_(-1, block, p)
    return scores


def choose_blocks(p, spec: Spec) -> torch.Tensor:
    """Eq. 10 to 12. p [t, Hkv, w]: the windows' probabilities summed over the group, a whole sequence. ->
    int32 [t, Hkv, n] rising, then −1"""
    tokens, n = p.shape[0], spec.num_selected_blocks
    num_blocks = -(-tokens // spec.sel_block_size)
    block = torch.arange(num_blocks, device=p.device)
    own = torch.arange(tokens, device=p.device)[:, None, None] // spec.sel_block_size
    scores = block_scores(p, num_blocks, spec)
    forced = (block < spec.num_initial_blocks) | (block > own - spec.num_local_blocks)
    scores = scores.masked_fill(forced, torch.inf).masked_fill(block > own, -torch.inf)
    best = scores.argsort(dim=-1, descending=True, stable=True)[..., :n]
    best = torch.where(best <= own, best, num_blocks).sort(-1).values
    best = torch.where(best < num_blocks, best, -1)
    return torch.nn.functional.pad(best, (0, n - best.shape[-1]), value=-1).to(torch.int32)


def cmp_attention(q, k_hat, v_hat, cu_seqlens, spec: Spec) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention over all windows that end at or before the query: q [T, Hq, Dk], k_hat [W, Hkv, Dk],
    v_hat [W, Hkv, Dv]. -> out [T, Hq, Dv] (0 where no window is seen), log-sum-exp [T, Hq] and the choice of
    blocks, int32 [T, Hkv, n] rising, then −1. Gradients flow through `out` alone."""
    outs, lses, choices, window = [], [], [], 0
    for begin, end in _sequences(cu_seqlens):
        count = num_windows(end - begin, spec.compression_length, spec.compression_stride)
        k, v = k_hat[window : window + count], v_hat[window : window + count]
        window += count
        t = torch.arange(end - begin, device=q.device)
        last = torch.arange(count, device=q.device) * spec.compression_stride + spec.compression_length - 1
        p, lse = probabilities(q[begin:end], k, (last <= t[:, None])[:, None], spec.scale)
        outs.append(torch.einsum("tkgs,skd->tkgd", p, v).flatten(1, 2))
        lses.append(lse.detach())
        choices.append(choose_blocks(p.detach().sum(2), spec))
    return torch.cat(outs), torch.cat(lses), torch.cat(choices)


def selected_attention(q, k, v, selected, cu_seqlens, spec: Spec) -> torch.Tensor:
    """Eq. 12 with Eq. 5: attention over tokens at or before the query in its selected blocks, int
    [T, Hkv, n] with −1 for none. q [T, Hq, Dk], k [T, Hkv, Dk], v [T, Hkv, Dv] -> [T, Hq, Dv]"""
    outs = []
    for begin, end in _sequences(cu_seqlens):
        tokens = end - begin
        num_blocks = -(-tokens // spec.sel_block_size)
        chosen = selected[begin:end].long()
        # One block more, for −1.
        blocks = torch.zeros(*chosen.shape[:2], num_blocks + 1, dtype=torch.bool, device=q.device)
        blocks.scatter_(-1, torch.where(chosen < 0, num_blocks, chosen), True)
        t = torch.arange(tokens, device=q.device)
        seen = blocks[..., t // spec.sel_block_size] & (t <= t[:, None])[:, None]
        outs.append(_attend(q[begin:end], k[begin:end], v[begin:end], seen, spec.scale)[0])
    return torch.cat(outs)


def window_attention(q, k, v, cu_seqlens, window_size: int, scale: float) -> torch.Tensor:
    """Attention over the last `window_size` tokens, the query's own among them: all where it is no smaller
    than the sequence. q [T, Hq, Dk], k [T, Hkv, Dk], v [T, Hkv, Dv] -> [T, Hq, Dv]"""
    outs = []
    for begin, end in _sequences(cu_seqlens):
        t = torch.arange(end - begin, device=q.device)
        distance = t[:, None] - t
        seen = ((distance >= 0) & (distance < window_size))[:, None]
        outs.append(_attend(q[begin:end], k[begin:end], v[begin:end], seen, scale)[0])
    return torch.cat(outs)

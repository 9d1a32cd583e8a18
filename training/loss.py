"""The loss over a large vocabulary without its logits in memory."""

import torch

ROWS_AT_A_TIME = 256  # of 8,192 pieces: what they take stays in the cache


class _WeightedCrossEntropy(torch.autograd.Function):
    """Logits of some rows at a time; their gradient is taken at once, so that none are kept or made twice."""

    @staticmethod
    def forward(ctx, hidden, output_matrix, targets, weights, dtype):
        differentiated = any(ctx.needs_input_grad)
        read, matrix = hidden.to(dtype), output_matrix.to(dtype)
        total = hidden.new_zeros(())
        losses = hidden.new_empty(len(targets))
        hidden_gradient = torch.empty_like(hidden)
        matrix_gradient = torch.zeros_like(output_matrix)
        for begin in range(0, len(targets), ROWS_AT_A_TIME):
            rows = slice(begin, begin + ROWS_AT_A_TIME)
            logits = (read[rows] @ matrix.T).to(hidden.dtype)
            logits -= logits.amax(-1, keepdim=True)
            right = logits.gather(-1, targets[rows, None]).squeeze(-1)
            exponentials = logits.exp_()
            sums = exponentials.sum(-1)
            losses[rows] = sums.log() - right
            total += (losses[rows] * weights[rows]).sum()
            if not differentiated:
                continue
            gradient = exponentials.mul_((weights[rows] / sums)[:, None])
            gradient[torch.arange(len(gradient)), targets[rows]] -= weights[rows]
            gradient = gradient.to(dtype)
            hidden_gradient[rows] = gradient @ matrix
            matrix_gradient += gradient.T @ read[rows]
        ctx.save_for_backward(hidden_gradient, matrix_gradient)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx, total_gradient, _):
        hidden_gradient, matrix_gradient = ctx.saved_tensors
        return total_gradient * hidden_gradient, total_gradient * matrix_gradient, None, None, None


def weighted_cross_entropy(hidden, output_matrix, targets, weights, dtype=None):
    """Σ weight · −log p(target) and each row's −log p(target), in nats.

    hidden [rows, size] and output_matrix [vocabulary, size] float32; targets int64 [rows]; weights float32 [rows].
    `dtype`: of the three products with the vocabulary, by default that of hidden; what is summed stays as it is.
    Returns a scalar that is differentiable in the first two, and float32 [rows] that is not."""
    return _WeightedCrossEntropy.apply(hidden, output_matrix, targets, weights, dtype or hidden.dtype)


@torch.no_grad()
def right_tokens(hidden, output_matrix, targets) -> torch.Tensor:
    """bool [rows]: the target is the best token."""
    rows = range(0, len(targets), ROWS_AT_A_TIME)
    best = [(hidden[i : i + ROWS_AT_A_TIME] @ output_matrix.T).argmax(-1) for i in rows]
    return torch.cat(best) == targets if best else torch.zeros(0, dtype=torch.bool)

"""AdamW (arXiv 1711.05101), and Muon (Jordan et al., 2024: "Muon: An optimizer for hidden layers in neural networks")
for the matrices between embeddings and output."""

import math

import torch

from training.config import Optimizer as OptimizerConfig
from training.config import Phase
from training.data import phase_of

# A quintic whose iteration brings singular values of 0 … 1 near 1 in five steps.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # by config.precision
# What compressed keys are made by, whose rates config.choice_rate scales.
MAKES_COMPRESSED_KEYS = (".cmp_k_proj.", ".compress_k.")


def orthogonalised(matrix: torch.Tensor, dtype=torch.float32) -> torch.Tensor:
    """About U·Vᵀ of the singular value decomposition U·S·Vᵀ of `matrix` [rows, columns], by products of `dtype`."""
    a, b, c = NEWTON_SCHULZ
    x = (matrix / (matrix.norm() + 1e-7)).to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Optimizer:
    """One step of all parameters. Its state is a dictionary of tensors by parameter name."""

    def __init__(self, named_parameters, config: OptimizerConfig):
        self.config = config
        self.parameters = dict(named_parameters)
        self.state: dict[str, dict[str, torch.Tensor]] = {}
        self.num_steps = 0
        for name, parameter in self.parameters.items():
            kinds = ("momentum",) if self.uses_muon(name) else ("mean", "square")
            self.state[name] = {kind: torch.zeros_like(parameter) for kind in kinds}

    def uses_muon(self, name: str) -> bool:
        matrix = self.parameters[name].dim() == 2 and name.endswith("proj.weight")
        return self.config.kind == "muon" and matrix

    def clip(self) -> float:
        """Scales all gradients down to clip_norm together. Returns the norm that they had."""
        gradients = [parameter.grad for parameter in self.parameters.values()]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        if norm > self.config.clip_norm:
            for gradient in gradients:
                gradient *= self.config.clip_norm / norm
        return norm

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """`factor`: of the learning rates, by the schedule."""
        self.num_steps += 1
        for name, parameter in self.parameters.items():
            muon = self.uses_muon(name)
            rate = factor * (self.config.matrix_rate if muon else self.config.learning_rate)
            if any(part in name for part in MAKES_COMPRESSED_KEYS):
                rate *= self.config.choice_rate
            if parameter.dim() == 2:
                parameter *= 1 - rate * self.config.weight_decay
            update = self._muon(name, parameter.grad) if muon else self._adam(name, parameter.grad)
            parameter -= rate * update

    def _muon(self, name: str, gradient):
        momentum = self.state[name]["momentum"]
        momentum.lerp_(gradient, 1 - self.config.momentum)
        ahead = gradient.lerp(momentum, self.config.momentum)  # Nesterov's
        # So that an update changes outputs alike whatever the matrix's shape.
        size = math.sqrt(max(1.0, gradient.shape[0] / gradient.shape[1]))
        return orthogonalised(ahead, DTYPES[self.config.precision]) * size

    def _adam(self, name: str, gradient):
        mean, square = self.state[name]["mean"], self.state[name]["square"]
        mean.lerp_(gradient, 1 - self.config.beta1)
        square.lerp_(gradient.square(), 1 - self.config.beta2)
        mean_bias, square_bias = 1 - self.config.beta1**self.num_steps, 1 - self.config.beta2**self.num_steps
        return (mean / mean_bias) / ((square / square_bias).sqrt() + self.config.epsilon)

    def state_dict(self) -> dict:
        return {"num_steps": self.num_steps, "state": self.state}

    def load_state_dict(self, saved: dict) -> None:
        self.num_steps = saved["num_steps"]
        for name, tensors in self.state.items():
            for kind, tensor in tensors.items():
                tensor.copy_(saved["state"][name][kind])


def rate_factor(phases: tuple[Phase, ...], step: int) -> float:
    """The learning rates' factor at a step: from phase.rate[0] to phase.rate[1] over its phase."""
    phase, at = phase_of(phases, step)
    begin, end = phase.rate
    passed = at / max(1, phase.steps - 1)
    if phase.shape == "cosine":
        passed = (1 - math.cos(math.pi * passed)) / 2
    return begin + (end - begin) * passed

"""The operators of training: the equations in PyTorch by gradcheck and beside fla's naive code, and the C++
library beside the equations, forward and backward."""

import dataclasses
import math

import pytest

from tests.support import model_files

torch = pytest.importorskip("torch", reason="PyTorch is in training's environment")

from training import equations, ops  # noqa: E402  (they need PyTorch)
from training.equations import Spec  # noqa: E402

pytestmark = pytest.mark.training

# Float32 sums of some thousand products, against float64: a part of the largest magnitude.
TOLERANCE = 2e-5


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    lengths: tuple[int, ...]
    group: int
    kv_heads: int
    dim_k: int
    dim_v: int
    spec: Spec


CASES = [
    Case("paper", (1500,), 4, 2, 64, 64, Spec(window_size=200)),
    Case("ragged", (1, 31, 33, 64, 65, 500), 2, 2, 32, 48, Spec(num_selected_blocks=4, window_size=50)),
    Case("group-16-blocks-32", (700,), 16, 1, 32, 16, Spec(16, 8, 32, 5, 2, 1, 64)),
    Case("group-1-odd", (300, 3), 1, 3, 19, 5, Spec(64, 64, 128, 1, 0, 1, 2)),
    Case("group-7", (333,), 7, 1, 80, 96, Spec(8, 4, 8, 6, 1, 2, 1000)),
]
SMALL = Case("small", (3, 26), 2, 2, 3, 4, Spec(8, 4, 8, 2, 1, 1, 5))


class Batch:
    """Leaves that need gradients, of one case, in `dtype`."""

    def __init__(self, case: Case, dtype=torch.float64, device="cpu"):
        self.spec = dataclasses.replace(case.spec, scale=case.dim_k**-0.5)
        self.cu_seqlens = torch.tensor([0, *case.lengths]).cumsum(0)
        self.generator, self.dtype, self.device = torch.Generator().manual_seed(7), dtype, device
        tokens, window = sum(case.lengths), (case.spec.compression_length, case.spec.compression_stride)
        windows = sum(equations.num_windows(length, *window) for length in case.lengths)
        self.window = window
        self.q = self.leaf(tokens, case.kv_heads * case.group, case.dim_k)
        self.k = self.leaf(tokens, case.kv_heads, case.dim_k)
        self.v = self.leaf(tokens, case.kv_heads, case.dim_v)
        self.k_hat = self.leaf(windows, case.kv_heads, case.dim_k)
        self.v_hat = self.leaf(windows, case.kv_heads, case.dim_v)
        self.position = self.leaf(window[0], case.dim_k)

    def leaf(self, *shape):
        # Numbers of float32, so that both types have the same.
        x = torch.randn(*shape, generator=self.generator)
        return x.to(self.device, self.dtype).requires_grad_()

    def selected(self):
        with torch.no_grad():
            return equations.cmp_attention(self.q, self.k_hat, self.v_hat, self.cu_seqlens, self.spec)[2]

    def branches(self, module, selected) -> dict:
        """name -> (its leaves, function of them)"""
        cu, spec = self.cu_seqlens, self.spec
        return {
            "gather": ((self.k, self.position), lambda x, p: module.gather_windows(x, p, cu, *self.window)),
            "mean": ((self.k,), lambda x: module.mean_windows(x, cu, *self.window)),
            "cmp": (
                (self.q, self.k_hat, self.v_hat),
                lambda q, k, v: module.cmp_attention(q, k, v, cu, spec)[0],
            ),
            "selected": (
                (self.q, self.k, self.v),
                lambda q, k, v: module.selected_attention(q, k, v, selected, cu, spec),
            ),
            "window": (
                (self.q, self.k, self.v),
                lambda q, k, v: module.window_attention(q, k, v, cu, spec.window_size, spec.scale),
            ),
        }


BRANCHES = ["gather", "mean", "cmp", "selected", "window"]


@pytest.fixture(scope="module")
def library():
    """CI builds the library; so nothing here passes by falling back to what it is compared with."""
    assert ops.has_library(), f"build the target nsa_kernels_c in {model_files.build_dir()}"


@pytest.mark.parametrize("branch", BRANCHES)
def test_gradcheck_of_the_equations(branch):
    batch = Batch(SMALL)
    leaves, function = batch.branches(equations, batch.selected())[branch]
    assert torch.autograd.gradcheck(function, leaves)


def largest_difference(expected, actual) -> float:
    """As a part of the largest expected magnitude; the same infinities are no difference."""
    expected, actual = expected.double(), actual.double()
    assert expected.shape == actual.shape
    same = expected == actual
    scale = expected[~expected.isinf()].abs().max().clamp_min(1e-30)
    return (torch.where(same, 0.0, expected - actual).abs().max() / scale).item()


def differences(expected: Batch, actual: Batch, branch: str) -> list[float]:
    """Of the output and the gradients of the operators with `actual` and the equations with `expected`."""
    selected = expected.selected()
    results = []
    for batch, module in ((expected, equations), (actual, ops)):
        leaves, function = batch.branches(module, selected.to(batch.device))[branch]
        out = function(*leaves)
        generator = torch.Generator().manual_seed(8)
        grad_out = torch.randn(out.shape, generator=generator).to(out.device, out.dtype)
        results.append((out, *torch.autograd.grad(out, leaves, grad_out)))
    found = [largest_difference(e.detach(), a.detach().cpu()) for e, a in zip(*results)]
    print(f"out and gradients: {' '.join(f'{x:.1e}' for x in found)}")
    return found


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_library_beside_the_equations(library, case, branch):
    assert max(differences(Batch(case), Batch(case, torch.float32), branch)) <= TOLERANCE


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_beside_the_equations(library, case, branch):
    assert ops.why_no_cuda() == ""
    assert max(differences(Batch(case), Batch(case, torch.float32, "cuda:0"), branch)) <= TOLERANCE


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(library):
    assert ops.why_no_cuda()
    with pytest.raises(ValueError, match="dtype is bfloat16"):
        x = torch.zeros(8, 1, 4, dtype=torch.bfloat16)
        torch.ops.nsa.mean_windows(x, [0, 8], 4, 4)
    # So what users call falls back to the equations.
    assert ops.mean_windows(x, [0, 8], 4, 4).dtype == torch.bfloat16


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_choice_of_blocks(library, case):
    expected, actual = Batch(case), Batch(case, torch.float32)
    _, lse, selected = equations.cmp_attention(
        expected.q, expected.k_hat, expected.v_hat, expected.cu_seqlens, expected.spec
    )
    out, our_lse, ours = ops.cmp_attention(
        actual.q, actual.k_hat, actual.v_hat, actual.cu_seqlens, actual.spec
    )
    assert largest_difference(lse, our_lse) <= TOLERANCE
    assert torch.equal(selected, ours)
    assert out.requires_grad and not our_lse.requires_grad and not ours.requires_grad


def test_results_do_not_depend_on_threads(library):
    def run(threads: int):
        torch.set_num_threads(threads)
        batch = Batch(CASES[1], torch.float32)
        results = []
        for leaves, function in batch.branches(ops, batch.selected()).values():
            out = function(*leaves)
            results += [out, *torch.autograd.grad(out.square().sum(), leaves)]
        return results

    before = torch.get_num_threads()
    try:
        assert all(torch.equal(a, b) for a, b in zip(run(1), run(3), strict=True))
    finally:
        torch.set_num_threads(before)


def test_opcheck(library):
    batch = Batch(SMALL, torch.float32)
    cu, spec, window = batch.cu_seqlens.tolist(), batch.spec, batch.window
    integers = ops._integers(spec)
    selected, nsa = batch.selected(), torch.ops.nsa
    rest = (cu, integers, spec.scale)
    calls = [
        (nsa.gather_windows, (batch.k, batch.position, cu, *window)),
        (nsa.mean_windows, (batch.k, cu, *window)),
        (nsa.cmp_attention, (batch.q, batch.k_hat, batch.v_hat, *rest)),
        (nsa.selected_attention, (batch.q, batch.k, batch.v, selected, *rest)),
        (nsa.window_attention, (batch.q, batch.k, batch.v, *rest)),
    ]
    with torch.no_grad():
        out, lse = nsa.window_attention(batch.q, batch.k, batch.v, *rest)
        windows = nsa.mean_windows(batch.k, cu, *window)
        gathered = nsa.gather_windows(batch.k, batch.position, cu, *window)
    plain = [x.detach() for x in (batch.q, batch.k, batch.v)]
    calls += [
        (nsa.attention_backward, ("window", torch.ones_like(out), *plain, out, lse, None, *rest)),
        (nsa.mean_windows_backward, (windows, cu, *window)),
        (nsa.gather_windows_backward, (gathered, *batch.k.shape[1:], cu, *window)),
    ]
    for operator, arguments in calls:
        torch.library.opcheck(operator.default, arguments)


def test_refusals_are_told(library):
    batch = Batch(SMALL, torch.float32)
    selected = batch.selected()
    selected[5, 0, 0] = 100
    with pytest.raises(ValueError, match="has block 100"):
        ops.selected_attention(batch.q, batch.k, batch.v, selected, batch.cu_seqlens, batch.spec)
    with pytest.raises(ValueError, match="cu_seqlens ends with 29"):
        ops.window_attention(batch.q[1:], batch.k, batch.v, batch.cu_seqlens, 5, 1.0)
    with pytest.raises(ValueError, match="do not go together"):
        ops.cmp_attention(batch.q, batch.k_hat[1:], batch.v_hat[1:], batch.cu_seqlens, batch.spec)


def test_float64_and_a_missing_library_fall_back(monkeypatch):
    batch = Batch(SMALL)
    for branch in BRANCHES:
        leaves, function = batch.branches(ops, batch.selected())[branch]
        assert torch.equal(function(*leaves), batch.branches(equations, batch.selected())[branch][1](*leaves))
    monkeypatch.setattr(ops, "_library", lambda: None)
    batch = Batch(SMALL, torch.float32)
    leaves, function = batch.branches(ops, batch.selected())["window"]
    assert torch.equal(function(*leaves), batch.branches(equations, batch.selected())["window"][1](*leaves))


def fla_branches(batch: Batch):
    """fla's naive compression, choice and selection for one sequence: its windows are the blocks."""
    naive = pytest.importorskip("fla.ops.nsa.naive", reason="fla-core is in the oracles' environment")
    spec, q, k, v = batch.spec, batch.q[None], batch.k[None], batch.v[None]
    size = spec.sel_block_size
    k_cmp, v_cmp = (ops.mean_windows(x, batch.cu_seqlens, size, size)[None] for x in (batch.k, batch.v))
    # A block that is not complete is chosen without a score.
    rest = -(-q.shape[1] // size) - k_cmp.shape[1]
    k_pad, v_pad = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, rest)) for x in (k_cmp, v_cmp))
    compressed, lse = naive.naive_nsa_compression(q, k_pad, v_pad, size, spec.scale)
    chosen = naive.naive_nsa_topk(q, k_pad, spec.num_selected_blocks, size, spec.scale)
    selected = naive.naive_nsa_selection(q, k, v, chosen, size, spec.scale)
    return k_cmp[0], v_cmp[0], compressed[0], lse[0], chosen[0], selected[0]


@pytest.mark.parametrize("group", [16, 1])
@pytest.mark.parametrize("module", [equations, ops], ids=["equations", "library"])
def test_beside_fla(library, module, group):
    spec = Spec(32, 32, 32, 4, 1, 2, 1)
    batch = Batch(Case("fla", (200,), group, 2, 32, 32, spec), torch.float32)
    k_cmp, v_cmp, compressed, lse, chosen, selected = fla_branches(batch)
    out, our_lse, ours = module.cmp_attention(batch.q, k_cmp, v_cmp, batch.cu_seqlens, batch.spec)
    # fla leaves the order of choice, and of equal scores (blocks that no window gives one) the choice.
    sets = torch.where(chosen < 0, math.inf, chosen.float()).sort(-1).values
    assert torch.equal(torch.where(sets == math.inf, -1, sets).int(), ours)
    our_selected = module.selected_attention(batch.q, batch.k, batch.v, ours, batch.cu_seqlens, batch.spec)
    pairs = [(compressed, out), (lse, our_lse), (selected, our_selected)]
    assert max(largest_difference(e.detach(), a.detach()) for e, a in pairs) <= TOLERANCE
    leaves = (batch.q, batch.k, batch.v)
    grad_out = torch.randn(2, *out.shape, generator=torch.Generator().manual_seed(9))
    gradients = [
        torch.autograd.grad((a, b), leaves, tuple(grad_out), retain_graph=True)
        for a, b in ((compressed, selected), (out, our_selected))
    ]
    assert max(largest_difference(e, a) for e, a in zip(*gradients)) <= TOLERANCE

"""NSA's attention branches for training, differentiable: kernels/grad through its C library, as
torch.library custom operators `nsa::…`. Signatures and layouts are those of `training.equations`, which also
serves where the library is missing or takes no such tensors: it takes float32 on the CPU, and float32 or bfloat16
on the first GPU where it was built with CUDA (`why_no_cuda` tells what is missing).

The library is the file that NSA_KERNELS_LIBRARY names, else build/release/libnsa_kernels_c.so. Threads: as
many as PyTorch's (torch.set_num_threads). Results do not depend on their number. On a GPU, work is enqueued on
PyTorch's current stream.
"""

import ctypes
import functools
import os
import pathlib
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from training import equations
from training.equations import Spec, num_windows

_DEFAULT = pathlib.Path(__file__).resolve().parents[1] / "build/release/libnsa_kernels_c.so"
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_DTYPES = {torch.float32: 0, torch.bfloat16: 1}  # as kernels/c_api.h numbers them
_DEVICES = ("cpu", "cuda")


class _Call(ctypes.Structure):
    """A struct of kernels/c_api.h. `size` tells the library which version of it this is."""

    def __init__(self, cu_seqlens: Sequence[int], **fields):
        offsets = (ctypes.c_int64 * len(cu_seqlens))(*cu_seqlens)
        pointers = {name: _address(x) if isinstance(x, Tensor) else x for name, x in fields.items()}
        super().__init__(
            size=ctypes.sizeof(type(self)), num_sequences=len(cu_seqlens) - 1, cu_seqlens=offsets, **pointers
        )
        self._kept = fields  # alive as long as the addresses are in use


class _Windows(_Call):
    _fields_ = [
        ("size", _INT),
        ("num_sequences", _INT),
        ("cu_seqlens", ctypes.POINTER(ctypes.c_int64)),
        ("num_heads", _INT),
        ("head_dim", _INT),
        ("compression_length", _INT),
        ("compression_stride", _INT),
        ("x", _POINTER),
        ("position", _POINTER),
        ("windows", _POINTER),
        ("grad_windows", _POINTER),
        ("grad_x", _POINTER),
        ("grad_position", _POINTER),
        ("dtype", _INT),
    ]


class _Attention(_Call):
    _fields_ = [
        ("size", _INT),
        ("num_sequences", _INT),
        ("cu_seqlens", ctypes.POINTER(ctypes.c_int64)),
        ("num_q_heads", _INT),
        ("num_kv_heads", _INT),
        ("head_dim_k", _INT),
        ("head_dim_v", _INT),
        ("compression_length", _INT),
        ("compression_stride", _INT),
        ("sel_block_size", _INT),
        ("num_selected_blocks", _INT),
        ("num_initial_blocks", _INT),
        ("num_local_blocks", _INT),
        ("window_size", _INT),
        ("scale", ctypes.c_double),
        ("q", _POINTER),
        ("k", _POINTER),
        ("v", _POINTER),
        ("selected", _POINTER),
        ("out", _POINTER),
        ("lse", _POINTER),
        ("grad_out", _POINTER),
        ("grad_q", _POINTER),
        ("grad_k", _POINTER),
        ("grad_v", _POINTER),
        ("dtype", _INT),
    ]


def _address(x: Tensor) -> int:
    assert x.is_contiguous() and x.device.type in _DEVICES and x.dtype in (*_DTYPES, torch.int32)
    return x.data_ptr()


@functools.cache
def _library() -> ctypes.CDLL | None:
    path = pathlib.Path(os.environ.get("NSA_KERNELS_LIBRARY") or _DEFAULT)
    if not path.is_file():
        if os.environ.get("NSA_KERNELS_LIBRARY"):
            raise FileNotFoundError(f"NSA_KERNELS_LIBRARY is {path}, which is no file")
        return None
    library = ctypes.CDLL(str(path))
    library.nsa_last_error.restype = ctypes.c_char_p
    library.nsa_context_create.restype = _POINTER
    library.nsa_context_create_cuda.restype = _POINTER
    library.nsa_context_destroy.argtypes = [_POINTER]
    library.nsa_context_set_stream.argtypes = [_POINTER, _POINTER]
    return library


def has_library() -> bool:
    return _library() is not None


_lock = threading.Lock()  # one call at a time may use a context
_contexts: dict[int, int] = {}  # the CPU's, by number of threads


@functools.cache
def _cuda_context() -> tuple[int | None, str]:
    """The GPU's context, or why there is none."""
    library = _library()
    if library is None:
        return None, "libnsa_kernels_c is not built"
    context = library.nsa_context_create_cuda()
    return context, "" if context else library.nsa_last_error().decode()


def why_no_cuda() -> str:
    """What keeps the operators from a GPU; empty where they run on one."""
    return _cuda_context()[1]


def _context(library: ctypes.CDLL, device: torch.device) -> int:
    if device.type == "cuda":
        context, error = _cuda_context()
        if context and library.nsa_context_set_stream(context, torch.cuda.current_stream(device).cuda_stream) == 0:
            return context
        raise ValueError(error or library.nsa_last_error().decode())
    threads = torch.get_num_threads()
    if threads not in _contexts:
        context = library.nsa_context_create(threads)
        if not context:
            raise ValueError(library.nsa_last_error().decode())
        _contexts[threads] = context
    return _contexts[threads]


def _run(name: str, call: _Call, of: Tensor) -> None:
    """On the device of `of`, and with its dtype. Raises ValueError with the library's own words where it refuses
    the call."""
    library = _library()
    assert library is not None, "the operators nsa::… need libnsa_kernels_c; training.ops falls back by itself"
    tensors = [x for x in call._kept.values() if isinstance(x, Tensor)]
    if any(x.device != of.device for x in tensors):
        raise ValueError(f"{name}: tensors are on {sorted({str(x.device) for x in tensors})}")
    call.dtype = _DTYPES[of.dtype]
    with _lock:
        context = _context(library, of.device)
        if getattr(library, name)(_POINTER(context), ctypes.byref(call)) != 0:
            raise ValueError(f"{name}: {library.nsa_last_error().decode()}")


def _total_windows(cu_seqlens: Sequence[int], length: int, stride: int) -> int:
    return sum(num_windows(end - begin, length, stride) for begin, end in zip(cu_seqlens, cu_seqlens[1:]))


# Windows.


def _windows_call(x_shape, cu_seqlens, length: int, stride: int, **tensors) -> _Windows:
    if cu_seqlens[-1] != x_shape[0]:
        raise ValueError(f"cu_seqlens ends with {cu_seqlens[-1]}, x has {x_shape[0]} tokens")
    return _Windows(
        cu_seqlens,
        num_heads=x_shape[1],
        head_dim=x_shape[2],
        compression_length=length,
        compression_stride=stride,
        **tensors,
    )


@torch.library.custom_op("nsa::gather_windows", mutates_args=(), device_types=_DEVICES)
def _gather_windows(x: Tensor, position: Tensor, cu_seqlens: Sequence[int], length: int, stride: int) -> Tensor:
    if position.shape != (length, x.shape[2]):
        raise ValueError(f"position is {tuple(position.shape)}, not {(length, x.shape[2])}")
    x, position = x.contiguous(), position.contiguous()
    windows = x.new_empty(_total_windows(cu_seqlens, length, stride), x.shape[1], length * x.shape[2])
    call = _windows_call(x.shape, cu_seqlens, length, stride, x=x, position=position, windows=windows)
    _run("nsa_grad_gather_windows_forward", call, x)
    return windows


@_gather_windows.register_fake
def _(x, position, cu_seqlens, length, stride):
    return x.new_empty(_total_windows(cu_seqlens, length, stride), x.shape[1], length * x.shape[2])


@torch.library.custom_op("nsa::gather_windows_backward", mutates_args=(), device_types=_DEVICES)
def _gather_windows_backward(
    grad: Tensor, num_heads: int, head_dim: int, cu_seqlens: Sequence[int], length: int, stride: int
) -> tuple[Tensor, Tensor]:
    grad_x = grad.new_empty(cu_seqlens[-1], num_heads, head_dim)
    grad_position = grad.new_empty(length, head_dim)
    tensors = dict(grad_windows=grad.contiguous(), grad_x=grad_x, grad_position=grad_position)
    _run("nsa_grad_gather_windows_backward", _windows_call(grad_x.shape, cu_seqlens, length, stride, **tensors), grad)
    return grad_x, grad_position


@_gather_windows_backward.register_fake
def _(grad, num_heads, head_dim, cu_seqlens, length, stride):
    return grad.new_empty(cu_seqlens[-1], num_heads, head_dim), grad.new_empty(length, head_dim)


def _save_windows(ctx, inputs, output) -> None:
    x, ctx.windows = inputs[0], inputs[-3:]
    ctx.heads = x.shape[1:]


def _gather_windows_gradients(ctx, grad):
    return *_gather_windows_backward(grad, *ctx.heads, *ctx.windows), None, None, None


_gather_windows.register_autograd(_gather_windows_gradients, setup_context=_save_windows)


@torch.library.custom_op("nsa::mean_windows", mutates_args=(), device_types=_DEVICES)
def _mean_windows(x: Tensor, cu_seqlens: Sequence[int], length: int, stride: int) -> Tensor:
    windows = x.new_empty(_total_windows(cu_seqlens, length, stride), *x.shape[1:])
    call = _windows_call(x.shape, cu_seqlens, length, stride, x=x.contiguous(), windows=windows)
    _run("nsa_grad_mean_windows_forward", call, x)
    return windows


@_mean_windows.register_fake
def _(x, cu_seqlens, length, stride):
    return x.new_empty(_total_windows(cu_seqlens, length, stride), *x.shape[1:])


@torch.library.custom_op("nsa::mean_windows_backward", mutates_args=(), device_types=_DEVICES)
def _mean_windows_backward(grad: Tensor, cu_seqlens: Sequence[int], length: int, stride: int) -> Tensor:
    grad_x = grad.new_empty(cu_seqlens[-1], *grad.shape[1:])
    tensors = dict(grad_windows=grad.contiguous(), grad_x=grad_x)
    _run("nsa_grad_mean_windows_backward", _windows_call(grad_x.shape, cu_seqlens, length, stride, **tensors), grad)
    return grad_x


@_mean_windows_backward.register_fake
def _(grad, cu_seqlens, length, stride):
    return grad.new_empty(cu_seqlens[-1], *grad.shape[1:])


def _mean_windows_gradients(ctx, grad):
    return _mean_windows_backward(grad, *ctx.windows), None, None, None


_mean_windows.register_autograd(_mean_windows_gradients, setup_context=_save_windows)


# Attention. A specification travels as integers in the order of Spec's fields, and its scale.


def _integers(spec: Spec) -> list[int]:
    return [
        spec.compression_length,
        spec.compression_stride,
        spec.sel_block_size,
        spec.num_selected_blocks,
        spec.num_initial_blocks,
        spec.num_local_blocks,
        spec.window_size,
    ]


_INTEGERS = [name for name, _ in _Attention._fields_[7:14]]


def _check_shapes(q, k, v, cu_seqlens, num_keys: int) -> None:
    if k.shape[:2] != v.shape[:2] or k.shape[0] != num_keys or q.shape[2] != k.shape[2]:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        raise ValueError(f"{shapes} do not go together, or not with {num_keys} keys")
    if cu_seqlens[-1] != q.shape[0]:
        raise ValueError(f"cu_seqlens ends with {cu_seqlens[-1]}, q has {q.shape[0]} tokens")


def _attention_call(q, k, v, cu_seqlens, spec: Sequence[int], scale: float, **tensors) -> _Attention:
    heads = dict(num_q_heads=q.shape[1], num_kv_heads=k.shape[1], head_dim_k=q.shape[2], head_dim_v=v.shape[2])
    integers = dict(zip(_INTEGERS, spec, strict=True))
    return _Attention(cu_seqlens, **heads, **integers, scale=scale, q=q, k=k, v=v, **tensors)


def _forward(branch: str, q, k, v, selected, cu_seqlens, spec, scale) -> tuple[Tensor, Tensor]:
    _check_shapes(q, k, v, cu_seqlens, _num_keys(branch, cu_seqlens, spec))
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, lse = _empty_forward(q, v)
    tensors = dict(selected=selected, out=out, lse=lse)
    call = _attention_call(q, k, v, cu_seqlens, spec, scale, **tensors)
    _run(f"nsa_grad_{branch}_attention_forward", call, q)
    return out, lse


def _num_keys(branch: str, cu_seqlens, spec) -> int:
    return _total_windows(cu_seqlens, *spec[:2]) if branch == "cmp" else cu_seqlens[-1]


def _empty_forward(q, v) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:2], v.shape[2]), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("nsa::cmp_attention", mutates_args=(), device_types=_DEVICES)
def _cmp_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Sequence[int], spec: Sequence[int], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    selected = q.new_empty(q.shape[0], k.shape[1], spec[3], dtype=torch.int32)
    return *_forward("cmp", q, k, v, selected, cu_seqlens, spec, scale), selected


@_cmp_attention.register_fake
def _(q, k, v, cu_seqlens, spec, scale):
    return *_empty_forward(q, v), q.new_empty(q.shape[0], k.shape[1], spec[3], dtype=torch.int32)


@torch.library.custom_op("nsa::selected_attention", mutates_args=(), device_types=_DEVICES)
def _selected_attention(
    q: Tensor, k: Tensor, v: Tensor, selected: Tensor, cu_seqlens: Sequence[int], spec: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    if selected.shape != (q.shape[0], k.shape[1], spec[3]) or selected.dtype != torch.int32:
        raise ValueError(f"selected is {selected.dtype} {tuple(selected.shape)}, not int32 [T, Hkv, n]")
    return _forward("selected", q, k, v, selected.contiguous(), cu_seqlens, spec, scale)


@_selected_attention.register_fake
def _(q, k, v, selected, cu_seqlens, spec, scale):
    return _empty_forward(q, v)


@torch.library.custom_op("nsa::window_attention", mutates_args=(), device_types=_DEVICES)
def _window_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Sequence[int], spec: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    return _forward("window", q, k, v, None, cu_seqlens, spec, scale)


@_window_attention.register_fake
def _(q, k, v, cu_seqlens, spec, scale):
    return _empty_forward(q, v)


@torch.library.custom_op("nsa::attention_backward", mutates_args=(), device_types=_DEVICES)
def _attention_backward(
    branch: str,
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    selected: Tensor | None,
    cu_seqlens: Sequence[int],
    spec: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    gradients = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    tensors = dict(zip(("grad_q", "grad_k", "grad_v"), gradients), grad_out=grad_out.contiguous())
    tensors |= dict(out=out.contiguous(), lse=lse.contiguous())
    if selected is not None:
        tensors["selected"] = selected.contiguous()
    call = _attention_call(q, k, v, cu_seqlens, spec, scale, **tensors)
    _run(f"nsa_grad_{branch}_attention_backward", call, q)
    return gradients


@_attention_backward.register_fake
def _(branch, grad_out, q, k, v, out, lse, selected, cu_seqlens, spec, scale):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _register_attention(operator, branch: str) -> None:
    """Autograd of (q, k, v[, selected], cu_seqlens, spec, scale) -> (out, lse, …) through `out` alone."""

    def save(ctx, inputs, output) -> None:
        q, k, v = inputs[:3]
        selected = inputs[3] if branch == "selected" else None
        ctx.save_for_backward(q, k, v, output[0], output[1], selected)
        ctx.rest = inputs[-3:]

    def gradients(ctx, grad_out, *_):
        q, k, v, out, lse, selected = ctx.saved_tensors
        grads = _attention_backward(branch, grad_out, q, k, v, out, lse, selected, *ctx.rest)
        return *grads, *[None] * (4 if branch == "selected" else 3)

    operator.register_autograd(gradients, setup_context=save)


_register_attention(_cmp_attention, "cmp")
_register_attention(_selected_attention, "selected")
_register_attention(_window_attention, "window")


# What training calls; shapes as in training.equations.


def _list(cu_seqlens) -> list[int]:
    return cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else list(cu_seqlens)


def _is_ours(*tensors: Tensor) -> bool:
    device, dtype = tensors[0].device, tensors[0].dtype
    if not has_library() or any(x.device != device or x.dtype != dtype for x in tensors):
        return False
    if device.type == "cpu":
        return dtype == torch.float32
    return device.type == "cuda" and device.index == 0 and dtype in _DTYPES and not why_no_cuda()


def gather_windows(x, position, cu_seqlens, length: int, stride: int) -> Tensor:
    """x [T, H, D], position [length, D] -> [W, H, length·D]"""
    if not _is_ours(x, position):
        return equations.gather_windows(x, position, cu_seqlens, length, stride)
    return _gather_windows(x, position, _list(cu_seqlens), length, stride)


def mean_windows(x, cu_seqlens, length: int, stride: int) -> Tensor:
    """x [T, H, D] -> [W, H, D]"""
    if not _is_ours(x):
        return equations.mean_windows(x, cu_seqlens, length, stride)
    return _mean_windows(x, _list(cu_seqlens), length, stride)


def cmp_attention(q, k_hat, v_hat, cu_seqlens, spec: Spec) -> tuple[Tensor, Tensor, Tensor]:
    """-> out [T, Hq, Dv], log-sum-exp [T, Hq], chosen blocks int32 [T, Hkv, n]; the last two have no gradient."""
    if not _is_ours(q, k_hat, v_hat):
        return equations.cmp_attention(q, k_hat, v_hat, cu_seqlens, spec)
    out, lse, selected = _cmp_attention(q, k_hat, v_hat, _list(cu_seqlens), _integers(spec), spec.scale)
    return out, lse.detach(), selected


def selected_attention(q, k, v, selected, cu_seqlens, spec: Spec) -> Tensor:
    """-> out [T, Hq, Dv]"""
    if not _is_ours(q, k, v):
        return equations.selected_attention(q, k, v, selected, cu_seqlens, spec)
    return _selected_attention(q, k, v, selected, _list(cu_seqlens), _integers(spec), spec.scale)[0]


def window_attention(q, k, v, cu_seqlens, window_size: int, scale: float) -> Tensor:
    """-> out [T, Hq, Dv]"""
    if not _is_ours(q, k, v):
        return equations.window_attention(q, k, v, cu_seqlens, window_size, scale)
    integers = _integers(Spec(window_size=window_size))
    return _window_attention(q, k, v, _list(cu_seqlens), integers, scale)[0]

"""The selective scan of Mamba on a CPU: exact, one fused pass forward and one backward.

    h_t = exp(dt_t A) * h_{t-1} + (dt_t x_t) B_t        y_t = h_t . C_t        (Gu and Dao 2023, arXiv:2312.00752)

On CUDA the kernels of mamba-ssm do this, where they are installed; CPU tensors always come here.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numba.extending import overload
from torch.autograd.function import once_differentiable
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

LN2_HIGH, LN2_LOW, LOG2_E = np.float32(0.693359375), np.float32(-2.12194440e-4), np.float32(1.44269504)
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(i)) for i in range(2, 7))
ONE, HALF, LOWEST, HIGHEST = np.float32(1), np.float32(0.5), np.float32(-87), np.float32(88)


def _exp(x: float) -> float:
    return math.exp(x)


@overload(_exp, jit_options={"fastmath": True}, inline="always")
def _(x):  # type: ignore[no-untyped-def]
    """In float32 a polynomial that the compiler turns into vector code; to about 2 units in the last place."""
    if x is not numba.types.float32:
        return lambda x: math.exp(x)  # noqa: PLW0108 (numba compares the names of arguments)

    def single(x):  # type: ignore[no-untyped-def]
        x = min(max(x, LOWEST), HIGHEST)
        n = np.int32(np.floor(x * LOG2_E + HALF))
        r = (x - np.float32(n) * LN2_HIGH) - np.float32(n) * LN2_LOW
        p = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
        return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

    return single


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _forward(x, dt, A, B, C, y, states):  # type: ignore[no-untyped-def]
    """A is (N, E) here, so that the inner loop runs along memory; `states` (B, T, N, E) is kept for the backward."""
    batch, length, width = x.shape
    n_state = A.shape[0]
    for b in range(batch):
        for t in range(length):
            for n in range(n_state):
                b_n, c_n = B[b, t, n], C[b, t, n]
                if t == 0:
                    for e in range(width):
                        h = dt[b, t, e] * x[b, t, e] * b_n
                        states[b, t, n, e] = h
                        y[b, t, e] += c_n * h
                else:
                    for e in range(width):
                        d = dt[b, t, e]
                        h = _exp(d * A[n, e]) * states[b, t - 1, n, e] + d * x[b, t, e] * b_n
                        states[b, t, n, e] = h
                        y[b, t, e] += c_n * h


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _backward(x, dt, A, B, C, states, gy, gx, gdt, gA, gB, gC):  # type: ignore[no-untyped-def]
    """The same recurrence run backwards: g is dL/dh_t, with what later steps pass back through exp(dt A)."""
    batch, length, width = x.shape
    n_state = A.shape[0]
    g = np.zeros_like(A)
    for b in range(batch):
        g[:] = 0
        for t in range(length - 1, -1, -1):
            for n in range(n_state):
                b_n, c_n = B[b, t, n], C[b, t, n]
                gb = gc = gy[b, t, 0] * 0
                if t == 0:
                    for e in range(width):
                        d, u, ge = dt[b, t, e], x[b, t, e], g[n, e] + c_n * gy[b, t, e]
                        gc += gy[b, t, e] * states[b, t, n, e]
                        gdt[b, t, e] += ge * u * b_n
                        gx[b, t, e] += ge * d * b_n
                        gb += ge * d * u
                else:
                    for e in range(width):
                        d, u, ge = dt[b, t, e], x[b, t, e], g[n, e] + c_n * gy[b, t, e]
                        gc += gy[b, t, e] * states[b, t, n, e]
                        a = _exp(d * A[n, e])
                        through = ge * states[b, t - 1, n, e] * a
                        gdt[b, t, e] += through * A[n, e] + ge * u * b_n
                        gA[n, e] += through * d
                        gx[b, t, e] += ge * d * b_n
                        gb += ge * d * u
                        g[n, e] = ge * a
                gB[b, t, n] = gb
                gC[b, t, n] = gc


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        x, dt, A, B, C = (t.detach().contiguous() for t in inputs)
        A = A.T.contiguous()
        y = torch.zeros(x.shape, dtype=x.dtype)
        states = torch.empty((*x.shape[:2], *A.shape), dtype=x.dtype)
        _forward(*(t.numpy() for t in (x, dt, A, B, C, y, states)))
        ctx.save_for_backward(x, dt, A, B, C, states)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, dt, A, B, C, states = ctx.saved_tensors
        gx, gdt, gA = (torch.zeros(t.shape, dtype=t.dtype) for t in (x, dt, A))
        gB, gC = (torch.empty(t.shape, dtype=t.dtype) for t in (B, C))
        _backward(*(t.numpy() for t in (x, dt, A, B, C, states, grads[0].contiguous(), gx, gdt, gA, gB, gC)))
        return gx, gdt, gA.T, gB, gC


def selective_scan(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
) -> torch.Tensor:
    """y (B, T, E) of the recurrence above, differentiable in all five inputs.

    Shapes: x and dt (B, T, E), A (E, N), B and C (B, T, N); one dtype, float32 or float64, any strides, on the CPU.
    Raises ValueError for shapes, dtypes or devices that do not fit together.
    """
    inputs = {"x": x, "dt": dt, "A": A, "B": B, "C": C}
    if x.ndim != 3 or A.ndim != 2:
        raise ValueError(f"x {tuple(x.shape)} must be (B, T, E) and A {tuple(A.shape)} (E, N)")
    (batch, length, width), n = x.shape, A.shape[1]
    wanted = {"dt": (batch, length, width), "A": (width, n), "B": (batch, length, n), "C": (batch, length, n)}
    for name, shape in wanted.items():
        if tuple(inputs[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(inputs[name].shape)}, must be {shape} beside x {tuple(x.shape)}")
    for name, value in inputs.items():
        if value.dtype != x.dtype or value.dtype not in (torch.float32, torch.float64) or value.device.type != "cpu":
            raise ValueError(f"{name} is {value.dtype} on {value.device}: all must be one of float32, float64, on cpu")
    return _SelectiveScan.apply(x, dt, A, B, C)


def _conv_by_taps(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """Depthwise causal convolution of (B, E, T) as a sum of shifted taps: grouped conv1d is slow on a CPU."""
    taps, length = weight.shape[-1], hidden_states.shape[-1]
    padded = F.pad(hidden_states, (taps - 1, 0))
    out = padded[..., :length] * weight[:, 0, None]
    for j in range(1, taps):
        out = out + padded[..., j : j + length] * weight[:, j, None]
    if bias is not None:
        out = out + bias[:, None]
    return out if activation is None else modeling_mamba.ACT2FN[activation](out)


def _mamba_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    z: torch.Tensor,
    delta_bias: torch.Tensor,
    **_: Any,
) -> torch.Tensor:
    """What transformers' Mamba mixer calls between its convolution and its output projection; all (B, E or N, T)."""
    x, dt = hidden_states.transpose(1, 2), F.softplus(dt.transpose(1, 2) + delta_bias)
    y = selective_scan(x, dt, A, B.transpose(1, 2), C.transpose(1, 2))
    return ((y + x * D) * F.silu(z.transpose(1, 2))).transpose(1, 2)


def _mamba2_scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    **_: Any,
) -> torch.Tensor:
    """Mamba-2's state is Mamba's with one A and one dt per head: x (B, T, H, P), dt (B, T, H), B and C (B, T, 1, N)."""
    batch, length, heads, size = hidden_states.shape
    dt = torch.clamp(F.softplus(dt + dt_bias), *dt_limit)
    x = hidden_states.reshape(batch, length, heads * size)
    by_channel = A.repeat_interleave(size)[:, None].expand(-1, B.shape[-1])
    y = selective_scan(x, dt.repeat_interleave(size, dim=2), by_channel, B[:, :, 0], C[:, :, 0])
    return y.reshape(hidden_states.shape) + hidden_states * D[:, None]


ORIGINAL = {
    (module, name): getattr(module, name)
    for module, name in [
        (modeling_mamba, "mamba_inner_fn"),
        (modeling_mamba, "mamba_selective_scan"),
        (modeling_mamba, "causal_conv1d_fn"),
        (modeling_mamba2, "mamba2_split_conv1d_scan_combined"),
        (modeling_mamba2, "causal_conv1d_fn"),
        (modeling_mamba2, "mamba2_chunk_scan"),
    ]
}
OURS: dict[str, Any] = {
    "mamba_inner_fn": lambda *_, **__: None,  # no fused kernel: the mixer goes on with the parts below
    "mamba2_split_conv1d_scan_combined": lambda *_, **__: None,
    "mamba_selective_scan": _mamba_scan,
    "causal_conv1d_fn": _conv_by_taps,
    "mamba2_chunk_scan": _mamba2_scan,
}


def _by_device(name: str, original: Any) -> Any:
    def call(first: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        stateful = kwargs.get("return_last_state") or kwargs.get("return_final_states")
        grouped = name == "mamba2_chunk_scan" and args[2].shape[2] > 1
        ours = first.device.type == "cpu" and not stateful and not grouped
        return (OURS[name] if ours else original)(first, *args, **kwargs)

    return call


def install() -> None:
    """Let transformers' Mamba and Mamba-2 classes use this module for CPU tensors, whatever else is installed."""
    for (module, name), original in ORIGINAL.items():
        setattr(module, name, _by_device(name, original))


@contextmanager
def transformers_path() -> Iterator[None]:
    """Inside the block, those classes run as transformers ships them (for comparisons)."""
    for (module, name), original in ORIGINAL.items():
        setattr(module, name, original)
    try:
        yield
    finally:
        install()

"""The selective scan of Mamba on a CPU: exact, one fused pass forward and one backward.

    h_t = a_t * h_{t-1} + (dt_t x_t) B_t        y_t = h_t . C_t        a_t = exp(dt_t A)

(Gu and Dao 2023, arXiv:2312.00752). With negative eigenvalues, a_t = 2 exp(dt_t A) - 1, in [-1, 1] in place of [0, 1]
(Grazzi et al. 2024, arXiv:2411.12537): one channel can then keep a parity.

On CUDA the kernels of mamba-ssm do this, where they are installed; CPU tensors always come here.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
S3, S5, S7, S9, S11, S13 = (np.float32(1 / i) for i in (3, 5, 7, 9, 11, 13))
ONE, TWO, HALF, LOWEST, HIGHEST = (np.float32(value) for value in (1, 2, 0.5, -87, 88))
KERNELS = (torch.float32, torch.float64)  # the precisions that there are kernels for
CHUNK = 16  # tokens between two states that the forward pass keeps


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


def _log1p(x: float) -> float:
    return math.log1p(x)


@overload(_log1p, jit_options={"fastmath": True}, inline="always")
def _(x):  # type: ignore[no-untyped-def]
    """For x in [0, 1]: in float32 the series of 2 artanh(x / (2 + x)), so that the compiler makes vector code of it."""
    if x is not numba.types.float32:
        return lambda x: math.log1p(x)  # noqa: PLW0108 (numba compares the names of arguments)

    def single(x):  # type: ignore[no-untyped-def]
        s = x / (TWO + x)
        q = s * s
        return TWO * s * (ONE + q * (S3 + q * (S5 + q * (S7 + q * (S9 + q * (S11 + q * S13))))))

    return single


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _forward(x, dt, A, B, C, D, z, bias, one, scale, step, y, out, starts):  # type: ignore[no-untyped-def]
    """y_t = h_t . C_t + D x_t and out = y silu(z), with step = softplus(dt + bias); D, z and bias may each be None.

    A is (N, E) here, so that the inner loop runs along memory, or (1, E) where all N have the same (Mamba-2). Of the
    states, those before every `CHUNK`-th token are kept in `starts` (B, chunks, N, E); the backward computes the others
    again, which is cheaper than fetching them. The decay is scale * exp(step A) + 1 - scale: scale is 1, or 2 with
    negative eigenvalues. `one` has the precision of x: a plain 1 would turn all that it touches to double.
    """
    batch, length, width = x.shape
    rows, n_state, shift = A.shape[0], B.shape[2], one - scale
    decay, h = np.empty_like(A[0]), np.empty((n_state, width), dtype=A.dtype)
    for b in range(batch):
        h[:] = one - one
        for t in range(length):
            if t % CHUNK == 0:
                starts[b, t // CHUNK] = h
            if bias is not None:
                for e in range(width):
                    v = dt[b, t, e] + bias[e]
                    step[b, t, e] = max(v, one - one) + _log1p(_exp(-abs(v)))
            if D is not None:
                for e in range(width):
                    y[b, t, e] = D[e] * x[b, t, e]
            for n in range(n_state):
                b_n, c_n = B[b, t, n], C[b, t, n]
                if n < rows:
                    for e in range(width):
                        decay[e] = scale * _exp(step[b, t, e] * A[n, e]) + shift
                for e in range(width):
                    h[n, e] = decay[e] * h[n, e] + step[b, t, e] * x[b, t, e] * b_n
                    y[b, t, e] += c_n * h[n, e]
            if z is not None:
                for e in range(width):
                    out[b, t, e] = y[b, t, e] * z[b, t, e] / (one + _exp(-z[b, t, e]))


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _backward(x, step, A, B, C, D, z, bias, one, scale, y, starts, gout, gx, gdt, gA, gB, gC, gD, gz, gbias):  # type: ignore[no-untyped-def]
    """The same recurrence run backwards: g is dL/dh_t, with what later steps pass back through the decay."""
    batch, length, width = x.shape
    rows, n_state, shift = A.shape[0], B.shape[2], one - scale
    half, third = one / (one + one), one / (one + one + one)
    small = half * half * half * half * half
    g, gy = np.empty((n_state, width), dtype=A.dtype), np.empty_like(A[0])
    h = np.empty((CHUNK + 1, n_state, width), dtype=A.dtype)  # before the chunk, and after each of its tokens
    slope = np.empty((CHUNK, rows, width), dtype=A.dtype)  # scale * exp(step A): the decay's derivative
    for b in range(batch):
        g[:] = one - one
        for chunk in range(starts.shape[1] - 1, -1, -1):
            first = chunk * CHUNK
            last = min(first + CHUNK, length)
            h[0] = starts[b, chunk]
            for t in range(first, last):
                i = t - first
                for n in range(n_state):
                    r, b_n = min(n, rows - 1), B[b, t, n]
                    if n < rows:
                        for e in range(width):
                            slope[i, n, e] = scale * _exp(step[b, t, e] * A[n, e])
                    for e in range(width):
                        h[i + 1, n, e] = (slope[i, r, e] + shift) * h[i, n, e] + step[b, t, e] * x[b, t, e] * b_n
            for t in range(last - 1, first - 1, -1):
                i = t - first
                for e in range(width):
                    if z is not None:
                        gate = one / (one + _exp(-z[b, t, e]))
                        gy[e] = gout[b, t, e] * z[b, t, e] * gate
                        gz[b, t, e] = gout[b, t, e] * y[b, t, e] * gate * (one + z[b, t, e] * (one - gate))
                    else:
                        gy[e] = gout[b, t, e]
                if D is not None:
                    for e in range(width):
                        gx[b, t, e] = gy[e] * D[e]
                        gD[e] += gy[e] * x[b, t, e]
                for n in range(n_state):
                    r, b_n, c_n = min(n, rows - 1), B[b, t, n], C[b, t, n]
                    gb = gc = one - one
                    for e in range(width):
                        d, u, ge = step[b, t, e], x[b, t, e], g[n, e] + c_n * gy[e]
                        through = ge * h[i, n, e] * slope[i, r, e]
                        gdt[b, t, e] += through * A[r, e] + ge * u * b_n
                        gA[r, e] += through * d
                        gx[b, t, e] += ge * d * b_n
                        gb += ge * d * u
                        gc += gy[e] * h[i + 1, n, e]
                        g[n, e] = ge * (slope[i, r, e] + shift)
                    gB[b, t, n] = gb
                    gC[b, t, n] = gc
                if bias is not None:
                    for e in range(width):
                        # The slope of softplus from its value s: 1 - exp(-s), by its series where the difference would cancel.
                        s = step[b, t, e]
                        series = s * (one - s * (one - s * third) * half)
                        gdt[b, t, e] *= series if s < small else one - _exp(-s)
                        gbias[e] += gdt[b, t, e]


class _SelectiveScan(torch.autograd.Function):
    """In the order of `_forward`; what is None has no gradient."""

    @staticmethod
    def forward(ctx: Any, negative: bool, *inputs: torch.Tensor | None) -> torch.Tensor:
        x, dt, A, B, C, D, z, bias = (None if t is None else t.detach().contiguous() for t in inputs)
        assert x is not None and dt is not None and A is not None and B is not None
        A = A.T.contiguous()
        y = torch.zeros(x.shape, dtype=x.dtype)
        step = dt if bias is None else torch.empty(x.shape, dtype=x.dtype)
        out = y if z is None else torch.empty(x.shape, dtype=x.dtype)
        starts = torch.empty((len(x), -(-x.shape[1] // CHUNK), B.shape[2], x.shape[2]), dtype=x.dtype)
        ctx.numbers = _numbers(x, negative)
        _forward(*_arrays(x, dt, A, B, C, D, z, bias), *ctx.numbers, *_arrays(step, y, out, starts))
        ctx.save_for_backward(x, step, A, B, C, D, z, bias, None if z is None else y, starts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, step, A, B, C, D, z, bias, y, starts = ctx.saved_tensors
        gx, gdt, gA, gB, gC, gD, gz, gbias = (
            None if t is None else torch.zeros(t.shape, dtype=t.dtype) for t in (x, step, A, B, C, D, z, bias)
        )
        results = (y, starts, grads[0].contiguous(), gx, gdt, gA, gB, gC, gD, gz, gbias)
        _backward(*_arrays(x, step, A, B, C, D, z, bias), *ctx.numbers, *_arrays(*results))
        assert gA is not None
        return None, gx, gdt, gA.T, gB, gC, gD, gz, gbias


def _arrays(*tensors: torch.Tensor | None) -> Iterator[np.ndarray | None]:
    return (None if t is None else t.numpy() for t in tensors)


def _numbers(x: torch.Tensor, negative: bool) -> tuple[Any, ...]:
    """1, and the scale of the decay, in the precision of x."""
    one = x.new_ones(()).numpy()[()]
    return one, one + one if negative else one


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _conv_forward(x, weight, bias, one, before, out):  # type: ignore[no-untyped-def]
    """before_t = bias + sum_k weight_k x_{t+k} and out = silu(before), or out = before where that is None.

    x (B, T + K - 1, E) begins with K - 1 zeros. The usual four taps are written out: one pass in place of five.
    """
    batch, length, width = out.shape
    taps = weight.shape[0]
    for b in range(batch):
        for t in range(length):
            if taps == 4:
                for e in range(width):
                    old = weight[0, e] * x[b, t, e] + weight[1, e] * x[b, t + 1, e]
                    out[b, t, e] = bias[e] + old + weight[2, e] * x[b, t + 2, e] + weight[3, e] * x[b, t + 3, e]
            else:
                for e in range(width):
                    out[b, t, e] = bias[e]
                for k in range(taps):
                    for e in range(width):
                        out[b, t, e] += weight[k, e] * x[b, t + k, e]
            if before is not None:
                for e in range(width):
                    before[b, t, e] = out[b, t, e]
                    out[b, t, e] /= one + _exp(-out[b, t, e])


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _conv_backward(x, weight, one, before, gout, gx, gweight, gbias):  # type: ignore[no-untyped-def]
    batch, length, width = gout.shape
    taps = weight.shape[0]
    g = np.empty_like(gbias)
    for b in range(batch):
        for t in range(length):
            for e in range(width):
                g[e] = gout[b, t, e]
                if before is not None:
                    v = before[b, t, e]
                    gate = one / (one + _exp(-v))
                    g[e] *= gate * (one + v * (one - gate))
                gbias[e] += g[e]
            for k in range(taps):
                for e in range(width):
                    gweight[k, e] += g[e] * x[b, t + k, e]
                    gx[b, t + k, e] += g[e] * weight[k, e]


class _CausalConv(torch.autograd.Function):
    """Depthwise causal convolution of x (B, T, E) with weight (E, K) and bias (E,), and SiLU after it if asked for."""

    @staticmethod
    def forward(ctx: Any, silu: bool, *inputs: torch.Tensor) -> torch.Tensor:
        x, weight, bias = inputs[0].detach(), inputs[1].detach().T.contiguous(), inputs[2].detach()
        out = torch.empty(x.shape, dtype=x.dtype)
        before = torch.empty(x.shape, dtype=x.dtype) if silu else None
        x = F.pad(x, (0, 0, len(weight) - 1, 0)).contiguous()
        _conv_forward(*_arrays(x, weight, bias), *_numbers(x, False)[:1], *_arrays(before, out))
        ctx.save_for_backward(x, weight, before)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, before = ctx.saved_tensors
        gx, gweight, gbias = (torch.zeros(shape, dtype=x.dtype) for shape in (x.shape, weight.shape, weight.shape[1:]))
        results = (before, grads[0].contiguous(), gx, gweight, gbias)
        _conv_backward(*_arrays(x, weight), *_numbers(x, False)[:1], *_arrays(*results))
        return None, gx[:, len(weight) - 1 :], gweight.T, gbias


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _norm_forward(x, z, weight, one, share, eps, scale, out):  # type: ignore[no-untyped-def]
    """out = weight u / sqrt(mean u^2 + eps), u = x silu(z), or x where z is None; row by row of (R, E); share = 1 / E."""
    rows, width = x.shape
    u = np.empty_like(weight)
    for r in range(rows):
        total = one - one
        for e in range(width):
            u[e] = x[r, e] if z is None else x[r, e] * z[r, e] / (one + _exp(-z[r, e]))
            total += u[e] * u[e]
        scale[r] = one / np.sqrt(total * share + eps)
        for e in range(width):
            out[r, e] = weight[e] * u[e] * scale[r]


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _norm_backward(x, z, weight, one, share, scale, gout, gx, gz, gweight):  # type: ignore[no-untyped-def]
    rows, width = x.shape
    n, gate = np.empty_like(weight), np.empty_like(weight)
    for r in range(rows):
        mean = one - one
        for e in range(width):
            gate[e] = one if z is None else z[r, e] / (one + _exp(-z[r, e]))
            n[e] = x[r, e] * gate[e] * scale[r]
            gweight[e] += gout[r, e] * n[e]
            mean += gout[r, e] * weight[e] * n[e]
        mean *= share
        for e in range(width):
            gu = scale[r] * (gout[r, e] * weight[e] - n[e] * mean)
            gx[r, e] = gu * gate[e]
            if z is not None:
                half = one / (one + _exp(-z[r, e]))
                gz[r, e] = gu * x[r, e] * half * (one + z[r, e] * (one - half))


class _Norm(torch.autograd.Function):
    """Root-mean-square norm of (..., E) with its weight (E,), after a gate where there is one."""

    @staticmethod
    def forward(ctx: Any, eps: float, *inputs: torch.Tensor | None) -> torch.Tensor:
        x, z, weight = (None if t is None else t.detach().contiguous() for t in inputs)
        assert x is not None and weight is not None
        flat, gate = x.flatten(0, -2), None if z is None else z.flatten(0, -2)
        scale, out = torch.empty(len(flat), dtype=x.dtype), torch.empty(flat.shape, dtype=x.dtype)
        one = _numbers(x, False)[0]
        ctx.numbers = one, one / type(one)(len(weight)), type(one)(eps)
        _norm_forward(*_arrays(flat, gate, weight), *ctx.numbers, *_arrays(scale, out))
        ctx.save_for_backward(flat, gate, weight, scale)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, z, weight, scale = ctx.saved_tensors
        gx, gz = torch.empty_like(x), None if z is None else torch.empty_like(z)
        gweight = torch.zeros_like(weight)
        results = (scale, grads[0].contiguous().view(x.shape), gx, gz, gweight)
        _norm_backward(*_arrays(x, z, weight), *ctx.numbers[:2], *_arrays(*results))
        shape = grads[0].shape
        return None, gx.view(shape), None if gz is None else gz.view(shape), gweight


def selective_scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    negative_eigenvalues: bool = False,
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
        if value.dtype != x.dtype or value.dtype not in KERNELS or value.device.type != "cpu":
            raise ValueError(f"{name} is {value.dtype} on {value.device}: all must be one of float32, float64, on cpu")
    return _SelectiveScan.apply(negative_eigenvalues, x, dt, A, B, C, None, None, None)


def recurrence(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    negative_eigenvalues: bool = False,
) -> torch.Tensor:
    """The definition, one step after the other in torch, on any device: slow, and differentiable by itself."""
    h, y = x.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, :, None] * A)
        h = (2 * decay - 1 if negative_eigenvalues else decay) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        y.append((h * C[:, t, None]).sum(-1))
    return torch.stack(y, 1)


_NEGATIVE = ContextVar("negative eigenvalues", default=False)
_INSTALLED = ContextVar("this module stands in for transformers' functions", default=True)


@contextmanager
def eigenvalues(negative: bool) -> Iterator[None]:
    """Inside the block, Mamba and Mamba-2 have decays in [-1, 1] where `negative`, else in [0, 1] as usual.

    RuntimeError inside `transformers_path`, which has none.
    """
    if negative and not _INSTALLED.get():
        raise RuntimeError("negative eigenvalues: transformers' own path has none; leave `transformers_path` first")
    token = _NEGATIVE.set(negative)
    try:
        yield
    finally:
        _NEGATIVE.reset(token)


def _causal_conv(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """What the mixers call for their short convolution, (B, E, T) to (B, E, T): grouped conv1d is slow on a CPU."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    fused = activation in ("silu", "swish")
    out = _CausalConv.apply(fused, hidden_states.transpose(1, 2), weight.reshape(len(weight), -1), bias)
    return (out if fused or activation is None else modeling_mamba.ACT2FN[activation](out)).transpose(1, 2)


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
    x, dt, B, C, z = (t.transpose(1, 2) for t in (hidden_states, dt, B, C, z))
    if _have_kernels(x, dt, A, B, C, D, z, delta_bias):
        return _SelectiveScan.apply(_NEGATIVE.get(), x, dt, A, B, C, D, z, delta_bias).transpose(1, 2)
    y = recurrence(x, F.softplus(dt + delta_bias), A, B, C, _NEGATIVE.get())  # no kernel has negative eigenvalues
    return ((y + x * D) * F.silu(z)).transpose(1, 2)


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
    by_channel = A.repeat_interleave(size)[:, None]
    inputs = x, dt.repeat_interleave(size, dim=2), by_channel, B[:, :, 0], C[:, :, 0]
    if _have_kernels(*inputs, D):
        y = _SelectiveScan.apply(_NEGATIVE.get(), *inputs, D.repeat_interleave(size), None, None)
        return y.reshape(hidden_states.shape)
    return recurrence(*inputs, _NEGATIVE.get()).reshape(hidden_states.shape) + hidden_states * D[:, None]


def _norm(module: Any, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
    """What the blocks' norms and Mamba-2's gated one do."""
    return _Norm.apply(module.variance_epsilon, hidden_states, gate, module.weight)


ORIGINAL = {
    (module, name): getattr(module, name)
    for module, name in [
        (modeling_mamba, "mamba_inner_fn"),
        (modeling_mamba, "mamba_selective_scan"),
        (modeling_mamba, "causal_conv1d_fn"),
        (modeling_mamba2, "mamba2_split_conv1d_scan_combined"),
        (modeling_mamba2, "causal_conv1d_fn"),
        (modeling_mamba2, "mamba2_chunk_scan"),
        (modeling_mamba.MambaRMSNorm, "forward"),
        (modeling_mamba2.Mamba2RMSNorm, "forward"),
        (modeling_mamba2.MambaRMSNormGated, "forward"),
    ]
}
WITH_DECAY = {"mamba_inner_fn", "mamba_selective_scan", "mamba2_split_conv1d_scan_combined", "mamba2_chunk_scan"}
OURS: dict[str, Any] = {
    "mamba_inner_fn": lambda *_, **__: None,  # no fused kernel: the mixer goes on with the parts below
    "mamba2_split_conv1d_scan_combined": lambda *_, **__: None,
    "mamba_selective_scan": _mamba_scan,
    "causal_conv1d_fn": _causal_conv,
    "mamba2_chunk_scan": _mamba2_scan,
    "forward": _norm,
}


def _have_kernels(*values: Any) -> bool:
    """Are all tensors among these on the CPU and of one precision that there are kernels for?"""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    return len(kinds) == 1 and kinds <= {("cpu", dtype) for dtype in KERNELS}


def _by_device(name: str, original: Any) -> Any:
    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        negative = _NEGATIVE.get() and name in WITH_DECAY
        ours = negative or _have_kernels(first, getattr(first, "weight", None), *args, *kwargs.values())
        several = kwargs.get("return_last_state") or kwargs.get("return_final_states")
        several = several or kwargs.get("seq_idx") is not None or (name == "mamba2_chunk_scan" and args[2].shape[2] > 1)
        several = several or getattr(first, "group_size", None) not in (None, args[0].shape[-1] if args else None)
        if negative and several:
            raise NotImplementedError(
                "negative eigenvalues: not with a cache, packed sequences or several groups; pass none of them"
            )
        return (OURS[name] if ours and not several else original)(first, *args, **kwargs)

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
    token = _INSTALLED.set(False)
    try:
        yield
    finally:
        _INSTALLED.reset(token)
        install()

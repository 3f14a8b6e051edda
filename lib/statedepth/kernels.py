"""The loops of Mamba and Mamba-2 on a CPU, compiled by numba: the scan, the short convolution and the norm.

Arrays are C-contiguous, (B, T, columns), and may be wider than what is read of them: `at` or a number after an array is
its first column, so that no part of a projection is ever copied out. A gradient lies as the array it belongs to, and
each kernel writes all of its columns; those of weights are added to. `one` is 1 in the precision of the arrays: a plain
1 would turn all that it touches to double.

A loop that sums does not store: where it did, the compiler would choose between vector and scalar code, and so the order
of the sum, by where the arrays lie in memory, and two passes of one model would differ in their last bit.
"""

import math
from typing import Any

import numba
import numpy as np
from numba.extending import overload

LN2, LOG2_E = np.float32(math.log(2)), np.float32(1 / math.log(2))
C2, C3, C4, C5, C6 = (np.float32(1 / math.factorial(i)) for i in range(2, 7))
S3, S5, S7, S9, S11, S13 = (np.float32(1 / i) for i in (3, 5, 7, 9, 11, 13))
ONE, TWO, HALF, LOWEST, HIGHEST = (np.float32(value) for value in (1, 2, 0.5, -87, 88))
# Sums may be reordered and multiply-adds fused. Not allowed are estimates of 1/x and 1/sqrt(x): processors differ in them.
FAST = {"reassoc", "contract", "nsz", "nnan", "ninf"}
compiled: Any = numba.njit(cache=True, fastmath=FAST, error_model="numpy")
CHUNK = 16  # tokens between two states that the forward scan keeps
TAPS = 4  # of the convolution, written out below; one with fewer has zeros before them
column = np.uint64  # an index without a sign: numba would test any other for being negative, which is no vector code


def _exp(x: float) -> float:
    return math.exp(x)


@overload(_exp, jit_options={"fastmath": FAST}, inline="always")
def _(x):  # type: ignore[no-untyped-def]
    """In float32 a polynomial that the compiler turns into vector code; relative error under 1e-6, at 0 none."""
    if x is not numba.types.float32:
        return lambda x: math.exp(x)  # noqa: PLW0108 (numba compares the names of arguments)

    def single(x):  # type: ignore[no-untyped-def]
        x = min(max(x, LOWEST), HIGHEST)
        n = np.int32(np.floor(x * LOG2_E + HALF))
        r = x - np.float32(n) * LN2  # one fused multiply-add
        p = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
        return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

    return single


def _log1p(x: float) -> float:
    return math.log1p(x)


@overload(_log1p, jit_options={"fastmath": FAST}, inline="always")
def _(x):  # type: ignore[no-untyped-def]
    """For x in [0, 1]: in float32 the series of 2 artanh(x / (2 + x)), so that the compiler makes vector code of it."""
    if x is not numba.types.float32:
        return lambda x: math.log1p(x)  # noqa: PLW0108 (numba compares the names of arguments)

    def single(x):  # type: ignore[no-untyped-def]
        s = x / (TWO + x)
        q = s * s
        return TWO * s * (ONE + q * (S3 + q * (S5 + q * (S7 + q * (S9 + q * (S11 + q * S13))))))

    return single


@compiled
def scan_forward(x, dt, W, bias, A, B, C, D, z, at, one, scale, step, out, starts):  # type: ignore[no-untyped-def]
    """y_t = h_t . C_t + D x_t and out = y silu(z), step = softplus(dt W + bias); W, bias, D and z may be None.

    A is (N, E), so that the inner loop runs along memory, or (1, E) where all N have the same. bias, step and, without
    W (R, E), dt have one column per channel (Mamba) or per head of neighbouring channels (Mamba-2). `at`: the first
    columns of dt, B, C and z. Of the states, those before every `CHUNK`-th token are kept in `starts` (B, chunks, N, E);
    the backward computes the others again, which is cheaper than fetching them. The decay is scale * exp(step A) + 1 -
    scale: scale is 1, or 2 with negative eigenvalues.
    """
    batch, length, heads = step.shape
    n_state, width = starts.shape[2:]
    rows, size, shift = A.shape[0], width // heads, one - scale
    dt0, b0, c0, z0 = at
    decay, delta, u, y = np.empty_like(A[0]), np.empty_like(A[0]), np.empty_like(A[0]), np.empty_like(A[0])
    h = np.empty_like(starts[0, 0])
    for b in range(batch):
        h[:] = one - one
        for t in range(length):
            if t % CHUNK == 0:
                starts[b, t // CHUNK] = h
            for k in range(heads):
                step[b, t, k] = dt[b, t, column(dt0 + k)] if W is None else one - one
            if W is not None:
                for r in range(W.shape[0]):
                    low = dt[b, t, dt0 + r]
                    for k in range(heads):
                        step[b, t, k] += low * W[r, k]
            if bias is not None:
                for k in range(heads):
                    v = step[b, t, k] + bias[k]
                    step[b, t, k] = max(v, one - one) + _log1p(_exp(-abs(v)))
            if size == 1:
                for e in range(width):
                    delta[e] = step[b, t, e]
            else:
                for k in range(heads):
                    delta[k * size : (k + 1) * size] = step[b, t, k]
            for e in range(width):
                u[e] = delta[e] * x[b, t, e]
                y[e] = one - one if D is None else D[e] * x[b, t, e]
            for n in range(n_state):
                b_n, c_n = B[b, t, b0 + n], C[b, t, c0 + n]
                if n < rows:
                    for e in range(width):
                        decay[e] = scale * _exp(delta[e] * A[n, e]) + shift
                for e in range(width):
                    h[n, e] = decay[e] * h[n, e] + u[e] * b_n
                    y[e] += c_n * h[n, e]
            for e in range(width):
                out[b, t, e] = y[e]
                if z is not None:
                    v = z[b, t, column(z0 + e)]
                    out[b, t, e] = y[e] * v / (one + _exp(-v))


@compiled
def scan_backward(  # type: ignore[no-untyped-def]
    x, dt, W, bias, A, B, C, D, z, at, one, scale, step, starts, gout, gx, gdt, gW, gbias, gA, gB, gC, gD, gz
):
    """The same recurrence run backwards: g is dL/dh_t, with what later steps pass back through the decay."""
    batch, length, heads = step.shape
    n_state, width = starts.shape[2:]
    rows, size, shift = A.shape[0], width // heads, one - scale
    dt0, b0, c0, z0 = at
    half, third = one / (one + one), one / (one + one + one)
    small = (one + one) * np.sqrt(np.sqrt(np.finfo(A.dtype).eps))  # where series and difference err alike
    g, h = np.empty_like(starts[0, 0]), np.empty((CHUNK + 1, n_state, width), dtype=A.dtype)  # h[i]: before token i
    slope = np.empty((CHUNK, rows, width), dtype=A.dtype)  # scale * exp(step A): the decay's derivative
    delta, u, y = np.empty_like(slope[:, 0]), np.empty_like(slope[:, 0]), np.empty_like(slope[:, 0])
    gy, gdelta, gu = np.empty_like(A[0]), np.empty_like(A[0]), np.empty_like(A[0])
    gdecay = np.zeros_like(slope[0])  # of the exponent step A, added up over the states that share it
    for b in range(batch):
        g[:] = one - one
        for chunk in range(starts.shape[1] - 1, -1, -1):
            first = chunk * CHUNK
            last = min(first + CHUNK, length)
            h[0] = starts[b, chunk]
            for t in range(first, last):
                i = t - first
                if size == 1:
                    for e in range(width):
                        delta[i, e] = step[b, t, e]
                else:
                    for k in range(heads):
                        delta[i, k * size : (k + 1) * size] = step[b, t, k]
                for e in range(width):
                    u[i, e] = delta[i, e] * x[b, t, e]
                    y[i, e] = one - one if D is None else D[e] * x[b, t, e]
                for n in range(n_state):
                    r, b_n, c_n = min(n, rows - 1), B[b, t, b0 + n], C[b, t, c0 + n]
                    if n < rows:
                        for e in range(width):
                            slope[i, n, e] = scale * _exp(delta[i, e] * A[n, e])
                    for e in range(width):
                        h[i + 1, n, e] = (slope[i, r, e] + shift) * h[i, n, e] + u[i, e] * b_n
                    if z is not None:
                        for e in range(width):
                            y[i, e] += c_n * h[i + 1, n, e]
            for t in range(last - 1, first - 1, -1):
                i = t - first
                for e in range(width):
                    gu[e] = gdelta[e] = one - one
                    gy[e] = gout[b, t, e]
                    if z is not None:
                        v = z[b, t, column(z0 + e)]
                        gate = one / (one + _exp(-v))
                        gz[b, t, column(z0 + e)] = gy[e] * y[i, e] * gate * (one + v * (one - gate))
                        gy[e] *= v * gate
                for n in range(n_state):
                    r, b_n, c_n = min(n, rows - 1), B[b, t, b0 + n], C[b, t, c0 + n]
                    gb = gc = one - one
                    for e in range(width):
                        gb += (g[n, e] + c_n * gy[e]) * u[i, e]
                        gc += gy[e] * h[i + 1, n, e]
                    for e in range(width):
                        ge = g[n, e] + c_n * gy[e]
                        gdecay[r, e] += ge * h[i, n, e] * slope[i, r, e]
                        gu[e] += ge * b_n
                        g[n, e] = ge * (slope[i, r, e] + shift)
                    gB[b, t, b0 + n] = gb
                    gC[b, t, c0 + n] = gc
                    if n >= n_state - rows:
                        for e in range(width):
                            gdelta[e] += gdecay[r, e] * A[r, e]
                            gA[r, e] += gdecay[r, e] * delta[i, e]
                            gdecay[r, e] = one - one
                for e in range(width):
                    gdelta[e] += gu[e] * x[b, t, e]
                    gx[b, t, e] = gu[e] * delta[i, e]
                    if D is not None:
                        gx[b, t, e] += gy[e] * D[e]
                        gD[e] += gy[e] * x[b, t, e]
                if size > 1:
                    for k in range(heads):
                        total = one - one
                        for e in range(k * size, (k + 1) * size):
                            total += gdelta[e]
                        gdelta[k] = total
                for k in range(heads):
                    if bias is not None:
                        # The slope of softplus from its value s: 1 - exp(-s), by its series where that would cancel.
                        # Both are computed for every channel: with one of them in a branch there is no vector code.
                        s = step[b, t, k]
                        series, difference = s * (one - s * (one - s * third) * half), one - _exp(-s)
                        gdelta[k] *= series if s < small else difference
                        gbias[k] += gdelta[k]
                    if W is None:
                        gdt[b, t, column(dt0 + k)] = gdelta[k]
                if W is not None:
                    for r in range(W.shape[0]):
                        low, total = dt[b, t, dt0 + r], one - one
                        for k in range(heads):
                            gW[r, k] += gdelta[k] * low
                        for k in range(heads):
                            total += gdelta[k] * W[r, k]
                        gdt[b, t, dt0 + r] = total


@compiled
def conv_forward(x, first, weight, bias, silu, one, out):  # type: ignore[no-untyped-def]
    """out_t = bias + sum_k weight_k x_{t-3+k}, or silu of that; x (B, T, columns), weight (4, E), out (B, T, E)."""
    batch, length, width = out.shape
    p = np.zeros((length + TAPS - 1, width), dtype=out.dtype)  # x, with zeros before it
    for b in range(batch):
        for t in range(length):
            for e in range(width):
                p[t + 3, e] = x[b, t, column(first + e)]
        for t in range(length):
            for e in range(width):
                v = bias[e] + weight[0, e] * p[t, e] + weight[1, e] * p[t + 1, e]
                v += weight[2, e] * p[t + 2, e] + weight[3, e] * p[t + 3, e]
                out[b, t, e] = v / (one + _exp(-v)) if silu else v


@compiled
def conv_backward(x, first, weight, bias, silu, one, gout, gx, gweight, gbias):  # type: ignore[no-untyped-def]
    """What comes before the SiLU is computed again."""
    batch, length, width = gout.shape
    p, g = (
        np.zeros((length + TAPS - 1, width), dtype=gout.dtype),
        np.zeros((length + TAPS - 1, width), dtype=gout.dtype),
    )
    for b in range(batch):
        for t in range(length):
            for e in range(width):
                p[t + 3, e] = x[b, t, column(first + e)]
        for t in range(length):
            for e in range(width):
                ge = gout[b, t, e]
                if silu:
                    v = bias[e] + weight[0, e] * p[t, e] + weight[1, e] * p[t + 1, e]
                    v += weight[2, e] * p[t + 2, e] + weight[3, e] * p[t + 3, e]
                    gate = one / (one + _exp(-v))
                    ge *= gate * (one + v * (one - gate))
                g[t, e] = ge
                gbias[e] += ge
            for k in range(TAPS):
                for e in range(width):
                    gweight[k, e] += g[t, e] * p[t + k, e]
        for t in range(length):
            for e in range(width):
                late = weight[1, e] * g[t + 2, e] + weight[0, e] * g[t + 3, e]
                gx[b, t, column(first + e)] = weight[3, e] * g[t, e] + weight[2, e] * g[t + 1, e] + late


@compiled
def norm_forward(x, z, weight, one, share, eps, scale, out):  # type: ignore[no-untyped-def]
    """out = weight u / sqrt(mean u^2 + eps), u = x silu(z), or x where z is None; row by row of (R, E); share = 1 / E.

    z (R, columns) is read from its first column on.
    """
    rows, width = x.shape
    u = np.empty_like(weight)
    for r in range(rows):
        total = one - one
        for e in range(width):
            u[e] = x[r, e] if z is None else x[r, e] * z[r, e] / (one + _exp(-z[r, e]))
        for e in range(width):
            total += u[e] * u[e]
        scale[r] = one / np.sqrt(total * share + eps)
        for e in range(width):
            out[r, e] = weight[e] * u[e] * scale[r]


@compiled
def norm_backward(x, z, weight, one, share, scale, gout, gx, gz, gweight):  # type: ignore[no-untyped-def]
    """Row by row: gu = scale (g - n mean(g n)), with g = weight gout and n = scale u."""
    rows, width = x.shape
    n, gate = np.empty_like(weight), np.empty_like(weight)
    for r in range(rows):
        mean = one - one
        for e in range(width):
            gate[e] = one if z is None else one / (one + _exp(-z[r, e]))
            n[e] = x[r, e] * scale[r] * gate[e] * (one if z is None else z[r, e])
            gweight[e] += gout[r, e] * n[e]
        for e in range(width):
            mean += gout[r, e] * weight[e] * n[e]
        mean *= share
        for e in range(width):
            gu = scale[r] * (gout[r, e] * weight[e] - n[e] * mean)
            if z is None:
                gx[r, e] = gu
            else:
                gx[r, e] = gu * gate[e] * z[r, e]
                gz[r, e] = gu * x[r, e] * gate[e] * (one + z[r, e] * (one - gate[e]))

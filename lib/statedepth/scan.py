"""The selective scan of Mamba on a CPU: exact, one fused pass forward and one backward.

    h_t = a_t * h_{t-1} + (dt_t x_t) B_t        y_t = h_t . C_t        a_t = exp(dt_t A)

(Gu and Dao 2023, arXiv:2312.00752). With negative eigenvalues, a_t = 2 exp(dt_t A) - 1, in [-1, 1] in place of [0, 1]
(Grazzi et al. 2024, arXiv:2411.12537): one channel can then keep a parity.

`kernels` has the loops; this module puts them, alone and as whole mixers of Mamba and Mamba-2, on autograd's graph, and
has the same recurrence as plain torch.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from statedepth import kernels

ONE: dict[torch.dtype, Any] = {
    torch.float32: np.float32(1),
    torch.float64: np.float64(1),
}  # the precisions that there are kernels for
Maybe = torch.Tensor | None
Columns = tuple[int, int, int, int]  # the first ones of dt, B, C and z, each in its tensor


def _arrays(*tensors: Maybe) -> Iterator[np.ndarray | None]:
    return (None if t is None else t.numpy() for t in tensors)


def _numbers(x: torch.Tensor, negative: bool = False) -> tuple[Any, ...]:
    """1, and the scale of the decay, in the precision of x."""
    one = ONE[x.dtype]
    return one, one + one if negative else one


def _plain(*tensors: Maybe) -> tuple[Any, ...]:
    """Outside the graph and contiguous, as the kernels need them."""
    return tuple(None if t is None else t.detach().contiguous() for t in tensors)


# ---- the kernels on tensors -----------------------------------------------------------------------------------------


def _scan(negative: bool, at: Columns, *inputs: Any) -> tuple[torch.Tensor, ...]:
    """step, starts and out of `kernels.scan_forward`; inputs: x, dt, W, bias, A, B, C, D and z as it has them."""
    x, dt, _, bias, A, _, C, *_ = inputs
    batch, length, width = x.shape[0], x.shape[1], A.shape[1]
    step = x.new_empty(batch, length, dt.shape[2] if bias is None else len(bias))
    starts = x.new_empty(batch, -(-length // kernels.CHUNK), C.shape[2] - at[2], width)
    out = x.new_empty(batch, length, width)
    kernels.scan_forward(*_arrays(*inputs), at, *_numbers(x, negative), *_arrays(step, out, starts))
    return step, starts, out


def _scan_gradients(negative: bool, at: Columns, inputs: Any, results: Any, gout: Any, into: Any) -> Any:
    """Write the gradients of x, dt, B, C and z to `into`; return those of W, bias, A and D.

    `inputs` as in `_scan`; `results`: step and starts of it.
    """
    _, _, W, bias, A, _, _, D, _ = inputs
    gW, gbias, gA, gD = found = tuple(None if t is None else torch.zeros_like(t) for t in (W, bias, A, D))
    gx, gdt, gB, gC, gz = into
    gradients = _arrays(gx, gdt, gW, gbias, gA, gB, gC, gD, gz)
    kernels.scan_backward(*_arrays(*inputs), at, *_numbers(gx, negative), *_arrays(*results, gout), *gradients)
    return found


def _taps(weight: torch.Tensor) -> torch.Tensor:
    """(E, K) or (E, 1, K) as the kernels have it: (4, E), with zeros for taps that there are not."""
    weight = weight.detach().reshape(len(weight), -1).T
    return F.pad(weight, (0, 0, kernels.TAPS - len(weight), 0)).contiguous()


def _conv(silu: bool, x: torch.Tensor, first: int, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(B, T, E): the causal convolution of the columns of x from `first` on; weight is (4, E)."""
    out = x.new_empty(*x.shape[:2], weight.shape[1])
    kernels.conv_forward(*_arrays(x), first, *_arrays(weight, bias), silu, *_numbers(x)[:1], *_arrays(out))
    return out


def _conv_gradients(
    silu: bool, x: torch.Tensor, first: int, weight: torch.Tensor, bias: torch.Tensor, gout: torch.Tensor, gx: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the gradient of x into `gx`; return those of the weight, (E, 4), and of the bias."""
    gweight, gbias = torch.zeros_like(weight), torch.zeros_like(bias)
    results = _arrays(gout, gx, gweight, gbias)
    kernels.conv_backward(*_arrays(x), first, *_arrays(weight, bias), silu, *_numbers(x)[:1], *results)
    return gweight.T, gbias


def _one_and_share(x: torch.Tensor, width: int) -> tuple[Any, Any]:
    """1 and 1 / width, in the precision of x."""
    one = _numbers(x)[0]
    return one, one / type(one)(width)


def _normed(eps: float, x: torch.Tensor, z: Maybe, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of rows x (R, E), gated by the first columns of z where there is one, and each row's scale."""
    scale, out = x.new_empty(len(x)), torch.empty_like(x)
    numbers = _one_and_share(x, len(weight))
    kernels.norm_forward(*_arrays(x, z, weight), *numbers, type(numbers[0])(eps), *_arrays(scale, out))
    return out, scale


def _normed_gradients(x: Any, z: Maybe, weight: Any, scale: Any, gout: Any, gz: Maybe) -> tuple[Any, Any]:
    """The gradients of x and of the weight; that of z goes into `gz`."""
    gx, gweight = torch.empty_like(x), torch.zeros_like(weight)
    results = _arrays(scale, gout, gx, gz, gweight)
    kernels.norm_backward(*_arrays(x, z, weight), *_one_and_share(x, len(weight)), *results)
    return gx, gweight


def _first_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """RuntimeError where a backward pass is itself recorded: what it would give has no gradient of its own."""

    @functools.wraps(backward)
    def refuse_or_run(ctx: Any, *grads: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the scan has no second derivative; take it of `recurrence`, or inside `mixers.transformers_path`"
            )
        return backward(ctx, *grads)

    return refuse_or_run


# ---- on autograd's graph ----------------------------------------------------------------------------------------------


class SelectiveScan(torch.autograd.Function):
    """y = scan(x, step, A, B, C) + D x and y silu(z), step = softplus(dt + bias); what is None is left out.

    A is (E, N) or (E, 1); dt and bias have a column per channel, or per head of neighbouring channels (Mamba-2).
    """

    AT: Columns = (0, 0, 0, 0)

    @staticmethod
    def forward(ctx: Any, negative: bool, *inputs: Maybe) -> torch.Tensor:
        x, dt, A, B, C, D, z, bias = _plain(*inputs)
        assert A is not None
        inputs = (x, dt, None, bias, A.T.contiguous(), B, C, D, z)
        step, starts, out = _scan(negative, SelectiveScan.AT, *inputs)
        ctx.negative = negative
        ctx.save_for_backward(*inputs, step, starts)
        return out

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Maybe, ...]:
        saved = ctx.saved_tensors
        inputs, results = saved[:9], saved[9:]
        x, dt, _, _, _, B, C, _, z = inputs
        into = gx, gdt, gB, gC, gz = tuple(None if t is None else torch.empty_like(t) for t in (x, dt, B, C, z))
        gout = grads[0].contiguous()
        _, gbias, gA, gD = _scan_gradients(ctx.negative, SelectiveScan.AT, inputs, results, gout, into)
        return None, gx, gdt, gA.T, gB, gC, gD, gz, gbias


class CausalConv(torch.autograd.Function):
    """Depthwise causal convolution of x (B, T, E) with weight (E, K), K at most 4, and bias (E,); SiLU if asked for."""

    @staticmethod
    def forward(ctx: Any, silu: bool, *inputs: torch.Tensor) -> torch.Tensor:
        x, bias = _plain(inputs[0], inputs[2])
        weight = _taps(inputs[1])
        ctx.silu = silu
        ctx.save_for_backward(x, weight, bias)
        ctx.shape = inputs[1].shape
        assert x is not None and bias is not None
        return _conv(silu, x, 0, weight, bias)

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Maybe, ...]:
        x, weight, bias = ctx.saved_tensors
        gx = torch.empty_like(x)
        gweight, gbias = _conv_gradients(ctx.silu, x, 0, weight, bias, grads[0].contiguous(), gx)
        return None, gx, gweight[:, -ctx.shape[-1] :].reshape(ctx.shape), gbias


class Norm(torch.autograd.Function):
    """Root-mean-square norm of (..., E) with its weight (E,), after a gate where there is one."""

    @staticmethod
    def forward(ctx: Any, eps: float, *inputs: Maybe) -> torch.Tensor:
        x, z, weight = _plain(*inputs)
        assert x is not None and weight is not None
        flat, gate = x.flatten(0, -2), None if z is None else z.flatten(0, -2)
        out, scale = _normed(eps, flat, gate, weight)
        ctx.save_for_backward(flat, gate, weight, scale)
        return out.view(x.shape)

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Maybe, ...]:
        x, z, weight, scale = ctx.saved_tensors
        gz, shape = None if z is None else torch.empty_like(z), grads[0].shape
        gx, gweight = _normed_gradients(x, z, weight, scale, grads[0].contiguous().view(x.shape), gz)
        return None, gx.view(shape), None if gz is None else gz.view(shape), gweight


class MambaMixer(torch.autograd.Function):
    """Mamba's mixer after its first projection, with a backward of its own: nothing is cut out, joined or zeroed.

    xz (B, T, 2E) is what the convolution reads beside the gate; conv (E, 1, K) and its bias; x_proj (R + 2N, E);
    dt_proj (E, R); out_proj (D, E); A (E, N); D and bias (E,).
    """

    @staticmethod
    def forward(ctx: Any, negative: bool, *inputs: torch.Tensor) -> torch.Tensor:
        xz, _, conv_bias, x_proj, dt_proj, out_proj, A, D, bias = _plain(*inputs)
        rank, n_state = dt_proj.shape[1], A.shape[1]
        conv = _taps(inputs[1])
        x = _conv(True, xz, 0, conv, conv_bias)
        low = x @ x_proj.T  # what the steps come from, B, C
        scanned = (x, low, dt_proj.T.contiguous(), bias, A.T.contiguous(), low, low, D, xz)
        ctx.at = (0, rank, rank + n_state, len(D))
        step, starts, out = _scan(negative, ctx.at, *scanned)
        ctx.negative, ctx.shape = negative, inputs[1].shape
        ctx.save_for_backward(*scanned, step, starts, conv, conv_bias, x_proj, out_proj, out)
        return out @ out_proj.T

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Maybe, ...]:
        saved = ctx.saved_tensors
        scanned, results, (conv, conv_bias, x_proj, out_proj, out) = saved[:9], saved[9:11], saved[11:]
        x, low, xz, g = scanned[0], scanned[1], scanned[8], grads[0].contiguous()
        gxz, gx, glow = (torch.empty_like(t) for t in (xz, x, low))
        into = (gx, glow, glow, glow, gxz)
        gdt_proj, gbias, gA, gD = _scan_gradients(ctx.negative, ctx.at, scanned, results, g @ out_proj, into)
        gx.flatten(0, 1).addmm_(glow.flatten(0, 1), x_proj)
        gconv, gconv_bias = _conv_gradients(True, xz, 0, conv, conv_bias, gx, gxz)
        gconv = gconv[:, -ctx.shape[-1] :].reshape(ctx.shape)
        gx_proj, gout_proj = _of_weight(glow, x), _of_weight(g, out)
        return None, gxz, gconv, gconv_bias, gx_proj, gdt_proj.T, gout_proj, gA.T, gD, gbias


class Mamba2Mixer(torch.autograd.Function):
    """Mamba-2's mixer after its first projection, likewise.

    zxbcdt (B, T, 2E + 2N + H): gate, what the convolution reads, steps. conv (E + 2N, K) and its bias; A, D and the
    steps' bias (H,); norm (E,); out_proj (D, E).
    """

    @staticmethod
    def forward(ctx: Any, negative: bool, eps: float, *inputs: torch.Tensor) -> torch.Tensor:
        zxbcdt, _, conv_bias, bias, A, D, norm, out_proj = _plain(*inputs)
        width, heads = len(norm), len(bias)
        A, D = A.repeat_interleave(width // heads)[None], D.repeat_interleave(width // heads)
        conv = _taps(inputs[1])
        x = _conv(True, zxbcdt, width, conv, conv_bias)
        scanned = (x, zxbcdt, None, bias, A, x, x, D, None)
        ctx.at = (zxbcdt.shape[2] - heads, width, width + (x.shape[2] - width) // 2, 0)
        step, starts, y = _scan(negative, ctx.at, *scanned)
        out, scale = _normed(eps, y.flatten(0, 1), zxbcdt.flatten(0, 1), norm)
        ctx.negative, ctx.taps = negative, inputs[1].shape[1]
        ctx.save_for_backward(*scanned, step, starts, conv, conv_bias, norm, out_proj, y, out, scale)
        return (out @ out_proj.T).view(*zxbcdt.shape[:2], len(out_proj))

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Maybe, ...]:
        saved = ctx.saved_tensors  # once: a checkpointed block is run again to give them
        scanned, results, (conv, conv_bias, norm, out_proj, y, out, scale) = saved[:9], saved[9:11], saved[11:]
        x, zxbcdt, heads = scanned[0], scanned[1], len(scanned[3])
        g, gx, gzxbcdt = grads[0].contiguous().flatten(0, 1), torch.empty_like(x), torch.empty_like(zxbcdt)
        rows = y.flatten(0, 1), zxbcdt.flatten(0, 1), norm, scale
        gy, gnorm = _normed_gradients(*rows, g @ out_proj, gzxbcdt.flatten(0, 1))
        into = (gx, gzxbcdt, gx, gx, None)
        _, gbias, gA, gD = _scan_gradients(ctx.negative, ctx.at, scanned, results, gy.view(y.shape), into)
        gconv, gconv_bias = _conv_gradients(True, zxbcdt, len(norm), conv, conv_bias, gx, gzxbcdt)
        gA, gD = gA.view(heads, -1).sum(1), gD.view(heads, -1).sum(1)
        return None, None, gzxbcdt, gconv[:, -ctx.taps :], gconv_bias, gbias, gA, gD, gnorm, _of_weight(g, out)


def _of_weight(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient of a projection's weight from that of its output, g (..., O), and its input, x (..., I)."""
    return g.flatten(0, -2).T @ x.flatten(0, -2)


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
        if value.dtype != x.dtype or value.dtype not in ONE or value.device.type != "cpu":
            raise ValueError(f"{name} is {value.dtype} on {value.device}: all must be one of float32, float64, on cpu")
    return SelectiveScan.apply(negative_eigenvalues, x, dt, A, B, C, None, None, None)


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

"""The selective scan of Mamba on a CPU: exact, one fused pass forward and one backward.

    h_t = a_t * h_{t-1} + (dt_t x_t) B_t        y_t = h_t . C_t        a_t = exp(dt_t A)

(Gu and Dao 2023, arXiv:2312.00752). With negative eigenvalues, a_t = 2 exp(dt_t A) - 1, in [-1, 1] in place of [0, 1]
(Grazzi et al. 2024, arXiv:2411.12537): one channel can then keep a parity.

On CUDA the kernels of mamba-ssm do this, where they are installed; CPU tensors of single or double precision come here
all the same. `kernels` has the loops; this module gives them to autograd and to transformers' classes. What these
kernels do not do (a cache, packed sequences, several groups, limited steps, more than four taps) is left to transformers.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from statedepth import kernels

ONE: dict[torch.dtype, Any] = {
    torch.float32: np.float32(1),
    torch.float64: np.float64(1),
}  # the precisions that there are kernels for
SILU = ("silu", "swish")  # its names in transformers
NO_LIMIT = (0.0, math.inf)  # of Mamba-2's steps
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


def _shares(x: torch.Tensor, width: int) -> tuple[Any, Any]:
    one = _numbers(x)[0]
    return one, one / type(one)(width)


def _normed(eps: float, x: torch.Tensor, z: Maybe, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm of rows x (R, E), gated by the first columns of z where there is one, and each row's scale."""
    scale, out = x.new_empty(len(x)), torch.empty_like(x)
    numbers = _shares(x, len(weight))
    kernels.norm_forward(*_arrays(x, z, weight), *numbers, type(numbers[0])(eps), *_arrays(scale, out))
    return out, scale


def _normed_gradients(x: Any, z: Maybe, weight: Any, scale: Any, gout: Any, gz: Maybe) -> tuple[Any, Any]:
    """The gradients of x and of the weight; that of z goes into `gz`."""
    gx, gweight = torch.empty_like(x), torch.zeros_like(weight)
    results = _arrays(scale, gout, gx, gz, gweight)
    kernels.norm_backward(*_arrays(x, z, weight), *_shares(x, len(weight)), *results)
    return gx, gweight


def _first_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """RuntimeError where a backward pass is itself recorded: what it would give has no gradient of its own."""

    @functools.wraps(backward)
    def refuse_or_run(ctx: Any, *grads: torch.Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the scan has no second derivative; take it inside `scan.transformers_path`")
        return backward(ctx, *grads)

    return refuse_or_run


# ---- on autograd's graph ----------------------------------------------------------------------------------------------


class _SelectiveScan(torch.autograd.Function):
    """y = scan(x, step, A, B, C) + D x and y silu(z), step = softplus(dt + bias); what is None is left out.

    A is (E, N) or (E, 1); dt and bias have a column per channel, or per head of neighbouring channels (Mamba-2).
    """

    AT: Columns = (0, 0, 0, 0)

    @staticmethod
    def forward(ctx: Any, negative: bool, *inputs: Maybe) -> torch.Tensor:
        x, dt, A, B, C, D, z, bias = _plain(*inputs)
        assert A is not None
        inputs = (x, dt, None, bias, A.T.contiguous(), B, C, D, z)
        step, starts, out = _scan(negative, _SelectiveScan.AT, *inputs)
        ctx.negative = negative
        ctx.save_for_backward(*inputs, step, starts)
        return out

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Maybe, ...]:
        inputs, results = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
        x, dt, _, _, _, B, C, _, z = inputs
        into = gx, gdt, gB, gC, gz = tuple(None if t is None else torch.empty_like(t) for t in (x, dt, B, C, z))
        gout = grads[0].contiguous()
        _, gbias, gA, gD = _scan_gradients(ctx.negative, _SelectiveScan.AT, inputs, results, gout, into)
        return None, gx, gdt, gA.T, gB, gC, gD, gz, gbias


class _CausalConv(torch.autograd.Function):
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


class _Norm(torch.autograd.Function):
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


class _MambaMixer(torch.autograd.Function):
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
        scanned, results = ctx.saved_tensors[:9], ctx.saved_tensors[9:11]
        conv, conv_bias, x_proj, out_proj, out = ctx.saved_tensors[11:]
        x, low, xz, g = scanned[0], scanned[1], scanned[8], grads[0].contiguous()
        gxz, gx, glow = (torch.empty_like(t) for t in (xz, x, low))
        into = (gx, glow, glow, glow, gxz)
        gdt_proj, gbias, gA, gD = _scan_gradients(ctx.negative, ctx.at, scanned, results, g @ out_proj, into)
        gx.flatten(0, 1).addmm_(glow.flatten(0, 1), x_proj)
        gconv, gconv_bias = _conv_gradients(True, xz, 0, conv, conv_bias, gx, gxz)
        gconv = gconv[:, -ctx.shape[-1] :].reshape(ctx.shape)
        gx_proj, gout_proj = _of_weight(glow, x), _of_weight(g, out)
        return None, gxz, gconv, gconv_bias, gx_proj, gdt_proj.T, gout_proj, gA.T, gD, gbias


class _Mamba2Mixer(torch.autograd.Function):
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
        scanned, results = ctx.saved_tensors[:9], ctx.saved_tensors[9:11]
        conv, conv_bias, norm, out_proj, y, out, scale = ctx.saved_tensors[11:]
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
_WHOLE = ContextVar("this mixer may run as one function", default=True)


@contextmanager
def eigenvalues(negative: bool) -> Iterator[None]:
    """Inside the block, Mamba and Mamba-2 have decays in [-1, 1] where `negative`, else in [0, 1] as usual.

    RuntimeError where transformers' own functions are in place, which have none.
    """
    if negative and not all(getattr(*where) is ours for where, ours in OURS.items()):
        raise RuntimeError("negative eigenvalues: transformers' own path has none; leave `transformers_path` first")
    with _set(_NEGATIVE, negative):
        yield


@contextmanager
def _set(flag: ContextVar[bool], value: bool) -> Iterator[None]:
    token = flag.set(value)
    try:
        yield
    finally:
        flag.reset(token)


def _causal_conv(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """What the mixers call for their short convolution, (B, E, T) to (B, E, T): grouped conv1d is slow on a CPU."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    fused = activation in SILU
    out = _CausalConv.apply(fused, hidden_states.transpose(1, 2), weight, bias)
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
    **_: Any,
) -> torch.Tensor:
    """Mamba-2's state is Mamba's with one A and one dt per head: x (B, T, H, P), dt (B, T, H), B and C (B, T, 1, N)."""
    size = hidden_states.shape[3]
    x, A = hidden_states.flatten(2), A.repeat_interleave(size)[:, None]
    B, C, D = B[:, :, 0], C[:, :, 0], D.repeat_interleave(size)
    if _have_kernels(x, dt, A, B, C, D, dt_bias):
        y = _SelectiveScan.apply(_NEGATIVE.get(), x, dt, A, B, C, D, None, dt_bias)
    else:
        step = F.softplus(dt + dt_bias).repeat_interleave(size, dim=2)
        y = recurrence(x, step, A, B, C, _NEGATIVE.get()) + x * D
    return y.view(hidden_states.shape)


def _mamba_mixer(xz: torch.Tensor, *inputs: Any, delta_bias: torch.Tensor, **_: Any) -> Maybe:
    """What Mamba's mixer calls when it is trained, (B, 2E, T) to (B, T, D); None: go on with the parts above."""
    conv, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, _b, _c, D = inputs
    given = (xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, delta_bias)
    plain = conv_bias is not None and out_bias is None and conv.shape[-1] <= kernels.TAPS and _WHOLE.get()
    if not plain or not _have_kernels(*given):
        return None
    return _MambaMixer.apply(_NEGATIVE.get(), xz.transpose(1, 2), *given[1:])


def _mamba2_mixer(
    zxbcdt: torch.Tensor,
    conv: torch.Tensor,
    conv_bias: Maybe,
    dt_bias: torch.Tensor,
    A: torch.Tensor,
    D: torch.Tensor,
    *,
    rmsnorm_weight: torch.Tensor,
    rmsnorm_eps: float,
    outproj_weight: torch.Tensor,
    outproj_bias: Maybe,
    **_: Any,
) -> Maybe:
    """What Mamba-2's mixer calls when it is trained, (B, T, 2E + 2N + H) to (B, T, D); None: go on with the parts."""
    given = (zxbcdt, conv, conv_bias, dt_bias, A, D, rmsnorm_weight, outproj_weight)
    plain = conv_bias is not None and outproj_bias is None and conv.shape[-1] <= kernels.TAPS and _WHOLE.get()
    if not plain or not _have_kernels(*given):
        return None
    return _Mamba2Mixer.apply(_NEGATIVE.get(), rmsnorm_eps, *given)


def _norm(module: Any, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
    """What the blocks' norms and Mamba-2's gated one do."""
    return _Norm.apply(module.variance_epsilon, hidden_states, gate, module.weight)


def _have_kernels(*values: Any) -> bool:
    """Are all tensors among these on the CPU and of one precision that there are kernels for?"""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    return len(kinds) == 1 and kinds <= {("cpu", dtype) for dtype in ONE}


# ---- in the place of transformers' functions --------------------------------------------------------------------------

Where = tuple[Any, str]  # a module or class, and the name of its function


def _asks_for_more(kwargs: dict[str, Any]) -> bool:
    """A cache, packed sequences, several groups, another softplus or limited steps: transformers does these alone."""
    asked = ("return_last_state", "return_final_states", "initial_states", "seq_idx", "cu_seqlens", "norm_before_gate")
    softplus = [kwargs[name] for name in ("delta_softplus", "dt_softplus") if name in kwargs]
    limited = tuple(kwargs.get("dt_limit", NO_LIMIT)) != NO_LIMIT
    several = kwargs.get("ngroups", 1) > 1
    return (
        several
        or limited
        or not all(softplus)
        or any(kwargs.get(n) is not None and kwargs[n] is not False for n in asked)
    )


def _scans(ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Ours for the tensors that there are kernels for, and for all where the decays may be negative."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        more = _asks_for_more(kwargs) or (ours is _mamba2_scan and args[3].shape[2] > 1)
        if _NEGATIVE.get() and more:
            raise NotImplementedError(
                "negative eigenvalues: not with a cache, packed sequences, several groups or limited steps; pass none"
            )
        use = not more and (_NEGATIVE.get() or _have_kernels(*args, *kwargs.values()))
        return (ours if use else original)(*args, **kwargs)

    return call


def _convolves(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(hidden_states: torch.Tensor, weight: torch.Tensor, bias: Maybe = None, *args: Any, **kwargs: Any) -> Any:
        use = (
            weight.shape[-1] <= kernels.TAPS
            and not _asks_for_more(kwargs)
            and _have_kernels(hidden_states, weight, bias)
        )
        return (_causal_conv if use else original)(hidden_states, weight, bias, *args, **kwargs)

    return call


def _norms(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(module: Any, hidden_states: torch.Tensor, gate: Maybe = None) -> torch.Tensor:
        whole = getattr(module, "group_size", hidden_states.shape[-1]) == hidden_states.shape[-1]
        use = whole and _have_kernels(hidden_states, gate, module.weight)
        return (_norm if use else original)(module, hidden_states, *(() if gate is None else (gate,)))

    return call


def _mixes(original: Callable[..., Any]) -> Callable[..., Any]:
    """A mixer as it is, but in one function only where that knows all: not a mask, nor another activation."""

    @functools.wraps(original)
    def call(module: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        masked = any(value is not None for value in (*args[1:], kwargs.get("attention_mask")))
        with _set(_WHOLE, not masked and module.activation in SILU):
            return original(module, hidden_states, *args, **kwargs)

    return call


STANDS_IN: dict[Where, Callable[..., Any]] = {
    (modeling_mamba, "mamba_inner_fn"): functools.partial(_scans, _mamba_mixer),
    (modeling_mamba, "mamba_selective_scan"): functools.partial(_scans, _mamba_scan),
    (modeling_mamba2, "mamba2_split_conv1d_scan_combined"): functools.partial(_scans, _mamba2_mixer),
    (modeling_mamba2, "mamba2_chunk_scan"): functools.partial(_scans, _mamba2_scan),
    (modeling_mamba, "causal_conv1d_fn"): _convolves,
    (modeling_mamba2, "causal_conv1d_fn"): _convolves,
    (modeling_mamba.MambaRMSNorm, "forward"): _norms,
    (modeling_mamba2.Mamba2RMSNorm, "forward"): _norms,
    (modeling_mamba2.MambaRMSNormGated, "forward"): _norms,
    (modeling_mamba.MambaMixer, "forward"): _mixes,
    (modeling_mamba2.Mamba2Mixer, "forward"): _mixes,
}
ORIGINAL: dict[Where, Callable[..., Any]] = {where: getattr(*where) for where in STANDS_IN}
OURS: dict[Where, Callable[..., Any]] = {where: made(ORIGINAL[where]) for where, made in STANDS_IN.items()}


def _put(functions: dict[Where, Callable[..., Any]]) -> None:
    for where, function in functions.items():
        setattr(*where, function)


def install() -> None:
    """Let transformers' Mamba and Mamba-2 classes use this module for CPU tensors, whatever else is installed."""
    _put(OURS)


@contextmanager
def transformers_path() -> Iterator[None]:
    """Inside the block, those classes run as transformers ships them (for comparisons), in all threads.

    RuntimeError inside a block of negative eigenvalues, which they would ignore.
    """
    if _NEGATIVE.get():
        raise RuntimeError("transformers_path: inside `eigenvalues(True)`, which transformers' own path has not")
    before = {where: getattr(*where) for where in ORIGINAL}
    _put(ORIGINAL)
    try:
        yield
    finally:
        _put(before)

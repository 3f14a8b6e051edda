"""Mamba and Mamba-2 of transformers on the scan of this library: the classes, and their parameter names, stay theirs.

On CUDA the kernels of mamba-ssm run, where they are installed; CPU tensors of single precision come here all the same.
What our kernels do not do (a cache, packed sequences, several groups, limited steps, more than four taps, another
precision, tracing and compiling) is left to transformers.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from statedepth import kernels, scan

SILU = ("silu", "swish")  # its names in transformers
NO_LIMIT = (0.0, math.inf)  # of Mamba-2's steps
Maybe = torch.Tensor | None

_NEGATIVE = ContextVar("negative eigenvalues", default=False)
_THEIRS = ContextVar("transformers' own functions", default=False)
_WHOLE = ContextVar("this mixer may run as one function", default=True)


@contextmanager
def eigenvalues(negative: bool) -> Iterator[None]:
    """Inside the block, Mamba and Mamba-2 have decays in [-1, 1] where `negative`, else in [0, 1] as usual.

    RuntimeError inside `transformers_path`, which has none. A checkpointed block that runs again in a backward pass must
    do so inside such a block too.
    """
    if negative and _THEIRS.get():
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
    out = scan.CausalConv.apply(fused, hidden_states.transpose(1, 2), weight, bias)
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
        return scan.SelectiveScan.apply(_NEGATIVE.get(), x, dt, A, B, C, D, z, delta_bias).transpose(1, 2)
    y = scan.recurrence(
        x, F.softplus(dt + delta_bias), A, B, C, _NEGATIVE.get()
    )  # elsewhere no kernel has negative eigenvalues
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
        y = scan.SelectiveScan.apply(_NEGATIVE.get(), x, dt, A, B, C, D, None, dt_bias)
    else:
        step = F.softplus(dt + dt_bias).repeat_interleave(size, dim=2)
        y = scan.recurrence(x, step, A, B, C, _NEGATIVE.get()) + x * D
    return y.view(hidden_states.shape)


def _mamba_mixer(xz: torch.Tensor, *inputs: Any, delta_bias: torch.Tensor, **_: Any) -> Maybe:
    """What Mamba's mixer calls when it is trained, (B, 2E, T) to (B, T, D); None: go on with the parts above."""
    conv, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, _b, _c, D = inputs
    given = (xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, delta_bias)
    plain = conv_bias is not None and out_bias is None and conv.shape[-1] <= kernels.TAPS and _WHOLE.get()
    if not plain or not _have_kernels(*given):
        return None
    return scan.MambaMixer.apply(_NEGATIVE.get(), xz.transpose(1, 2), *given[1:])


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
    return scan.Mamba2Mixer.apply(_NEGATIVE.get(), rmsnorm_eps, *given)


def _norm(module: Any, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
    """What the blocks' norms and Mamba-2's gated one do."""
    return scan.Norm.apply(module.variance_epsilon, hidden_states, gate, module.weight)


def _have_kernels(*values: Any) -> bool:
    """Are all tensors among these plain ones, on the CPU and of one precision that there are kernels for?"""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if not all(type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in tensors):
        return False
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    return len(kinds) == 1 and kinds <= {("cpu", dtype) for dtype in scan.ONE}


# ---- in the place of transformers' functions --------------------------------------------------------------------------

Where = tuple[Any, str]  # a module or class, and the name of its function


def _asks_for_more(kwargs: dict[str, Any]) -> bool:
    """A cache, packed sequences, several groups or limited steps: transformers does these alone."""
    asked = ("return_last_state", "return_final_states", "initial_states", "seq_idx", "cu_seqlens", "norm_before_gate")
    limited = tuple(kwargs.get("dt_limit", NO_LIMIT)) != NO_LIMIT
    several = kwargs.get("ngroups", 1) > 1
    return several or limited or any(kwargs.get(n) is not None and kwargs[n] is not False for n in asked)


SOFTPLUS = {_mamba_scan: "delta_softplus", _mamba2_scan: "dt_softplus"}  # ours apply it always


def _scans(ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Ours for the tensors that there are kernels for, and for all where the decays may be negative."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _THEIRS.get():
            return original(*args, **kwargs)
        more = _asks_for_more(kwargs) or (ours is _mamba2_scan and args[3].shape[2] > 1)
        more = more or (ours in SOFTPLUS and not kwargs.get(SOFTPLUS[ours]))
        if _NEGATIVE.get() and more:
            raise NotImplementedError(
                "negative eigenvalues: not with a cache, packed sequences, several groups or limited steps; call the model "
                "with use_cache=False and one sequence per row"
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
        use = whole and hidden_states.dtype == torch.float32 and _have_kernels(hidden_states, gate, module.weight)
        use = use and not _THEIRS.get()  # in double precision, transformers' own computes in single
        return (_norm if use else original)(module, hidden_states, *(() if gate is None else (gate,)))

    return call


def _mixes(original: Callable[..., Any]) -> Callable[..., Any]:
    """A mixer as it is, but in one function only where that knows all: no mask, no other activation, and nobody's hooks,
    adapters or replacements on the modules whose weights it reads in place of calling them.
    """

    @functools.wraps(original)
    def call(module: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        masked = any(value is not None for value in (*args[1:], kwargs.get("attention_mask")))
        inner = [getattr(module, name) for name in ("x_proj", "norm", "out_proj") if hasattr(module, name)]
        with _set(_WHOLE, not masked and module.activation in SILU and all(map(_is_plain, inner))):
            return original(module, hidden_states, *args, **kwargs)

    return call


def _is_plain(module: torch.nn.Module) -> bool:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    known = type(module) in (torch.nn.Linear, modeling_mamba2.MambaRMSNormGated)
    return known and not any(hooks) and "forward" not in vars(module)


def _steps(original: Callable[..., Any]) -> Callable[..., Any]:
    """One token after a cache: transformers' own, which has no negative eigenvalues."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _NEGATIVE.get():
            raise NotImplementedError("negative eigenvalues: not with a cache; call the model with use_cache=False")
        return original(*args, **kwargs)

    return call


STANDS_IN: dict[Where, Callable[..., Any]] = {
    (modeling_mamba, "mamba_inner_fn"): functools.partial(_scans, _mamba_mixer),
    (modeling_mamba, "mamba_selective_scan"): functools.partial(_scans, _mamba_scan),
    (modeling_mamba2, "mamba2_split_conv1d_scan_combined"): functools.partial(_scans, _mamba2_mixer),
    (modeling_mamba2, "mamba2_chunk_scan"): functools.partial(_scans, _mamba2_scan),
    (modeling_mamba, "mamba_selective_state_update"): _steps,
    (modeling_mamba2, "mamba2_selective_state_update"): _steps,
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


def install() -> None:
    """Let transformers' Mamba and Mamba-2 classes use this library for CPU tensors, whatever else is installed."""
    for where, function in OURS.items():
        setattr(*where, function)


@contextmanager
def transformers_path() -> Iterator[None]:
    """Inside the block, those classes run as transformers ships them (for comparisons).

    RuntimeError inside a block of negative eigenvalues, which they would ignore.
    """
    if _NEGATIVE.get():
        raise RuntimeError("transformers_path: inside `eigenvalues(True)`, which transformers' own path has not")
    with _set(_THEIRS, True):
        yield

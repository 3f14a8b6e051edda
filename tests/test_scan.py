"""The selective scan against its definition, and transformers' own Mamba classes against ours."""

import concurrent.futures
import itertools
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import transformers
from transformers.models.mamba2 import modeling_mamba2

from statedepth import kernels, mixers, models, scan
from statedepth.models import ModelSpec
from statedepth.scan import selective_scan

torch.set_num_threads(1)

NAMES = ("x", "dt", "A", "B", "C")


def inputs(batch, length, width, n, dtype=torch.float32, seed=0, a=None):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    dt = 0.5 * torch.rand((batch, length, width), generator=g, dtype=torch.float64) + 0.01
    A = -torch.exp(normal(width, n)) if a is None else torch.full((width, n), a, dtype=torch.float64)
    made = (normal(batch, length, width), dt, A, normal(batch, length, n), normal(batch, length, n))
    return [t.to(dtype) for t in made]


def recurrence(x, dt, A, B, C, negative=False):
    """h_t = a_t h_{t-1} + dt_t x_t B_t and y_t = h_t . C_t, one step after the other; a is exp(dt A) or 2 exp(dt A) - 1."""
    h, y = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        decay = torch.exp(torch.einsum("be,en->ben", dt[:, t], A))
        h = (decay - (1 - decay) if negative else decay) * h
        h = h + torch.einsum("be,be,bn->ben", dt[:, t], x[:, t], B[:, t])
        y.append(torch.einsum("ben,bn->be", h, C[:, t]))
    return torch.stack(y, 1)


def with_gradients(function, tensors, weight):
    """The output, and the gradient in each input of a loss that weighs every output differently."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad((y * weight.to(y.dtype)).sum(), leaves)]


def relative_errors(tensors, weight=None, negative=False):
    """Of the output and the five gradients, ours at the inputs' precision against the definition in float64."""
    if weight is None:
        weight = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    ours = with_gradients(lambda *t: selective_scan(*t, negative), tensors, weight)
    exact = with_gradients(lambda *t: recurrence(*t, negative), [t.double() for t in tensors], weight)
    return {
        name: float((a.double() - b).abs().max() / b.abs().max().clamp_min(1e-30))
        for name, a, b in zip(("y", *NAMES), ours, exact, strict=True)
    }


# ---- against the definition -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("size", [(2, 5, 3, 2), (1, 1, 1, 1), (3, 1, 2, 5), (1, 7, 1, 3), (2, 4, 5, 1)])
def test_gradients_in_float64_match_finite_differences(size, negative):
    tensors = [t.requires_grad_() for t in inputs(*size, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, negative), tensors, eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    "size", [(2, 5, 3, 2), (1, 1, 1, 1), (3, 1, 2, 5), (4, 9, 1, 1), (2, 33, 17, 7), (3, 20, 128, 8)]
)
def test_float32_output_and_all_five_gradients_are_within_1e_5_of_the_recurrence(size, negative):
    assert max(relative_errors(inputs(*size), negative=negative).values()) < 1e-5


def test_float64_output_and_gradients_are_exact_to_rounding():
    assert max(relative_errors(inputs(2, 21, 6, 4, torch.float64)).values()) < 1e-12


def test_a_long_sequence_stays_within_1e_5():
    assert max(relative_errors(inputs(1, 1500, 5, 3, seed=2)).values()) < 1e-5


def test_a_state_that_never_decays_is_a_running_sum():
    x, dt, A, B, C = inputs(2, 400, 3, 1, a=0.0)
    y = selective_scan(x, dt, A, torch.ones_like(B), torch.ones_like(C))
    assert torch.allclose(y, (dt * x).double().cumsum(1).float(), atol=2e-5)
    assert max(relative_errors([x, dt, A, B, C]).values()) < 1e-5


@pytest.mark.parametrize("exponent", [0.0, -1e-7, -1e-3, -0.7, -20.0, -80.0, -87.0, -88.5, -104.0, -1000.0, -1e6])
def test_decays_of_any_size_match_float64(exponent):
    x, dt, A, B, C = inputs(2, 12, 4, 3, a=exponent)
    assert max(relative_errors([x, torch.ones_like(dt), A, B, C]).values()) < 1e-5


def test_mixed_extremes_in_one_call_match_float64():
    x, dt, A, B, C = inputs(2, 30, 8, 4)
    A = -torch.logspace(-6, 6, 32).reshape(8, 4)
    dt = dt * torch.logspace(-4, 2, 30)[:, None]
    errors = relative_errors([x, dt, A, B, C])
    assert max(errors.values()) < 1e-5, errors


def test_the_vectorised_exponential_is_within_1e_6_of_exp_over_its_whole_range():
    """y_2 = exp(dt_2 a) x_1 where the second token is zero: read the exponential off the scan itself."""
    at = torch.linspace(-86, 80, 4001, dtype=torch.float32)
    width = len(at)
    x = torch.stack([torch.ones(width), torch.zeros(width)])[None]
    one = torch.ones(1, 2, 1)
    y = selective_scan(x, torch.ones(1, 2, width), at[:, None], one, one)[0, 1].double()
    assert ((y / torch.exp(at.double())) - 1).abs().max() < 1e-6


def test_the_output_never_depends_on_later_tokens():
    tensors = inputs(2, 10, 3, 2)
    y = selective_scan(*tensors)
    for i in (0, 1, 3, 4):
        changed = [t.clone() for t in tensors]
        changed[i][:, 6] += 1
        assert torch.equal(selective_scan(*changed)[:, :6], y[:, :6])
        assert not torch.equal(selective_scan(*changed)[:, 6:], y[:, 6:])


def test_sequences_of_a_batch_do_not_mix():
    x, dt, A, B, C = inputs(3, 8, 4, 2)
    y = selective_scan(x, dt, A, B, C)
    for b in range(3):
        assert torch.equal(selective_scan(x[b : b + 1], dt[b : b + 1], A, B[b : b + 1], C[b : b + 1]), y[b : b + 1])


@pytest.mark.parametrize("length", [1, 2, 500])
def test_with_negative_eigenvalues_one_channel_computes_parity_exactly(length):
    """A first token writes 1; then a one bit has a long step, decay -1, a zero bit none, decay 1: the state is +-1."""
    bits = torch.randint(2, (64, length), generator=torch.Generator().manual_seed(0))
    x = F.pad(torch.zeros(64, length), (1, 0), value=1.0)[..., None]
    dt = F.pad(100.0 * bits, (1, 0), value=1.0)[..., None]
    one = torch.ones(64, length + 1, 1)
    y = selective_scan(x, dt, -torch.ones(1, 1), one, one, negative_eigenvalues=True)[..., 0]
    assert torch.equal(y[:, 1:], 1.0 - 2.0 * (bits.cumsum(1) % 2))
    usual = selective_scan(x, dt, -torch.ones(1, 1), one, one)[..., 0]
    assert (usual[:, 1:] >= 0).all()  # which cannot change its sign


@pytest.mark.parametrize("negative", [False, True])
def test_the_plain_recurrence_is_the_definition(negative):
    tensors = inputs(2, 9, 4, 3, torch.float64)
    assert torch.allclose(scan.recurrence(*tensors, negative), recurrence(*tensors, negative), rtol=1e-12, atol=1e-14)


FUSED = ("x", "dt", "A", "B", "C", "D", "z", "bias")


def fused_inputs(batch, length, width, n, dtype=torch.float32):
    x, dt, A, B, C = inputs(batch, length, width, n, dtype)
    g = torch.Generator().manual_seed(5)
    D, z, bias = (torch.randn(shape, generator=g, dtype=dtype) for shape in ((width,), x.shape, (width,)))
    return [x, 4 * dt - 2, A, B, C, D, 3 * z, bias]


def fused_by_definition(x, dt, A, B, C, D, z, bias, negative=False):
    return (recurrence(x, F.softplus(dt + bias), A, B, C, negative) + D * x) * z * torch.sigmoid(z)


@pytest.mark.parametrize("negative", [False, True])
def test_gradients_of_the_fused_scan_in_float64_match_finite_differences(negative):
    tensors = [t.requires_grad_() for t in fused_inputs(2, 5, 3, 2, torch.float64)]
    function = partial(scan.SelectiveScan.apply, negative)
    assert torch.autograd.gradcheck(function, tensors, eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 33, 17, 7), (3, 20, 128, 8)])
def test_the_fused_scan_and_its_eight_gradients_are_within_1e_5_of_the_definition(size, negative):
    tensors, weight = fused_inputs(*size), torch.randn(size[:3], generator=torch.Generator().manual_seed(9))
    ours = with_gradients(partial(scan.SelectiveScan.apply, negative), tensors, weight)
    exact = with_gradients(partial(fused_by_definition, negative=negative), [t.double() for t in tensors], weight)
    for name, a, b in zip(("y", *FUSED), ours, exact, strict=True):
        assert (a.double() - b).abs().max() <= 1e-5 * b.abs().max(), name


def test_steps_and_gates_of_any_size_match_float64():
    """softplus and SiLU over the whole range, where exp overflows or vanishes."""
    x, _, A, B, C, D, *_ = fused_inputs(1, 2, 81, 2)
    wide = torch.linspace(-200, 200, 81)
    tensors = [x, wide.expand(1, 2, 81).clone(), 0.01 * A, B, C, D, wide.flip(0).expand(1, 2, 81).clone(), 0 * D]
    weight = torch.ones(1, 2, 81)
    ours = with_gradients(partial(scan.SelectiveScan.apply, False), tensors, weight)
    exact = with_gradients(fused_by_definition, [t.double() for t in tensors], weight)
    for name, a, b in zip(("y", *FUSED), ours, exact, strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5 * float(b.abs().max())), name


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("taps", [1, 3, 4])
def test_the_convolution_is_conv1d_in_value_and_gradients(taps, silu):
    g = torch.Generator().manual_seed(3)
    x, weight, bias = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, 9, 5), (5, taps), (5,)))

    def exact(x, weight, bias):
        out = F.conv1d(F.pad(x.transpose(1, 2), (taps - 1, 0)), weight[:, None], bias, groups=5).transpose(1, 2)
        return F.silu(out) if silu else out

    ones = torch.randn(2, 9, 5, generator=g, dtype=torch.float64)
    ours = with_gradients(partial(scan.CausalConv.apply, silu), [x, weight, bias], ones)
    for a, b in zip(ours, with_gradients(exact, [x, weight, bias], ones), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True])
def test_the_norm_is_the_classes_own_in_value_and_gradients(gated):
    g = torch.Generator().manual_seed(3)
    x, z, weight = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, 7, 5), (2, 7, 5), (5,)))

    def exact(x, z, weight):
        u = x * z * torch.sigmoid(z) if gated else x + 0 * z
        return weight * u / torch.sqrt((u * u).mean(-1, keepdim=True) + 1e-3)

    def ours(x, z, weight):
        return scan.Norm.apply(1e-3, x, z if gated else None, weight) + 0 * z

    ones = torch.randn(2, 7, 5, generator=g, dtype=torch.float64)
    for a, b in zip(
        with_gradients(ours, [x, z, weight], ones), with_gradients(exact, [x, z, weight], ones), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("negative", [False, True])
def test_one_row_of_a_stands_for_all_states_as_in_mamba2(negative):
    """A (E, 1) beside B and C of N states: the same as A repeated N times, and the gradient is the sum of theirs."""
    x, dt, A, B, C = inputs(2, 19, 6, 5, torch.float64)
    one_row = A[:, :1]
    weight = torch.randn(2, 19, 6, dtype=torch.float64)

    def ours(x, dt, A, B, C):
        return scan.SelectiveScan.apply(negative, x, dt, A, B, C, None, None, None)

    def exact(x, dt, A, B, C):
        return recurrence(x, dt, A.expand(-1, 5), B, C, negative)

    tensors = [x, dt, one_row, B, C]
    for a, b in zip(with_gradients(ours, tensors, weight), with_gradients(exact, tensors, weight), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_precision_without_a_kernel_takes_transformers_own_path():
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=2), 5, 3)
    model.backbone.to(torch.bfloat16)
    tokens = torch.randint(5, (2, 6), generator=torch.Generator().manual_seed(1))
    with mixers.transformers_path():
        theirs = models.logits(model, tokens)
    assert torch.equal(models.logits(model, tokens), theirs)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_negative_eigenvalues_have_a_path_where_there_are_no_kernels(family):
    """On another device (here: none at all), and in another precision, the definition in torch does it."""
    model = models.build(ModelSpec(family, d_model=16, n_layers=2, negative_eigenvalues=True), 5, 3)
    tokens = torch.randint(5, (2, 6), generator=torch.Generator().manual_seed(1))
    expected = models.logits(model, tokens)
    with torch.no_grad():
        model.backbone.to(torch.bfloat16)
        assert torch.allclose(models.logits(model, tokens), expected, atol=0.1)
    assert models.logits(model.to("meta"), tokens.to("meta")).shape == (2, 6, 3)


@pytest.mark.parametrize("length", [1, kernels.CHUNK - 1, kernels.CHUNK, kernels.CHUNK + 1, 3 * kernels.CHUNK + 5])
def test_lengths_about_the_chunk_of_the_kept_states_are_exact(length):
    assert max(relative_errors(inputs(2, length, 5, 3, torch.float64)).values()) < 1e-12


# ---- memory layouts and autograd --------------------------------------------------------------------------------------


def layouts(tensor):
    """The same numbers three ways: transposed storage, every second element of a larger one, the middle of another."""
    yield tensor.transpose(0, -1).contiguous().transpose(0, -1)
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 99.0, dtype=tensor.dtype)
    wide[..., ::2] = tensor
    yield wide[..., ::2]
    yield F.pad(tensor, (3, 2), value=99.0)[..., 3:-2]


def test_any_strides_give_the_same_bits():
    tensors = inputs(3, 6, 5, 4)
    weight = torch.randn(3, 6, 5)
    expected = with_gradients(selective_scan, tensors, weight)
    for i, other in itertools.chain.from_iterable(zip([i] * 3, layouts(t), strict=True) for i, t in enumerate(tensors)):
        mixed = [other if i == j else t for j, t in enumerate(tensors)]
        leaves = [t.detach().requires_grad_() for t in mixed]
        assert leaves[i].stride() == other.stride()
        y = selective_scan(*leaves)
        gradients = torch.autograd.grad((y * weight).sum(), leaves)
        for a, b in zip([y, *gradients], expected, strict=True):
            assert torch.equal(a, b)


def test_expanded_inputs_pass_their_gradient_to_what_they_were_expanded_from():
    x, dt, A, B, C = inputs(3, 6, 5, 4, torch.float64)
    small = [x[:1], dt[:, :1], A[:, :1], B[:1], C[:, :, :1]]
    shapes = [t.shape for t in (x, dt, A, B, C)]

    def ours(*leaves):
        return selective_scan(*(t.expand(shape) for t, shape in zip(leaves, shapes, strict=True)))

    def exact(*leaves):
        return recurrence(*(t.expand(shape) for t, shape in zip(leaves, shapes, strict=True)))

    weight = torch.randn(3, 6, 5, dtype=torch.float64)
    for a, b in zip(with_gradients(ours, small, weight), with_gradients(exact, small, weight), strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_gradient_that_is_expanded_or_transposed_is_read_right():
    tensors = inputs(2, 4, 3, 2, torch.float64)
    for loss in (torch.sum, lambda y: (y.transpose(0, 2) @ torch.ones(2, 5, dtype=y.dtype)).sum()):
        ours, exact = ([t.clone().requires_grad_() for t in tensors] for _ in range(2))
        loss(selective_scan(*ours)).backward()
        loss(recurrence(*exact)).backward()
        for a, b in zip(ours, exact, strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_inputs_are_never_written_to_and_gradients_add_up_over_two_passes():
    tensors = [t.requires_grad_() for t in inputs(2, 4, 3, 2)]
    before = [t.detach().clone() for t in tensors]
    selective_scan(*tensors).sum().backward()
    once = [t.grad.clone() for t in tensors]
    selective_scan(*tensors).sum().backward()
    for t, old, g in zip(tensors, before, once, strict=True):
        assert torch.equal(t.detach(), old)
        assert torch.equal(t.grad, 2 * g)


@pytest.mark.parametrize("i", range(5), ids=NAMES)
def test_one_input_alone_can_ask_for_its_gradient(i):
    tensors = inputs(2, 4, 3, 2)
    expected = with_gradients(selective_scan, tensors, torch.ones(2, 4, 3))[1 + i]
    leaf = tensors[i].clone().requires_grad_()
    selective_scan(*(leaf if i == j else t for j, t in enumerate(tensors))).sum().backward()
    assert torch.equal(leaf.grad, expected)


@pytest.mark.parametrize("i", range(5), ids=NAMES)
def test_a_value_that_is_not_a_number_is_never_swallowed(i):
    tensors = inputs(1, 5, 3, 2)
    tensors[i].view(-1)[0] = float("nan")
    assert selective_scan(*tensors).isnan().any()


@pytest.mark.parametrize("width", [3, 64])
@pytest.mark.parametrize("i", range(8), ids=FUSED)
def test_nor_in_vector_code_with_its_softplus_and_gate(i, width):
    tensors = fused_inputs(1, 5, width, 2)
    tensors[i].view(-1)[0] = float("nan")
    assert scan.SelectiveScan.apply(False, *tensors).isnan().any()


@pytest.mark.parametrize("width", [3, 64])
def test_nor_by_the_convolution_and_the_norm(width):
    x, weight, nan = torch.randn(1, 5, width), torch.randn(width), float("nan")
    for i in range(3):
        made = [x.clone(), torch.randn(width, 4), weight.clone()]
        made[i].view(-1)[0] = nan
        assert scan.CausalConv.apply(True, *made).isnan().any()
        made = [x.clone(), x.clone(), weight.clone()]
        made[i].view(-1)[0] = nan
        assert scan.Norm.apply(1e-5, *made).isnan().any()


def test_an_empty_batch_gives_an_empty_output():
    tensors = [t[:0] if i != 2 else t for i, t in enumerate(inputs(2, 4, 3, 2))]
    assert selective_scan(*tensors).shape == (0, 4, 3)


def second_derivatives():
    """Of the scan and of each mixer: the function, its inputs, and which of them is differentiated twice."""
    yield selective_scan, inputs(1, 3, 2, 2, torch.float64)
    for family in ("mamba", "mamba2"):
        _, ours, tensors = mixer(family, 1, 3, 2, 2)
        yield partial(ours, False), tensors


@pytest.mark.parametrize("case", range(3))
def test_a_second_derivative_is_refused_rather_than_dropped(case):
    """Also where the penalty's part of the gradient would just be missing, in a loss whose other part has one."""
    function, tensors = list(second_derivatives())[case]
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = function(*leaves)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(y.sum(), leaves[0], create_graph=True)


# ---- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(2, 4)}, r"x \(2, 4\) must be \(B, T, E\)"),
        ({"A": torch.zeros(3)}, r"A \(3,\)"),
        ({"A": torch.zeros(2, 3)}, r"A is \(2, 3\), must be \(3, 3\)"),
        ({"dt": torch.zeros(2, 4, 1)}, r"dt is \(2, 4, 1\), must be \(2, 4, 3\)"),
        ({"B": torch.zeros(2, 5, 2)}, r"B is \(2, 5, 2\), must be \(2, 4, 2\)"),
        ({"C": torch.zeros(1, 4, 2)}, r"C is \(1, 4, 2\), must be \(2, 4, 2\)"),
        ({"C": torch.zeros(2, 4, 3)}, r"C is \(2, 4, 3\), must be \(2, 4, 2\)"),
        ({"B": torch.zeros(2, 4, 2, dtype=torch.float64)}, r"B is torch.float64"),
        ({"A": torch.zeros(3, 2, dtype=torch.int64)}, r"A is torch.int64"),
        ({"x": torch.zeros(2, 4, 3, device="meta")}, r"meta.*on cpu"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused_by_name(change, said):
    tensors = dict(zip(NAMES, inputs(2, 4, 3, 2), strict=True)) | change
    with pytest.raises(ValueError, match=said):
        selective_scan(*tensors.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_a_precision_without_a_kernel_is_refused(dtype):
    with pytest.raises(ValueError, match=f"x is {dtype}"):
        selective_scan(*inputs(2, 4, 3, 2, dtype))


# ---- transformers' classes on our scan -----------------------------------------------------------------------------------


def logits_and_gradients(model, tokens):
    model.zero_grad()
    out = models.logits(model, tokens)
    F.cross_entropy(out.flatten(0, 1), tokens.flatten() % out.shape[-1]).backward()
    return {"logits": out.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("size", [(3, 37), (1, 1), (2, 3), (5, 32), (2, 65)])
def test_logits_and_every_gradient_agree_with_transformers_own_path(family, size):
    model = models.build(ModelSpec(family, d_model=24, n_layers=2, d_state=5, d_conv=3), 7, 4)
    tokens = torch.randint(7, size, generator=torch.Generator().manual_seed(1))
    ours = logits_and_gradients(model, tokens)
    with mixers.transformers_path():
        theirs = logits_and_gradients(model, tokens)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        scale = value.abs().max().clamp_min(1e-6)
        assert (ours[name] - value).abs().max() / scale < 1e-3, name
    assert torch.allclose(ours["logits"], theirs["logits"], atol=2e-6)


def mamba_parts(xz, conv, conv_bias, x_proj, dt_proj, out_proj, A, D, bias, negative=False):
    """Mamba's mixer after its first projection, written out (Gu and Dao 2023, Algorithm 2 and Figure 3)."""
    x, z = xz.chunk(2, -1)
    rank, n, taps = dt_proj.shape[1], A.shape[1], conv.shape[-1]
    x = F.silu(F.conv1d(F.pad(x.transpose(1, 2), (taps - 1, 0)), conv, conv_bias, groups=len(conv)).transpose(1, 2))
    low, B, C = (x @ x_proj.T).split([rank, n, n], -1)
    y = recurrence(x, F.softplus(low @ dt_proj.T + bias), A, B, C, negative) + D * x
    return (y * F.silu(z)) @ out_proj.T


def mamba2_parts(zxbcdt, conv, conv_bias, bias, A, D, norm, out_proj, negative=False):
    """Mamba-2's mixer after its first projection, head by head (Dao and Gu 2024, arXiv:2405.21060, section 7)."""
    width, taps, heads = len(norm), conv.shape[-1], len(bias)
    z, xbc, dt = zxbcdt.split([width, len(conv), heads], -1)
    padded = F.pad(xbc.transpose(1, 2), (taps - 1, 0))
    xbc = F.silu(F.conv1d(padded, conv[:, None], conv_bias, groups=len(conv)).transpose(1, 2))
    n = (len(conv) - width) // 2
    x, B, C = xbc.split([width, n, n], -1)
    step, size = F.softplus(dt + bias), width // heads
    by_head = []
    for h, x_h in enumerate(x.split(size, -1)):
        A_h = A[h].expand(size, n)
        by_head.append(recurrence(x_h, step[:, :, h, None].expand(x_h.shape), A_h, B, C, negative) + D[h] * x_h)
    u = torch.cat(by_head, -1) * F.silu(z)
    return norm * u / torch.sqrt((u * u).mean(-1, keepdim=True) + 1e-5) @ out_proj.T


def mixer(family, batch, length, width, n, taps=4, few=2):
    """A mixer by its parts, ours, and random inputs of both: xz or zxbcdt first, then the weights; `few` heads or ranks."""
    g, D, rank, heads = torch.Generator().manual_seed(8), 3, few, few

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    if family == "mamba":
        A = -torch.exp(normal(width, n))
        weights = normal(width, 1, taps), normal(width), normal(rank + 2 * n, width), normal(width, rank)
        made = (normal(batch, length, 2 * width), *weights, normal(D, width), A, normal(width), normal(width))
        return mamba_parts, scan.MambaMixer.apply, made
    A, joined = -torch.exp(normal(heads)), width + 2 * n
    weights = normal(joined, taps), normal(joined), normal(heads), A, normal(heads), normal(width), normal(D, width)
    made = (normal(batch, length, width + joined + heads), *weights)
    return mamba2_parts, lambda negative, *inputs: scan.Mamba2Mixer.apply(negative, 1e-5, *inputs), made


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("size", [(2, 1, 2, 1), (1, 5, 4, 3), (3, 19, 6, 2)])
@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_a_whole_mixer_and_the_gradient_of_every_weight_are_those_of_its_parts(family, taps, size, negative):
    parts, ours, tensors = mixer(family, *size, taps=taps)
    weight = torch.randn(*size[:2], 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = with_gradients(partial(ours, negative), tensors, weight)
    for i, (a, b) in enumerate(
        zip(found, with_gradients(partial(parts, negative=negative), tensors, weight), strict=True)
    ):
        assert a.shape == b.shape, i
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11 * float(b.abs().max())), i


@pytest.mark.parametrize("size", [(64, 32, 64, 8), (64, 128, 64, 8), (64, 32, 128, 16), (5, 129, 48, 3)])
@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_a_whole_mixer_in_float32_is_within_1e_5_of_its_parts_in_float64(family, size):
    parts, ours, tensors = mixer(family, *size)
    tensors = [t.float() if i == 0 else 0.3 * t.float() for i, t in enumerate(tensors)]
    weight = torch.randn(*size[:2], 3, generator=torch.Generator().manual_seed(2))
    found = with_gradients(partial(ours, False), tensors, weight)
    for i, (a, b) in enumerate(zip(found, with_gradients(parts, [t.double() for t in tensors], weight), strict=True)):
        assert (a.double() - b).abs().max() <= 1e-5 * b.abs().max(), i


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_strides_frozen_weights_one_head_and_rank_one_make_no_difference_to_a_mixer(family):
    _, ours, tensors = mixer(family, 2, 5, 4, 2)
    weight = torch.randn(2, 5, 3, dtype=torch.float64)
    expected = with_gradients(partial(ours, False), tensors, weight)
    strided = [next(layouts(t)) for t in tensors]
    leaves = [t.detach().requires_grad_(i % 2 == 0) for i, t in enumerate(strided)]
    y = ours(False, *leaves)
    (y * weight.transpose(0, 1).contiguous().transpose(0, 1)).sum().backward()
    assert torch.allclose(y, expected[0], rtol=1e-12)
    for leaf, gradient in zip(leaves, expected[1:], strict=True):
        assert leaf.grad is None if not leaf.requires_grad else torch.allclose(leaf.grad, gradient, rtol=1e-10)
    parts, ours, tensors = mixer(family, 2, 5, 4, 2, few=1)
    for a, b in zip(
        with_gradients(partial(ours, False), tensors, weight), with_gradients(parts, tensors, weight), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("family", "mode"), [("mamba", True), ("mamba", False), ("mamba2", True)]
)  # else transformers fails
def test_an_empty_batch_goes_through_a_model_in_training_and_evaluation(family, mode):
    model = models.build(ModelSpec(family, d_model=16, n_layers=2), 5, 3).train(mode)
    out = models.logits(model, torch.zeros(0, 4, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (0, 4, 3)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_gradients_of_a_whole_mixer_match_finite_differences(family):
    _, ours, tensors = mixer(family, 2, 3, 4, 2)
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(partial(ours, False), leaves, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_training_and_evaluation_give_the_same_logits_and_gradients(family):
    """In training the mixer is one function, in evaluation, where hooks may reach its parts, several."""
    model = models.build(ModelSpec(family, d_model=24, n_layers=2, d_state=5), 7, 4)
    tokens = torch.randint(7, (3, 21), generator=torch.Generator().manual_seed(1))
    trained = logits_and_gradients(model.train(), tokens)
    evaluated = logits_and_gradients(model.eval(), tokens)
    for name, value in trained.items():
        assert (evaluated[name] - value).abs().max() <= 1e-4 * value.abs().max().clamp_min(1e-6), name


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("mamba", {"use_bias": True}),
        ("mamba", {"use_conv_bias": False}),
        ("mamba", {"conv_kernel": 6}),
        ("mamba", {"hidden_act": "gelu"}),
        ("mamba", {"masked": True}),
        ("mamba2", {"masked": True}),
        ("mamba2", {"use_bias": True}),
        ("mamba2", {"use_conv_bias": False}),
        ("mamba2", {"conv_kernel": 5}),
        ("mamba2", {"hidden_act": "gelu"}),
        ("mamba2", {"n_groups": 2}),
        ("mamba2", {"time_step_limit": (0.5, 0.6)}),
    ],
)
def test_configurations_beyond_the_fused_mixers_agree_with_transformers_too(family, change, mode):
    common = {"vocab_size": 5, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    mask = torch.tensor([[0] * 3 + [1] * 8, [1] * 11]) if change == {"masked": True} else None
    change = {} if mask is not None else change
    if family == "mamba":
        model = transformers.MambaModel(transformers.MambaConfig(**(common | change)))
    else:
        common |= {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
        model = transformers.Mamba2Model(transformers.Mamba2Config(**(common | change)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    model.train(mode)
    tokens = torch.randint(5, (2, 11), generator=torch.Generator().manual_seed(1))

    def both():
        model.zero_grad()
        out = model(tokens, attention_mask=mask, use_cache=False).last_hidden_state
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        return {"out": out.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}

    ours = both()
    with mixers.transformers_path():
        theirs = both()
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() <= 1e-3 * value.abs().max().clamp_min(1e-4), name


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("d_conv", [1, 2, 4])
def test_the_convolution_agrees_for_every_number_of_taps(family, d_conv):
    model = models.build(ModelSpec(family, d_model=16, n_layers=1, d_state=4, d_conv=d_conv), 5, 3)
    tokens = torch.randint(5, (2, 9), generator=torch.Generator().manual_seed(1))
    ours = models.logits(model, tokens)
    with mixers.transformers_path():
        assert torch.allclose(ours, models.logits(model, tokens), atol=2e-6)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_models_run_on_our_scan_except_inside_transformers_path(family, monkeypatch):
    calls, kernel = [], kernels.scan_forward
    monkeypatch.setattr(kernels, "scan_forward", lambda *arrays: calls.append(1) or kernel(*arrays))
    model = models.build(ModelSpec(family, d_model=16, n_layers=3, d_state=4), 5, 3)
    tokens = torch.zeros(2, 6, dtype=torch.int64)
    models.logits(model, tokens)
    assert len(calls) == 3
    with mixers.transformers_path():
        models.logits(model, tokens)
    assert len(calls) == 3
    models.logits(model, tokens)
    assert len(calls) == 6


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_a_model_with_negative_eigenvalues_is_the_same_module_with_other_decays(family, monkeypatch):
    tokens = torch.randint(5, (3, 8), generator=torch.Generator().manual_seed(1))
    usual, negative = (
        models.build(ModelSpec(family, d_model=16, n_layers=2, d_state=4, negative_eigenvalues=n), 5, 3)
        for n in (False, True)
    )
    assert usual.state_dict().keys() == negative.state_dict().keys()
    for model in (usual, negative):
        for name, weight in model.named_parameters():
            if name.endswith(("dt_proj.bias", "dt_bias")):
                weight.data.fill_(1.0)  # steps long enough for the decays to matter
    ours = logits_and_gradients(negative, tokens)
    assert not torch.allclose(ours["logits"], models.logits(usual, tokens), atol=1e-4)

    def plainly(is_negative, x, dt, A, B, C, D, z, bias):
        step = F.softplus(dt + bias).repeat_interleave(x.shape[2] // len(bias), 2)
        y = recurrence(x, step, A, B, C, is_negative) + x * D
        return y if z is None else y * F.silu(z)

    monkeypatch.setattr(scan.SelectiveScan, "apply", plainly)
    negative.eval()  # in training the mixer is one function
    plain = logits_and_gradients(negative, tokens)
    for name, value in plain.items():
        assert (ours[name] - value).abs().max() <= 1e-4 * value.abs().max().clamp_min(1e-3), name


def test_negative_eigenvalues_end_with_the_forward_pass_also_after_an_error():
    with pytest.raises(KeyError), mixers.eigenvalues(True):
        raise KeyError
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=1), 5, 3)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with mixers.transformers_path():
        plain = models.logits(model, tokens)
    assert torch.allclose(models.logits(model, tokens), plain, atol=2e-6)


def test_transformers_path_refuses_negative_eigenvalues_rather_than_ignore_them():
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=1, negative_eigenvalues=True), 5, 3)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="own path has none"), mixers.transformers_path():
        models.logits(model, tokens)
    assert models.logits(model, tokens).isfinite().all()


def test_neither_way_into_both_contexts_ignores_negative_eigenvalues():
    with mixers.eigenvalues(True), pytest.raises(RuntimeError, match="transformers' own path has not"):
        mixers.transformers_path().__enter__()
    with mixers.transformers_path(), pytest.raises(RuntimeError, match="own path has none"):
        mixers.eigenvalues(True).__enter__()


def in_a_thread(function):
    """Run a function in another thread, and raise here what it raises there."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def runs_on_ours(model):
    """Does a forward pass of this model call our scan?"""
    calls, kernel = [], kernels.scan_forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "scan_forward", lambda *arrays: calls.append(1) or kernel(*arrays))
        models.logits(model, torch.zeros(1, 3, dtype=torch.int64))
    return bool(calls)


def test_blocks_of_transformers_path_nest_and_end_also_where_threads_overlap():
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=1), 5, 3)
    outer = mixers.transformers_path()
    with outer:
        with mixers.transformers_path():
            pass
        assert not runs_on_ours(model)
        assert in_a_thread(lambda: runs_on_ours(model))  # another thread goes its own way
    assert runs_on_ours(model)


@pytest.mark.parametrize(("family", "name"), [("mamba", "x_proj"), ("mamba", "out_proj"), ("mamba2", "norm")])
def test_hooks_and_adapters_inside_a_mixer_work_in_training_as_they_do_in_transformers(family, name):
    """A hook, or a forward of one's own: where the whole mixer would read the weight alone, it runs in parts."""
    model = models.build(ModelSpec(family, d_model=16, n_layers=1), 5, 3).train()
    tokens = torch.randint(5, (2, 6), generator=torch.Generator().manual_seed(1))
    plain = models.logits(model, tokens)
    part = getattr(models.blocks(model)[0].mixer, name)
    handle = part.register_forward_hook(lambda _m, _i, out: 8.0 * out)
    hooked = models.logits(model, tokens)
    with mixers.transformers_path():
        assert torch.allclose(models.logits(model, tokens), hooked, rtol=0, atol=5e-6)
    assert not torch.allclose(hooked, plain, rtol=0, atol=1e-4)
    handle.remove()
    original = part.forward
    part.forward = lambda *args: 8.0 * original(*args)
    assert torch.allclose(models.logits(model, tokens), hooked, rtol=0, atol=5e-6)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
@pytest.mark.parametrize("mode", [True, False])
def test_a_checkpointed_block_and_a_cache_give_what_they_give_in_transformers(family, mode):
    model = models.build(ModelSpec(family, d_model=16, n_layers=2), 5, 3).train(mode)
    tokens = torch.randint(5, (2, 9), generator=torch.Generator().manual_seed(1))
    plain = logits_and_gradients(model, tokens)
    model.backbone.activation_checkpointing_enable()
    for name, value in logits_and_gradients(model, tokens).items():
        assert torch.allclose(value, plain[name], rtol=1e-4, atol=1e-6), name
    model.backbone.activation_checkpointing_disable()
    embedded = model.backbone.get_input_embeddings()(tokens)
    with torch.no_grad():
        whole = model.backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state
        first = model.backbone(inputs_embeds=embedded[:, :8], use_cache=True)
        last = model.backbone(inputs_embeds=embedded[:, 8:], cache_params=first.cache_params, use_cache=True)
        assert torch.allclose(last.last_hidden_state[:, 0], whole[:, 8], atol=1e-5)
        with mixers.eigenvalues(True), pytest.raises(NotImplementedError, match="use_cache=False"):
            model.backbone(inputs_embeds=embedded[:, 8:], cache_params=first.cache_params, use_cache=True)


def test_double_precision_models_and_tracing_are_left_to_transformers():
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=1), 5, 3).double().eval()
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    ours = models.logits(model, tokens)
    with mixers.transformers_path():
        assert torch.allclose(models.logits(model, tokens), ours, rtol=1e-12, atol=1e-14)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not runs_on_ours(model.float())
    assert runs_on_ours(model)


def test_negative_eigenvalues_refuse_blocks_that_would_run_again_without_them():
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=1, negative_eigenvalues=True), 5, 3)
    model.backbone.activation_checkpointing_enable()
    with pytest.raises(ValueError, match="negative_eigenvalues=True: a checkpointed block"):
        models.logits(model, torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("packed", ["seq_idx", "cu_seqlens"])
def test_packed_sequences_never_reach_kernels_that_would_mix_them(packed):
    x, dt, A, B, C = inputs(1, 6, 4, 2)
    arguments = x.view(1, 6, 2, 2), dt[..., :2], A[:2, 0], B[:, :, None], C[:, :, None]
    settings = {"chunk_size": 4, "D": torch.ones(2), "dt_bias": torch.zeros(2), "dt_softplus": True}
    settings[packed] = torch.tensor([[0, 0, 0, 1, 1, 1]], dtype=torch.int32)
    outcomes = []
    for path in (mixers.transformers_path, nullcontext):
        with path():
            try:
                outcomes.append(modeling_mamba2.mamba2_chunk_scan(*arguments, **settings))
            except Exception as error:  # what it does there is its own affair; ours must do the same
                outcomes.append(type(error))
    theirs, ours = outcomes
    assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours is theirs
    with mixers.eigenvalues(True), pytest.raises(NotImplementedError, match="packed sequences"):
        modeling_mamba2.mamba2_chunk_scan(*arguments, **settings)


def test_the_gradient_of_a_very_short_step_keeps_its_digits():
    """dt + bias from -15 to -2: the slope of softplus is about exp of it, which 1 - exp(-softplus) rounds away."""
    x, _, A, B, C, D, z, bias = fused_inputs(1, 1, 200, 2)
    wide = torch.linspace(-15, 2, 200)
    tensors = [x, wide.expand(1, 1, 200).clone(), A, B, C, D, z, 0 * bias]
    weight = 1 / torch.sigmoid(wide.double()).expand(1, 1, 200)
    ours = with_gradients(partial(scan.SelectiveScan.apply, False), tensors, weight)[2]
    exact = with_gradients(fused_by_definition, [t.double() for t in tensors], weight)[2]
    assert ((ours.double() - exact).abs() <= 2e-5 * exact.abs() + 1e-9).all()


@pytest.mark.parametrize(("family", "value"), [("lstm", True), ("transformer", True), ("mamba", 1), ("mamba", None)])
def test_negative_eigenvalues_are_a_choice_for_mamba_alone(family, value):
    with pytest.raises(ValueError, match=f"negative_eigenvalues={value!r}: must be True or False"):
        ModelSpec(family, negative_eigenvalues=value)


def test_transformers_path_ends_also_after_an_error():
    model = models.build(ModelSpec("mamba", d_model=16, n_layers=1), 5, 3)
    with pytest.raises(KeyError), mixers.transformers_path():
        assert not runs_on_ours(model)
        raise KeyError
    assert runs_on_ours(model)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_what_a_pass_gives_does_not_depend_on_where_its_arrays_lie_in_memory(family):
    """A compiler that picks vector or scalar code by the distance of two arrays reorders sums: one pass in a hundred."""
    model = models.build(ModelSpec(family, d_model=16, n_layers=3), vocab_size=5, n_outputs=3)
    tokens = torch.randint(5, (3, 9), generator=torch.Generator().manual_seed(0))
    sizes = torch.Generator().manual_seed(1)

    def one_pass():
        model.zero_grad()
        out = models.logits(model, tokens)
        out.square().sum().backward()
        return [out.detach().clone(), *(p.grad.clone() for p in model.parameters())]

    first = one_pass()
    for trial in range(250):
        holes = [torch.full((n,), 1e30) for n in torch.randint(1, 5000, (12,), generator=sizes).tolist()]
        held = holes[::2]  # the rest of this memory is free again, in pieces
        del holes
        again = one_pass()
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), trial
        del held

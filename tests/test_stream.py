"""Sites of the stream: what is kept is what the blocks really pass on, and an edit does what it says and no more."""

import pytest
import torch

from statedepth import models
from statedepth.models import FAMILIES, ModelSpec
from statedepth.stream import run_from, stream

torch.set_num_threads(1)

L, VOCAB = 3, 6
every_family = pytest.mark.parametrize("family", FAMILIES)
every_site = pytest.mark.parametrize("site", range(L + 1))


def model_of(family):
    return models.build(ModelSpec(family, d_model=16, n_layers=L, d_state=4), VOCAB, 4).eval()


TOKENS = torch.randint(VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))


def run(model, keep=(), edit=None, tokens=TOKENS):
    with torch.no_grad(), stream(model, keep=keep, edit=edit) as kept:
        out = models.logits(model, tokens)
    return out, kept


def plain(model, tokens=TOKENS):
    with torch.no_grad():
        return models.logits(model, tokens)


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---- by hand, without hooks -----------------------------------------------------------------------------------------------


def embedding_by_hand(model):
    table = model.backbone.get_input_embeddings() if hasattr(model.backbone, "config") else model.backbone.embeddings
    h = table.weight[TOKENS]
    return h if model.positions is None else h + model.positions.weight[: TOKENS.shape[1]]


def block_by_hand(model, block, h):
    """One block called on its own; attention without a mask in transformers' sdpa path is causal."""
    if isinstance(block, torch.nn.LSTM | torch.nn.GRU):
        return block(h)[0]
    if hasattr(model.backbone, "rotary_emb"):
        rotary = model.backbone.rotary_emb(h, torch.arange(h.shape[1])[None])
        out = block(h, attention_mask=None, position_embeddings=rotary)
        return out[0] if isinstance(out, tuple) else out
    return block(h)


def head_by_hand(model, h):
    norm = getattr(model.backbone, "norm_f", getattr(model.backbone, "final_layer_norm", lambda h: h))
    return model.head(norm(h))


@every_family
def test_every_site_equals_the_blocks_called_by_hand_one_after_the_other(family):
    model = model_of(family)
    out, kept = run(model, keep=range(L + 1))
    with torch.no_grad():
        h = embedding_by_hand(model)
        assert torch.equal(kept[0], h)
        for site, block in enumerate(models.blocks(model), start=1):
            h = block_by_hand(model, block, h)
            assert torch.allclose(kept[site], h, atol=1e-6)
        assert torch.allclose(out, head_by_hand(model, h), atol=1e-6)
    for lower, upper in zip(range(L), range(1, L + 1), strict=True):
        assert not torch.allclose(kept[lower], kept[upper], atol=1e-3)


@every_family
def test_the_last_site_is_before_the_final_norm(family):
    model = model_of(family)
    out, kept = run(model, keep=[L])
    with torch.no_grad():
        assert torch.allclose(head_by_hand(model, kept[L]), out, atol=1e-6)
        if family in ("transformer", "mamba", "mamba2"):
            assert not torch.allclose(model.head(kept[L]), out, atol=1e-3)


@every_family
def test_kept_activations_have_the_shape_of_batch_positions_features(family):
    model = model_of(family)
    _, kept = run(model, keep=[2, 0])
    assert set(kept) == {0, 2}
    assert {h.shape for h in kept.values()} == {(3, 9, ModelSpec(family, d_model=16, n_layers=L, d_state=4).width)}


@every_family
def test_the_order_of_keep_and_a_repetition_change_nothing(family):
    model = model_of(family)
    _, forward = run(model, keep=[0, 1, 3])
    _, backward = run(model, keep=[3, 1, 0, 1])
    assert forward.keys() == backward.keys()
    assert all(torch.equal(forward[site], backward[site]) for site in forward)


def test_keep_may_be_any_iterable_as_its_type_says():
    _, kept = run(model_of("lstm"), keep=(site for site in (0, 2)))
    assert set(kept) == {0, 2}


# ---- keeping and editing -----------------------------------------------------------------------------------------------


@every_family
def test_keeping_leaves_the_logits_bitwise_as_they_are(family):
    model = model_of(family)
    out, _ = run(model, keep=range(L + 1))
    assert torch.equal(out, plain(model))


@every_family
@every_site
def test_an_identity_edit_leaves_the_logits_bitwise_as_they_are(family, site):
    model = model_of(family)
    out, kept = run(model, keep=[site], edit={site: lambda h: h.clone()})
    assert torch.equal(out, plain(model))
    assert torch.equal(kept[site], run(model, keep=[site])[1][site])


@every_family
@every_site
@pytest.mark.parametrize("t", [0, 5])
def test_an_edit_at_one_position_leaves_earlier_logits_bitwise_alone_and_changes_later_ones(family, site, t):
    model = model_of(family)

    def nudge(h):
        h = h.clone()
        h[:, t] += torch.linspace(-1, 1, h.shape[-1])  # not along (1, ..., 1), which a layer norm would take out
        return h

    out, before = run(model, edit={site: nudge})[0], plain(model)
    assert torch.equal(out[:, :t], before[:, :t])
    assert not torch.allclose(out[:, t], before[:, t], atol=1e-4)
    later = torch.equal(out[:, t + 1 :], before[:, t + 1 :])
    assert later == (site == L)  # the head reads each position on its own; a block carries the edit on


@every_family
@every_site
def test_an_edit_is_what_the_next_block_or_the_head_reads_and_what_is_kept(family, site):
    model = model_of(family)
    replacement = torch.randn(run(model, keep=[site])[1][site].shape, generator=torch.Generator().manual_seed(1))
    out, kept = run(model, keep=range(L + 1), edit={site: lambda _: replacement})
    assert torch.equal(kept[site], replacement)
    with torch.no_grad():
        h = replacement
        for above, block in enumerate(models.blocks(model)[site:], start=site + 1):
            h = block_by_hand(model, block, h)
            assert torch.allclose(kept[above], h, atol=1e-5)
        assert torch.allclose(out, head_by_hand(model, h), atol=1e-5)
    _, untouched = run(model, keep=range(L + 1))
    assert all(torch.equal(kept[below], untouched[below]) for below in range(site))


@every_family
def test_two_edits_work_together_in_the_order_of_the_sites(family):
    model = model_of(family)
    _, kept = run(model, keep=[1, 2], edit={2: lambda h: h * 0 + 5, 1: lambda h: h * 0 + 3})
    assert (kept[1] == 3).all() and (kept[2] == 5).all()


def test_an_edit_does_not_reach_what_a_block_carries_in_its_own_recurrence():
    """As METHODS says: the LSTM's own h and c go on unedited, so later positions of the same site are as before."""
    model = model_of("lstm")

    def erase(h):
        h = h.clone()
        h[:, 4] = 0
        return h

    _, edited = run(model, keep=[1], edit={1: erase})
    _, before = run(model, keep=[1])
    assert (edited[1][:, 4] == 0).all()
    assert torch.equal(edited[1][:, 5:], before[1][:, 5:])


def test_gradients_flow_through_what_is_kept_and_through_an_edit():
    model = model_of("gru")
    shift = torch.zeros(model.head.in_features, requires_grad=True)
    with stream(model, keep=[1], edit={1: lambda h: h + shift}) as kept:
        models.logits(model, TOKENS).sum().backward()
    assert shift.grad.abs().sum() > 0
    assert kept[1].requires_grad


def test_a_second_forward_pass_overwrites_the_first():
    model = model_of("gru")
    with torch.no_grad(), stream(model, keep=[2]) as kept:
        models.logits(model, TOKENS)
        first = kept[2]
        models.logits(model, TOKENS[:2, :4])
    assert first.shape[:2] == (3, 9)
    assert kept[2].shape[:2] == (2, 4)
    assert torch.allclose(kept[2], first[:2, :4], atol=1e-6)


def test_an_edit_sees_the_activations_and_is_called_once_a_pass():
    model, seen = model_of("mamba"), []
    run(model, edit={2: lambda h: seen.append(h.clone()) or h})
    assert len(seen) == 1
    assert torch.equal(seen[0], run(model, keep=[2])[1][2])


# ---- hooks and errors ---------------------------------------------------------------------------------------------------


@every_family
def test_no_hook_is_left_behind_on_any_exit(family):
    model = model_of(family)
    run(model, keep=range(L + 1), edit={0: lambda h: h, 2: lambda h: h})
    assert n_hooks(model) == 0
    with pytest.raises(ZeroDivisionError), stream(model, keep=[0, 1], edit={2: lambda h: h}):
        assert n_hooks(model) == 3
        raise ZeroDivisionError
    assert n_hooks(model) == 0
    with pytest.raises(ZeroDivisionError):
        run(model, keep=[0], edit={1: lambda h: 1 / 0})
    assert n_hooks(model) == 0
    with pytest.raises(RuntimeError), stream(model, keep=[0]):
        pass
    assert n_hooks(model) == 0
    with pytest.raises(ValueError), stream(model, keep=[0, 9]):
        pass
    assert n_hooks(model) == 0


@every_family
@pytest.mark.parametrize(
    "asked", [{"keep": [0]}, {"keep": [1, L]}, {"edit": {2: lambda h: h}}, {"edit": {0: lambda h: h}}]
)
def test_a_site_that_never_ran_is_an_error(family, asked):
    model = model_of(family)
    with pytest.raises(RuntimeError, match="never ran"), stream(model, **asked):
        pass


def test_an_error_inside_the_block_is_not_hidden_behind_the_site_that_never_ran():
    with pytest.raises(KeyError, match="mine"), stream(model_of("lstm"), keep=[1]):
        raise KeyError("mine")


def test_another_models_forward_pass_does_not_count():
    model, other = model_of("lstm"), model_of("lstm")
    with pytest.raises(RuntimeError, match=r"\[1\] never ran"), stream(model, keep=[1]):
        models.logits(other, TOKENS)


def test_asking_for_nothing_is_no_error():
    out, kept = run(model_of("lstm"))
    assert kept == {}
    assert torch.equal(out, plain(model_of("lstm")))


@every_family
@pytest.mark.parametrize("site", [-1, L + 1, 1.0, "1", None, True])
@pytest.mark.parametrize("how", ["keep", "edit"])
def test_a_site_that_the_model_lacks_is_refused_by_value_before_anything_runs(family, site, how):
    asked = {"keep": [site]} if how == "keep" else {"edit": {site: lambda h: h}}
    with pytest.raises(ValueError, match=f"site={site!r}.*0 .*{L}"), stream(model_of(family), **asked):
        pytest.fail("entered the block")


@pytest.mark.parametrize("sites", [[0, "1"], [None, 2]])
def test_a_bad_site_beside_a_good_one_is_refused_by_value(sites):
    with pytest.raises(ValueError, match="site="), stream(model_of("lstm"), keep=sites):
        pass


@every_family
@every_site
def test_an_edit_that_changes_the_shape_is_refused_with_both_shapes(family, site):
    with pytest.raises(ValueError, match=rf"site {site} turns \(3, 9, \d+\) into \(3, 8, \d+\)"):
        run(model_of(family), edit={site: lambda h: h[:, 1:]})


def test_an_edit_that_would_broadcast_is_refused_too():
    with pytest.raises(ValueError, match="edit at site 1"):
        run(model_of("lstm"), edit={1: lambda h: h.mean(0, keepdim=True)})


def test_an_edit_that_returns_nothing_is_refused_by_site():
    with pytest.raises((ValueError, TypeError), match="site 1"):
        run(model_of("lstm"), edit={1: lambda h: None})


@pytest.mark.parametrize("family", FAMILIES)
@every_site
def test_an_edit_to_another_precision_is_never_taken_in_silence(family, site):
    """Erasers are fitted in float64: an edit that forgets to come back to float32 must not run a mixed model."""
    model = model_of(family)
    try:
        out, _ = run(model, edit={site: lambda h: h.double()})
    except (ValueError, RuntimeError):
        return
    assert torch.allclose(out, plain(model), atol=1e-5) and out.dtype == torch.float32


def test_two_streams_at_one_site_are_refused_and_at_two_sites_work():
    """Hooks run in the order in which they were set: the outer one would keep what the inner one has yet to edit."""
    model = model_of("lstm")
    with torch.no_grad(), stream(model, keep=[2]) as kept:
        with pytest.raises(ValueError, match=r"sites \[2\].*outer"), stream(model, edit={2: torch.zeros_like}):
            pass
        with stream(model, edit={1: torch.zeros_like}):
            models.logits(model, TOKENS)
        after_zero = kept[2].clone()
        models.logits(model, TOKENS)
    assert not torch.equal(kept[2], after_zero)
    with torch.no_grad(), stream(model, keep=[2]):  # the site is free again
        models.logits(model, TOKENS)


# ---- running from a site on -----------------------------------------------------------------------------------------------


def replacement(model, site, tokens=TOKENS, seed=2):
    shape = run(model, keep=[site], tokens=tokens)[1][site].shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def from_site(model, site, h, tokens=TOKENS):
    with torch.no_grad():
        return run_from(model, site, h, tokens)


@every_family
@every_site
def test_running_from_a_site_is_an_edit_that_puts_the_activations_there_bit_for_bit(family, site):
    model = model_of(family)
    h = replacement(model, site)
    edited, _ = run(model, edit={site: lambda _: h})
    assert torch.equal(from_site(model, site, h), edited)
    assert not torch.allclose(edited, plain(model), atol=1e-4)


@every_family
@every_site
def test_running_from_what_was_there_gives_the_models_own_logits(family, site):
    model = model_of(family)
    assert torch.equal(from_site(model, site, run(model, keep=[site])[1][site]), plain(model))


@every_family
@every_site
def test_only_the_blocks_behind_the_site_run(family, site, monkeypatch):
    model = model_of(family)
    blocks, h, ran = list(models.blocks(model)), replacement(model, site), []
    kind = type(blocks[0])
    real = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: ran.append(self) or real(self, *a, **k))
    from_site(model, site, h)
    assert len(ran) == L - site and all(one is block for one, block in zip(ran, blocks[site:], strict=True))
    ran.clear()
    plain(model)
    assert len(ran) == L  # and afterwards all of them again


@every_family
@every_site
def test_further_rows_of_one_pass_are_as_passes_of_their_own(family, site):
    model = model_of(family)
    two = [replacement(model, site, seed=seed) for seed in (3, 4)]
    together = from_site(model, site, torch.cat(two), TOKENS.repeat(2, 1))
    assert torch.allclose(together, torch.cat([from_site(model, site, h) for h in two]), atol=1e-5)


def as_before(model, before):
    return (
        not any("forward" in vars(block) for block in models.blocks(model))
        and n_hooks(model) == 0
        and torch.equal(plain(model), before)
    )


@every_family
@every_site
def test_the_model_is_whole_again_afterwards_on_any_exit(family, site, monkeypatch):
    model = model_of(family)
    before, h = plain(model), replacement(model, site)
    from_site(model, site, h)
    assert as_before(model, before)
    with pytest.raises(ValueError, match=f"edit at site {site}"):
        from_site(model, site, h[:, 1:])
    assert as_before(model, before)
    with monkeypatch.context() as inside, pytest.raises(ZeroDivisionError):
        inside.setattr(model.head, "forward", lambda _: 1 / 0)
        from_site(model, site, h)
    assert as_before(model, before)


@every_family
@pytest.mark.parametrize("site", [-1, L + 1, True, None])
def test_running_from_a_site_that_the_model_lacks_is_refused_and_changes_nothing(family, site):
    model = model_of(family)
    before = plain(model)
    with pytest.raises(ValueError, match=f"site={site!r}.*0 .*{L}"):
        from_site(model, site, torch.zeros(3, 9, 16))
    assert as_before(model, before)


def test_running_from_a_site_that_an_outer_stream_holds_is_refused():
    model = model_of("gru")
    before, h = plain(model), replacement(model, 2)
    with torch.no_grad(), stream(model, keep=[2]):
        with pytest.raises(ValueError, match=r"sites \[2\].*outer"):
            run_from(model, 2, h, TOKENS)
        models.logits(model, TOKENS)
    assert as_before(model, before)

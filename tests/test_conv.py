"""Edits of the short convolution: what they do, that they end, and that one without effect is an error."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers.models.mamba import modeling_mamba
from transformers.models.mamba2 import modeling_mamba2

from statedepth import conv, models, training
from statedepth.conv import edited
from statedepth.models import ModelSpec

torch.set_num_threads(1)

VOCAB = 5
TOKENS = torch.randint(VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
by_family = pytest.mark.parametrize("family", ["mamba", "mamba2"])


def model_of(family, **changes):
    """With conv weights and biases far from zero, so that every edit shows."""
    model = models.build(ModelSpec(family, d_model=16, n_layers=3, d_state=4, **changes), VOCAB, 4).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in models.blocks(model):
            for p in (block.mixer.conv1d.weight, block.mixer.conv1d.bias):
                p.copy_(torch.randn(p.shape, generator=generator))
    return model


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return models.logits(model, tokens)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@by_family
def test_with_the_current_token_alone_a_model_of_one_tap_gives_the_same_logits(family):
    model, small = model_of(family), model_of(family, d_conv=1)
    state = {
        name: value[..., -1:] if name.endswith("conv1d.weight") else value for name, value in model.state_dict().items()
    }
    small.load_state_dict(state)
    with edited(model, {block: conv.current_token for block in (1, 2, 3)}):
        assert torch.allclose(logits(model), logits(small), atol=1e-5)


@by_family
def test_with_its_mean_output_a_convolution_says_the_same_whatever_it_reads(family):
    model = model_of(family)
    mean = conv.mean_outputs(model, TOKENS)[1]
    with edited(model, {1: conv.mean_output(mean)}):
        logits(model)
        taps = conv.of_block(model, 1)
        out = taps(torch.randn(2, len(mean), 9))[..., :9]
    assert torch.allclose(out, mean[:, None].expand(-1, 9), atol=1e-6)


@by_family
def test_mean_outputs_are_those_of_the_convolution_inside_the_model(family, monkeypatch):
    """Caught where the mixer calls its convolution, rather than computed from the stream."""
    model, caught = model_of(family), []
    module = modeling_mamba if family == "mamba" else modeling_mamba2
    real = module.causal_conv1d_fn

    def spy(x, weight, bias=None, *args, **kwargs):
        plain = torch.nn.functional.conv1d(x, weight[:, None], bias, groups=len(weight), padding=weight.shape[-1] - 1)
        caught.append(plain[..., : x.shape[-1]].mean((0, 2)))
        return real(x, weight, bias, *args, **kwargs)

    monkeypatch.setattr(module, "causal_conv1d_fn", spy)
    logits(model)
    found = conv.mean_outputs(model, TOKENS)
    assert len(caught) >= 3
    for block in (1, 2, 3):
        assert torch.allclose(found[block], caught[block - 1], atol=1e-5)


@by_family
def test_the_taps_are_put_back_on_any_exit(family):
    model = model_of(family)
    before, out = weights(model), logits(model)
    with edited(model, {2: conv.current_token}):
        assert not torch.equal(logits(model), out)
    assert unchanged(model, before)
    with pytest.raises(KeyError), edited(model, {1: conv.current_token, 3: conv.current_token}):
        raise KeyError
    assert unchanged(model, before)
    assert torch.equal(logits(model), out)
    assert not model._forward_hooks


@by_family
def test_an_edit_that_changes_no_logit_is_an_error(family):
    model = model_of(family)
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"blocks \[2\].*changed no logit"), edited(model, {2: lambda taps: taps}):
        logits(model)
    with pytest.raises(RuntimeError, match=r"blocks \[2\].*no forward pass"), edited(model, {2: conv.current_token}):
        pass
    one_tap = model_of(family, d_conv=1)
    with pytest.raises(RuntimeError, match="changed no logit"), edited(one_tap, {1: conv.current_token}):
        logits(one_tap)
    assert unchanged(model, before)


def test_an_edit_inside_an_error_does_not_hide_it():
    model = model_of("mamba")
    with pytest.raises(KeyError), edited(model, {1: lambda taps: taps}):
        logits(model)
        raise KeyError


@pytest.mark.parametrize("block", [0, 4, -1, True, "1"])
def test_a_block_that_is_not_there_is_refused(block):
    with pytest.raises(ValueError, match="blocks 1 to 3"), edited(model_of("mamba"), {block: conv.current_token}):
        pass


def test_models_without_a_convolution_and_wrong_shapes_are_refused_by_name():
    gru = models.build(ModelSpec("gru", d_model=16, n_layers=2), VOCAB, 4)
    with pytest.raises(ValueError, match="GRU has no short convolution"):
        conv.of_block(gru, 1)
    model = model_of("mamba")
    with pytest.raises(ValueError, match="must name at least one"), edited(model, {}):
        pass
    with (
        pytest.raises(ValueError, match="one number per channel"),
        edited(model, {1: conv.mean_output(torch.zeros(3))}),
    ):
        pass
    with (
        pytest.raises(ValueError, match="turns taps"),
        edited(model, {1: lambda taps: (taps[0][..., :2], taps[1])}),
    ):
        pass
    assert not model._forward_hooks


@pytest.fixture(scope="module")
def mamba():
    run = training.Run(
        "Z3",
        ModelSpec("mamba", d_model=16, n_layers=2, d_state=4),
        training.TrainSpec(length=6, steps=150, batch=32, lr=1e-2),
    )
    return training.train(run, progress=False)


def test_the_attribution_has_every_edit_and_block_and_an_intact_model_as_evaluated(mamba):
    table = conv.attribution(mamba, 6, 512)
    assert table.groupby("edit")["block"].agg(list).to_dict() == {"current token": [0, 1, 2], "mean output": [0, 1, 2]}
    assert table["intact"].nunique() == 1
    assert abs(table["intact"].iloc[0] - mamba.accuracy_at(6)) < 0.05
    assert abs(table["majority"].iloc[0] - 1 / 3) < 0.05
    assert (table.query("block == 0 and edit == 'mean output'")["accuracy"] < 0.5).all()  # nothing is read any more
    tokens = mamba.task.sample(512, 6, torch.Generator().manual_seed(43), "test")
    for block in (1, 2):  # each row is of its own block
        with torch.no_grad(), conv.edited(mamba.model, {block: conv.current_token}):
            right = models.logits(mamba.model, tokens.tokens).argmax(-1) == tokens.targets
        row = table.query("block == @block and edit == 'current token'")
        assert row["accuracy"].item() == pytest.approx(right.double().mean().item())
    assert table.query("block == 1")["accuracy"].tolist() != table.query("block == 2")["accuracy"].tolist()


def test_with_one_tap_there_is_nothing_to_remove_but_the_mean_still_stands():
    run = training.Run(
        "parity",
        ModelSpec("mamba2", d_model=16, n_layers=1, d_conv=1, d_state=4),
        training.TrainSpec(length=6, steps=30, batch=16),
    )
    assert set(conv.attribution(training.train(run, progress=False), 6, 64)["edit"]) == {"mean output"}


def test_lost_is_the_share_of_the_way_down_to_the_majority_and_stays_between_none_and_all():
    table = pd.DataFrame({"intact": 0.9, "majority": 0.5, "accuracy": [0.9, 0.7, 0.5, 0.4, 0.95]})
    assert np.allclose(conv.lost(table), [0, 0.5, 1, 1, 0])
    nothing = pd.DataFrame({"intact": [0.5, 0.4], "majority": 0.5, "accuracy": 0.3})
    assert np.isnan(conv.lost(nothing)).all()


def test_means_are_over_every_sequence_and_position_and_leave_the_model_alone():
    model = model_of("mamba")
    before = weights(model)
    whole = conv.mean_outputs(model, TOKENS)
    parts = [conv.mean_outputs(model, row[None]) for row in TOKENS]
    for block, mean in whole.items():
        assert torch.allclose(mean, torch.stack([part[block] for part in parts]).mean(0), atol=1e-5)
    assert unchanged(model, before)

"""Edits of the short convolution of Mamba and Mamba-2: which blocks use it, for which task?

A hook on `mixer.conv1d` never fires, since the mixer hands its weight to a functional kernel. So a convolution is edited
through its weight and bias, which are put back on any exit, and an edit that changes no logit is an error.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from statedepth import models
from statedepth.stream import stream
from statedepth.training import Trained

Taps = tuple[torch.Tensor, torch.Tensor]  # the weight (E, 1, K), current token last, and the bias (E,) of a convolution
Edit = Callable[[Taps], Taps]
EDITS = ("current token", "mean output")
EVERY_BLOCK = 0  # in tables, in place of the number of one block


def of_block(model: nn.Module, block: int) -> nn.Conv1d:
    """The short convolution of block 1..L. ValueError for a block that is not there or has none."""
    found = models.blocks(model)
    if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= len(found):
        raise ValueError(f"block={block!r}: this model has the blocks 1 to {len(found)}")
    conv = getattr(getattr(found[block - 1], "mixer", None), "conv1d", None)
    if conv is None:
        raise ValueError(
            f"block={block}: {type(found[block - 1]).__name__} has no short convolution; use mamba or mamba2"
        )
    return conv


def current_token(taps: Taps) -> Taps:
    """Keep tap 0, the current token's, and nothing of the tokens before it."""
    weight, bias = taps
    kept = torch.zeros_like(weight)
    kept[..., -1] = weight[..., -1]
    return kept, bias


def mean_output(mean: torch.Tensor) -> Edit:
    """Put a constant (E,), the mean of the convolution's output before its SiLU, in the place of that output."""

    def edit(taps: Taps) -> Taps:
        weight, bias = taps
        if mean.shape != bias.shape:
            raise ValueError(f"mean is {tuple(mean.shape)}, must be {tuple(bias.shape)}: one number per channel")
        return torch.zeros_like(weight), mean.to(bias)

    return edit


@contextmanager
def edited(model: nn.Module, edits: Mapping[int, Edit]) -> Iterator[None]:
    """Inside the block, the convolutions of the blocks in `edits` (1..L) have edited taps.

    Raises ValueError as `of_block` does, for no edit, and for an edit that changes a shape. On leaving, the last batch
    that ran inside is run once more without the edits: RuntimeError where no logit differs, or where none ran (an edit
    that did nothing must not pass for one that had no effect).
    """
    if not edits:
        raise ValueError("edits={}: must name at least one block")
    convs = {block: of_block(model, block) for block in edits}
    before: dict[int, Taps] = {}
    for block, conv in convs.items():
        assert conv.bias is not None
        before[block] = conv.weight.detach().clone(), conv.bias.detach().clone()
    after = {block: edit(before[block]) for block, edit in edits.items()}
    for block, taps in after.items():
        if [t.shape for t in taps] != [t.shape for t in before[block]]:
            raise ValueError(f"edit of block {block} turns taps {before[block][0].shape} into {taps[0].shape}")
    last: list[tuple[torch.Tensor, torch.Tensor]] = []

    def remember(_: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
        last[:] = [(args[0], out.detach())]

    handle = model.register_forward_hook(remember)
    try:
        _put(convs, after)
        yield
    finally:
        handle.remove()
        _put(convs, before)
    if not last:
        raise RuntimeError(f"blocks {sorted(edits)}: no forward pass of this model ran inside `edited`")
    with torch.no_grad():
        if torch.equal(model(last[0][0]), last[0][1]):
            raise RuntimeError(f"blocks {sorted(edits)}: the edit changed no logit; it did nothing")


def _put(convs: Mapping[int, nn.Conv1d], taps: Mapping[int, Taps]) -> None:
    with torch.no_grad():
        for block, conv in convs.items():
            assert conv.bias is not None
            conv.weight.copy_(taps[block][0])
            conv.bias.copy_(taps[block][1])


def mean_outputs(model: nn.Module, tokens: torch.Tensor) -> dict[int, torch.Tensor]:
    """Block -> (E,): the mean output of each block's convolution before its SiLU, over tokens (B, T).

    From the stream: what enters the block's mixer goes through its norm, the first projection and the convolution.
    """
    sites = list(range(len(models.blocks(model))))
    with torch.no_grad(), stream(model, keep=sites) as kept:
        models.logits(model, tokens)
    means = {}
    for site in sites:
        block: Any = models.blocks(model)[site]
        conv = of_block(model, site + 1)
        with torch.no_grad():
            projected = block.mixer.in_proj(block.norm(kept[site]))
            # Mamba projects to (x, gate); Mamba-2, which has heads, to (gate, x and B and C, dt).
            first = block.mixer.intermediate_size if hasattr(block.mixer, "num_heads") else 0
            x = projected[..., first : first + conv.in_channels].transpose(1, 2)
            means[site + 1] = conv(x)[..., : tokens.shape[1]].mean((0, 2))
    return means


def attribution(trained: Trained, length: int, n: int, seed: int = 0) -> pd.DataFrame:
    """Task accuracy with the convolution of one block, or of all (block 0), edited; a row per edit and block.

    `current token` keeps tap 0 alone; `mean output` puts the output's mean over `n` train sequences in its place.
    Accuracies are over `n` test sequences, at all positions; `intact` is the unedited model's and `majority` that of the
    class most frequent in the train sequences. With d_conv=1 the first edit has nothing to remove and is left out.
    """
    device = next(trained.model.parameters()).device
    train, test = (
        trained.task.sample(n, length, torch.Generator().manual_seed(1000 * seed + offset), split)
        for offset, split in ((41, "train"), (43, "test"))
    )
    tokens, n_blocks = test.tokens.to(device), len(models.blocks(trained.model))
    means = mean_outputs(trained.model, train.tokens.to(device))
    majority = float((test.targets == train.targets.flatten().bincount().argmax()).double().mean())

    def accuracy() -> float:
        with torch.no_grad():
            return float((models.logits(trained.model, tokens).argmax(-1).cpu() == test.targets).double().mean())

    edits: dict[str, Callable[[int], Edit]] = {
        "current token": lambda _: current_token,
        "mean output": lambda block: mean_output(means[block]),
    }
    if trained.run.taps == 1:
        del edits["current token"]
    intact, rows = accuracy(), []
    for name, edit in edits.items():
        for block in range(n_blocks + 1):
            chosen = range(1, n_blocks + 1) if block == EVERY_BLOCK else [block]
            with edited(trained.model, {b: edit(b) for b in chosen}):
                after = accuracy()
            row = {"edit": name, "block": block, "intact": intact, "accuracy": after, "majority": majority}
            rows.append(row)
    return pd.DataFrame(rows)


def lost(table: pd.DataFrame) -> np.ndarray:
    """The share of the way from the intact model down to the majority class that each edit costs, from 0 to 1.

    Clipped there: an edit may help, and what is left may be worse than the majority class. Not a number where the intact
    model is no better than that class.
    """
    way = (table["intact"] - table["majority"]).to_numpy()
    lost = (table["intact"] - table["accuracy"]).to_numpy() / np.where(way > 0, way, np.nan)
    return np.clip(lost, 0.0, 1.0)

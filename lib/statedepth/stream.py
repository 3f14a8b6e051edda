"""Read or edit the residual stream at sites, with plain forward hooks.

Site 0 is the input of block 0 (the embedding); site l, 1..L, is the raw output of block l, before any final norm.
`output_hidden_states` is not used: it is off by one between Mamba and GPT-NeoX, and its last entry is normalised.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from statedepth import models

Edit = Callable[[torch.Tensor], torch.Tensor]
_IN_USE: set[tuple[int, int]] = set()  # (id of a model, site) of every open `stream`


def _first(value: Any) -> torch.Tensor:
    return value[0] if isinstance(value, tuple) else value


def _with_first(value: Any, h: torch.Tensor) -> Any:
    return (h, *value[1:]) if isinstance(value, tuple) else h


def prefix_of(model: nn.Module) -> int:
    """Positions that the model puts before the tokens."""
    return int(getattr(model, "prefix", 0))


@contextmanager
def stream(
    model: nn.Module, keep: Iterable[int] = (), edit: Mapping[int, Edit] | None = None
) -> Iterator[dict[int, torch.Tensor]]:
    """Inside the block, forward passes fill `kept[site]` with (B, T, D) activations and apply `edit[site]` to them.

    An edit maps (B, T, D) to (B, T, D). What is kept is the edited value: what the next block, or the head after the
    last one, reads. An edit does not reach the state that a block carries in its own recurrence, scan, keys or values.
    A second forward pass overwrites the first.

    A model that puts positions of its own before the tokens (a beginning token) says how many in its attribute `prefix`:
    they are neither kept nor edited, so that T is the number of tokens here too.

    Raises ValueError for a site that the model does not have, for one that an outer `stream` already reads or edits
    (which of the two would see the other's edit?), and for an edit that changes the shape; RuntimeError on leaving,
    where a site asked for never ran (an edit that did nothing must not pass for one that had no effect).
    """
    blocks = models.blocks(model)
    keep, edit = set(keep), dict(edit or {})
    for site in (*keep, *edit):
        if isinstance(site, bool) or not isinstance(site, int) or not 0 <= site <= len(blocks):
            raise ValueError(f"site={site!r}: this model has the sites 0 (embedding) to {len(blocks)} (last block)")
    wanted = sorted({*keep, *edit})
    if taken := [site for site in wanted if (id(model), site) in _IN_USE]:
        raise ValueError(f"sites {taken}: an outer `stream` already reads or edits them; give all to one `stream`")
    kept: dict[int, torch.Tensor] = {}
    ran = set()
    prefix = prefix_of(model)

    def at(site: int, whole: torch.Tensor) -> torch.Tensor:
        ran.add(site)
        h = whole[:, prefix:]
        if site in edit:
            edited = edit[site](h)
            if not isinstance(edited, torch.Tensor):
                raise TypeError(f"edit at site {site} gives {edited!r}: it must return the edited activations")
            if edited.shape != h.shape:
                raise ValueError(f"edit at site {site} turns {tuple(h.shape)} into {tuple(edited.shape)}")
            h = edited
            whole = torch.cat([whole[:, :prefix], h], 1) if prefix else h
        if site in keep:
            kept[site] = h
        return whole

    def enter(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (at(0, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": at(0, kwargs["hidden_states"])}

    handles = []
    _IN_USE.update((id(model), site) for site in wanted)
    try:
        for site in wanted:
            if site == 0:
                handles.append(blocks[0].register_forward_pre_hook(enter, with_kwargs=True))
            else:
                handles.append(
                    blocks[site - 1].register_forward_hook(
                        lambda _m, _i, out, site=site: _with_first(out, at(site, _first(out)))
                    )
                )
        yield kept
    finally:
        _IN_USE.difference_update((id(model), site) for site in wanted)
        for handle in handles:
            handle.remove()
    if missed := [site for site in wanted if site not in ran]:
        raise RuntimeError(f"sites {missed} never ran: no forward pass of this model happened inside `stream`")


@contextmanager
def _skipped(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, these blocks hand on what they are given: what they would compute is about to be replaced."""
    blocks = list(blocks)

    def hand_on(block: nn.Module) -> Callable[..., Any]:
        if isinstance(block, nn.RNNBase):  # these return their states too
            return lambda h, *_args, **_kwargs: (h, None)
        return lambda hidden_states, *_args, **_kwargs: hidden_states

    try:
        for block in blocks:
            block.forward = hand_on(block)  # type: ignore[method-assign]
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own is behind it


def run_from(model: nn.Module, site: int, h: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """(B, T, n_outputs) logits of the model with the stream at `site` set to `h` (B, T, D); the blocks before do not run.

    The same as an edit that puts `h` in place of the stream, at the price of the later blocks alone, so that many
    edits of one site can share a pass as further rows. `tokens` (B, T) are what `h` was made from; a model that reads
    them by another route than the stream still does. ValueError as `stream` raises it.
    """
    blocks = list(models.blocks(model))
    with _prefix_put(model, site, tokens), _skipped(blocks[:site]), stream(model, edit={site: lambda _: h}):
        return models.logits(model, tokens)


class _Reached(Exception):  # noqa: N818 (a signal)
    """The site that was to be seen has been."""


@contextmanager
def _prefix_put(model: nn.Module, site: int, tokens: torch.Tensor) -> Iterator[None]:
    """Inside, the positions of a prefix have at `site` what all blocks before would have made of them.

    In a causal model they know of no token, so that one string says it for all.
    """
    prefix = prefix_of(model)
    if not prefix or site == 0:
        yield
        return
    block = models.blocks(model)[site - 1]
    made: list[torch.Tensor] = []

    def watch(_m: nn.Module, _i: Any, out: Any) -> None:
        made.append(_first(out)[:, :prefix])
        raise _Reached  # later blocks, and edits of their sites, are not meant

    watching = block.register_forward_hook(watch)
    try:
        with torch.no_grad(), suppress(_Reached):
            models.logits(model, tokens[:1, :1])
    finally:
        watching.remove()

    def put(_m: nn.Module, _i: Any, out: Any) -> Any:
        h = _first(out)
        return _with_first(out, torch.cat([made[0].expand(len(h), -1, -1).to(h), h[:, prefix:]], 1))

    handle = block.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def between(
    model: nn.Module,
    site: int,
    last: int,
    h: torch.Tensor,
    tokens: torch.Tensor,
    edit: Mapping[int, Edit] | None = None,
) -> torch.Tensor:
    """(B, T, D) stream at `last` where that at `site`, before it, is set to `h`; no other block than those between runs.

    `edit` as in `stream`, at sites after `site`, up to `last`. ValueError as `stream` raises it, and for `last` that is
    not after `site`.
    """
    if not site < last:
        raise ValueError(f"last={last}: must be after site={site}")
    blocks = list(models.blocks(model))
    edits = {site: lambda _: h, **(edit or {})}
    with (
        _prefix_put(model, site, tokens),
        _skipped([*blocks[:site], *blocks[last:]]),
        stream(model, [last], edits) as kept,
    ):
        models.logits(model, tokens)
    return kept[last]

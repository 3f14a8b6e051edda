"""Five architectures behind one interface: `build` a `ModelSpec`, then `blocks(model)` and `logits(model, tokens)`."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn

from statedepth import mixers

FAMILIES = ("transformer", "mamba", "mamba2", "lstm", "gru")

mixers.install()


@dataclass(frozen=True)
class ModelSpec:
    """One model before training. `d_model` is Mamba's width; the other families derive theirs from it.

    Raises ValueError for a value outside the ranges of `_check`.
    """

    family: str  # transformer | mamba | mamba2 | lstm | gru
    d_model: int = 64  # features
    n_layers: int = 4  # blocks
    d_state: int = 8  # state size N per channel (mamba) or head (mamba2)
    d_conv: int = 4  # taps of the short convolution (mamba, mamba2)
    n_heads: int = 4  # attention heads (transformer), SSM heads (mamba2)
    n_positions: int = 128  # learned positions (transformer), beside rotary; 0 = rotary alone
    seed: int = 0  # of the initial weights and of the training data
    negative_eigenvalues: bool = False  # decays 2 exp(dt A) - 1 in [-1, 1] (mamba, mamba2), Grazzi et al. 2024
    residual: bool = False  # blocks add to a residual stream (lstm, gru; the others always have one)

    def __post_init__(self) -> None:
        if self.family not in (*FAMILIES, *OTHERS):
            raise ValueError(f"family={self.family!r}: must be one of {', '.join((*FAMILIES, *OTHERS))}")
        for name, low, high in (
            ("d_model", 8, 512),
            ("n_layers", 1, 32),
            ("d_state", 1, 128),
            ("d_conv", 1, 8),
            ("n_heads", 1, 16),
            ("n_positions", 0, 65536),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}={value!r}: must be a whole number from {low} to {high}")

        for name, families in (("negative_eigenvalues", ("mamba", "mamba2")), ("residual", ("lstm", "gru"))):
            value = getattr(self, name)
            if not isinstance(value, bool) or (value and self.family not in families):
                raise ValueError(f"{name}={value!r}: must be True or False, and True for {' or '.join(families)} only")

    @property
    def width(self) -> int:
        """Features D of this family's stream: the width whose blocks come nearest to the size of Mamba's at `d_model`.

        At equal width the families differ by a factor of two in parameters. From d_model = 32 on, whole models agree
        within 25%. Heads share the features evenly; rotary positions need an even number of them per head.
        """
        if self.family == "mamba":
            return self.d_model
        unit = {"transformer": 2 * self.n_heads, "mamba2": self.n_heads // math.gcd(self.n_heads, 2)}.get(
            self.family, 2
        )
        goal = block_parameters(replace(self, family="mamba", residual=False), self.d_model)
        widths = range(unit, 2 * self.d_model + unit, unit)
        return min(widths, key=lambda width: abs(block_parameters(self, width) - goal))


@dataclass(frozen=True)
class Family:
    """An architecture that was added from outside (`extend.architecture`).

    `backbone(spec, vocab_size)` maps (B, T) tokens to (B, T, spec.width) and holds its blocks in the list `layers`, each of
    which returns its output, or a tuple that begins with it. `block_parameters(spec, width)` counts one block's.
    """

    backbone: Callable[["ModelSpec", int], nn.Module]
    block_parameters: Callable[["ModelSpec", int], int]


OTHERS: dict[str, Family] = {}


def block_parameters(spec: ModelSpec, width: int) -> int:
    """Parameters of one block of this family at this width; the norms of a residual LSTM or GRU are left out."""
    if spec.family in OTHERS:
        return OTHERS[spec.family].block_parameters(spec, width)
    inner, n, heads = 2 * width, spec.d_state, spec.n_heads
    if spec.family == "mamba":
        rank = math.ceil(width / 16)
        projections = width * 2 * inner + inner * (rank + 2 * n) + rank * inner + inner + inner * width
        return projections + inner * (spec.d_conv + 1) + inner * n + inner + width
    if spec.family == "mamba2":
        conv = inner + 2 * n
        return width * (inner + conv + heads) + conv * (spec.d_conv + 1) + 3 * heads + inner + inner * width + width
    if spec.family == "transformer":
        return 12 * width**2 + 13 * width
    gates = {"lstm": 4, "gru": 3}[spec.family]
    return gates * (2 * width**2 + 2 * width)


Recurrent = type[nn.LSTM] | type[nn.GRU]


class RecurrentStack(nn.Module):
    """One-layer LSTM or GRU modules in a row (a multi-layer `nn.LSTM` has nothing to hook); no residual stream."""

    def __init__(self, kind: Recurrent, vocab_size: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList([kind(width, width, batch_first=True) for _ in range(n_layers)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) int64 tokens to (B, T, D)."""
        h = self.embeddings(tokens)
        for layer in self.layers:
            h, _ = layer(h)
        return h


class ResidualBlock(nn.Module):
    """One LSTM or GRU layer that reads a normed residual stream and adds to it, as the blocks of a Transformer do."""

    def __init__(self, kind: Recurrent, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = kind(width, width, batch_first=True)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        return hidden_states + self.layer(self.norm(hidden_states))[0]


class ResidualStack(nn.Module):
    """The recurrent layers around a residual stream, with a norm before the head: all but the mixer as in a Transformer."""

    def __init__(self, kind: Recurrent, vocab_size: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, width)
        self.layers = nn.ModuleList([ResidualBlock(kind, width) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) int64 tokens to (B, T, D)."""
        h = self.embeddings(tokens)
        for layer in self.layers:
            h = layer(h)
        return self.norm(h)


class Tracker(nn.Module):
    """A backbone that maps (B, T) tokens to (B, T, D), and a linear head that reads the state from it.

    With learned positions (Transformer: without them it does not learn S_3), a position vector is added to each token's
    embedding. Raises ValueError for more tokens than there are positions.
    """

    def __init__(
        self, backbone: Any, width: int, n_outputs: int, n_positions: int = 0, negative_eigenvalues: bool = False
    ) -> None:
        super().__init__()
        self.negative_eigenvalues = negative_eigenvalues
        self.backbone: Any = backbone
        self.head = nn.Linear(width, n_outputs)
        self.positions = nn.Embedding(n_positions, width) if n_positions else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)  # as GPT-NeoX's own embedding

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T) int64 tokens to (B, T, n_outputs) logits."""
        if not isinstance(self.backbone, transformers.PreTrainedModel):
            return self.head(self.backbone(tokens))
        embedded = self.backbone.get_input_embeddings()(tokens)
        if self.positions is not None:
            length = tokens.shape[1]
            if length > self.positions.num_embeddings:
                raise ValueError(
                    f"{length} tokens: this model has n_positions={self.positions.num_embeddings}; use shorter sequences"
                )
            embedded = embedded + self.positions.weight[:length]
        if self.negative_eigenvalues and getattr(self.backbone, "is_activation_checkpointing", False):
            raise ValueError("negative_eigenvalues=True: a checkpointed block would run again without; switch that off")
        with mixers.eigenvalues(self.negative_eigenvalues):
            return self.head(self.backbone(inputs_embeds=embedded, use_cache=False).last_hidden_state)


def _backbone(spec: ModelSpec, vocab_size: int) -> nn.Module:
    if spec.family in OTHERS:
        return OTHERS[spec.family].backbone(spec, vocab_size)
    if spec.family in ("lstm", "gru"):
        stack = ResidualStack if spec.residual else RecurrentStack
        return stack(nn.LSTM if spec.family == "lstm" else nn.GRU, vocab_size, spec.width, spec.n_layers)
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.n_layers,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "use_cache": False,
    }
    if spec.family == "transformer":
        config = transformers.GPTNeoXConfig(
            **common,
            num_attention_heads=spec.n_heads,
            intermediate_size=4 * spec.width,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        )
        return transformers.GPTNeoXModel(config)
    if spec.family == "mamba":
        return transformers.MambaModel(
            transformers.MambaConfig(**common, state_size=spec.d_state, conv_kernel=spec.d_conv)
        )
    return transformers.Mamba2Model(
        transformers.Mamba2Config(
            **common,
            state_size=spec.d_state,
            conv_kernel=spec.d_conv,
            num_heads=spec.n_heads,
            head_dim=2 * spec.width // spec.n_heads,
            n_groups=1,
            chunk_size=32,  # the default of 256 pads short sequences
        )
    )


def build(spec: ModelSpec, vocab_size: int, n_outputs: int) -> Tracker:
    """A new model whose weights depend on `spec` alone; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)  # the CPU's alone: torch.manual_seed would reseed CUDA's too
        positions = spec.n_positions if spec.family == "transformer" else 0
        return Tracker(_backbone(spec, vocab_size), spec.width, n_outputs, positions, spec.negative_eigenvalues)


def blocks(model: nn.Module) -> Sequence[nn.Module]:
    """The L blocks in order; hooks on them define the sites of `stream`. ValueError for a model that has none."""
    for path in ("backbone", "gpt_neox", "model"):
        layers = getattr(getattr(model, path, None), "layers", None)
        if layers is not None:
            return list(layers)
    raise ValueError(
        f"{type(model).__name__} has no blocks that are known here: no .backbone.layers or .gpt_neox.layers"
    )


def logits(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(B, T, n_outputs) for (B, T) int64 tokens."""
    return model(tokens)


def has_others(model: nn.Module) -> bool:
    """Does the model know tokens that are no answers of its task, as a language model does?"""
    return hasattr(model, "others")


@contextmanager
def with_others(model: nn.Module) -> Iterator[None]:
    """Inside, `logits` of a model that `has_others` have one more column: the greatest logit of all tokens that are no answer.

    There a model that has lost the state may answer with a token of another kind. Other models are as they were.
    """
    if not has_others(model):
        yield
        return
    model.others = True  # type: ignore[assignment]
    try:
        yield
    finally:
        model.others = False  # type: ignore[assignment]


def n_parameters(model: nn.Module) -> int:
    """All parameters, the embedding and the head among them."""
    return sum(p.numel() for p in model.parameters())

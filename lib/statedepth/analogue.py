"""Small language models of Pythia's and Mamba's classes, pretrained on text that every user has: Python's own library.

They stand in for published checkpoints where none can be fetched, and are called what they are: analogues. What is written
is an ordinary transformers checkpoint, which `statedepth.pretrained` loads like any other.
"""

import hashlib
import json
import math
import platform
import shutil
import sysconfig
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import torch.nn.functional as F
import transformers
from tqdm import tqdm

from statedepth import models, training
from statedepth.training import TrainSpec

END = "<|endoftext|>"  # between two files
SPARE = 32  # rows of the embedding that no token uses: room for the names of actions and states
HELD_OUT = 20  # one file in so many is never trained on
LOOK_EVERY = 250  # steps between two looks at the held-out loss
NOT_SOURCE = {"site-packages", "test", "tests", "idle_test", "lib2to3"}  # folders of others' code, and of test data


@dataclass(frozen=True)
class Analogue:
    """One language model and its pretraining. Raises ValueError for a value outside the ranges below."""

    family: str  # gpt_neox | mamba
    d_model: int  # features D of the residual stream
    n_layers: int = 12  # blocks
    n_heads: int = 4  # of attention (gpt_neox)
    d_state: int = 16  # state size per channel (mamba)
    vocabulary: int = 512  # rows of the embedding
    steps: int = 3000  # optimiser steps
    batch: int = 16  # pieces of text per step
    length: int = 128  # tokens of a piece
    lr: float = 2e-3  # AdamW's rate at its plateau
    seed: int = 0  # of the initial weights and of the order of the text

    def __post_init__(self) -> None:
        if self.family not in ("gpt_neox", "mamba"):
            raise ValueError(f"family={self.family!r}: must be gpt_neox or mamba")
        for name, low, high in (("d_model", 8, 1024), ("n_layers", 1, 48), ("n_heads", 1, 16), ("d_state", 1, 128), ("vocabulary", 300, 65536), ("steps", 1, 10**6), ("batch", 1, 4096), ("length", 8, 4096), ("seed", 0, 2**31 - 1)):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}={value!r}: must be a whole number from {low} to {high}")
        if isinstance(self.lr, bool) or not isinstance(self.lr, int | float) or not 1e-6 <= self.lr <= 1:
            raise ValueError(f"lr={self.lr!r}: must be a number from 1e-06 to 1")
        if self.family == "gpt_neox" and (self.d_model % (2 * self.n_heads) or self.d_model < 8 * self.n_heads):
            raise ValueError(
                f"d_model={self.d_model}: must be a multiple of {2 * self.n_heads} and {8 * self.n_heads} or more, for "
                f"n_heads={self.n_heads}: a quarter of each head is rotated, by pairs"
            )

    @property
    def key(self) -> str:
        """Name of the checkpoint's folder: class, width, and a hash of all settings."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.family}-{self.n_layers}x{self.d_model}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def config(self) -> transformers.PretrainedConfig:
        """The transformers configuration: Pythia's or Mamba's, small."""
        common: dict[str, Any] = {"vocab_size": self.vocabulary, "hidden_size": self.d_model, "num_hidden_layers": self.n_layers, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}  # fmt: skip
        if self.family == "mamba":
            return transformers.MambaConfig(**common, state_size=self.d_state)
        return transformers.GPTNeoXConfig(
            **common,
            num_attention_heads=self.n_heads,
            intermediate_size=4 * self.d_model,
            max_position_embeddings=2048,
        )


# Two sizes of each class, as the paper has Pythia of 160M and 410M.
ANALOGUES = {
    "gpt-neox-small": Analogue("gpt_neox", 40),
    "gpt-neox-large": Analogue("gpt_neox", 72),
    "mamba-small": Analogue("mamba", 48),
    "mamba-large": Analogue("mamba", 88),
}


@dataclass(frozen=True)
class Text:
    """The source of the standard library of the Python that runs this, in two parts by file."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """What it was, for a checkpoint's record: another Python has another library."""
        both = [text.encode() for text in (*self.train, *self.held_out)]
        return {
            "text": "source of Python's standard library, without tests",
            "python": platform.python_version(),
            "files": len(both),
            "bytes": sum(map(len, both)),
            "sha256": hashlib.sha256(b"\0".join(both)).hexdigest(),
        }


@lru_cache(maxsize=1)
def corpus() -> Text:
    """All .py files of the standard library but tests, in the order of their names; files are held out by a hash of it.

    Raises ValueError where this Python has no source of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    parts: tuple[list[str], list[str]] = ([], [])
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root)
        if not NOT_SOURCE & set(name.parts):
            held = int(hashlib.sha256(name.as_posix().encode()).hexdigest(), 16) % HELD_OUT == 0
            parts[held].append(path.read_text(encoding="utf-8", errors="replace"))
    if min(map(len, parts)) == 0:
        raise ValueError("this Python has no source of its standard library to pretrain on; use one that has")
    return Text(tuple(parts[0]), tuple(parts[1]))


def tokenizer(texts: tuple[str, ...], vocabulary: int) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE of `vocabulary` - SPARE tokens, among them every byte (Sennrich et al. 2016, arXiv:1508.07909)."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - SPARE, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)


def tokenizer_of(spec: Analogue) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer of an analogue: a function of the text and the size of the vocabulary alone."""
    return tokenizer(corpus().train, spec.vocabulary)


def encoded(by: transformers.PreTrainedTokenizerFast, texts: tuple[str, ...]) -> torch.Tensor:
    """(n,) token ids of all texts, one after the other, each ended by `END`."""
    end = by.convert_tokens_to_ids(END)
    ids = [np.array([*piece.ids, end]) for piece in by.backend_tokenizer.encode_batch(list(texts))]
    return torch.from_numpy(np.concatenate(ids)).long()


def place_of(spec: Analogue, folder: Path) -> Path:
    """The folder of a pretrained checkpoint; it appears whole or not at all."""
    return folder / spec.key


def pretrain(
    spec: Analogue, folder: Path, device: str = "cpu", progress: bool = True, stop_after: int | None = None
) -> Path:
    """The folder of the pretrained checkpoint, under `folder`; trained where it is not there, resuming after a kill.

    Beside the transformers checkpoint stands record.json: the settings, the text, the curve of the training loss and of
    the held-out loss (nats per token), and the loss of a unigram model on the same held-out text. `stop_after` ends
    early after so many steps, as a kill would, and raises KeyboardInterrupt.
    """
    place = place_of(spec, folder)
    if place.exists():
        return place
    text = corpus()
    by = tokenizer_of(spec)
    ids, unseen = encoded(by, text.train), encoded(by, text.held_out)
    lm = new(spec.config(), spec.seed)
    lm.to(device)  # type: ignore[arg-type]  # their wrapper loses self
    optimiser = torch.optim.AdamW(lm.parameters(), lr=spec.lr, weight_decay=0.1, fused=True)
    generator = torch.Generator().manual_seed(spec.seed + 1)
    schedule = TrainSpec(steps=spec.steps, lr=spec.lr)
    first, history = 0, []
    said = (spec, text.record()["sha256"])  # another Python's text is another pretraining
    resume = folder / f"{spec.key}.resume.safetensors"
    if resume.exists():
        done = training.load_progress(resume, said, lm, optimiser, generator)
        first, history = done["step"], done["history"]
    bar = tqdm(initial=first, total=spec.steps, desc=spec.key, disable=not progress, mininterval=2)
    for step in range(first, spec.steps):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate(step, schedule)
        starts = torch.randint(len(ids) - spec.length - 1, (spec.batch,), generator=generator)
        loss = language_loss(lm, pieces(ids, starts, spec.length).to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimiser.step()
        bar.update()
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == spec.steps:
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{spec.key}: the loss is {loss.item()} after {step + 1} steps")
            held_out = held_out_loss(lm, unseen, spec.length, 64)
            history.append({"step": step + 1, "loss": loss.item(), "held_out": held_out})
            bar.set_postfix(loss=f"{loss.item():.3f}", held_out=f"{held_out:.3f}")
            training.save_progress(resume, said, lm, optimiser, generator, {"step": step + 1, "history": history})
        if stop_after is not None and step + 1 >= stop_after:
            raise KeyboardInterrupt
    bar.close()
    record = {
        "spec": asdict(spec),
        "text": text.record(),
        "tokens": len(ids),
        "bytes_per_token": sum(len(t.encode()) for t in text.train) / len(ids),
        "parameters": models.n_parameters(lm),
        "held_out": held_out_loss(lm, unseen, spec.length, 512),
        "unigram": unigram_loss(ids, unseen, spec.vocabulary),
        "history": history,
    }
    draft = folder / f".{spec.key}"
    shutil.rmtree(draft, ignore_errors=True)
    lm.save_pretrained(draft)
    by.save_pretrained(draft)
    (draft / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    draft.rename(place)
    resume.unlink(missing_ok=True)
    return place


def new(config: transformers.PretrainedConfig, seed: int) -> transformers.PreTrainedModel:
    """A language model with random weights that depend on the configuration and `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config)


def pieces(ids: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """(B, length + 1) tokens from each start on: the inputs, and one more for the last prediction."""
    return ids[starts[:, None] + torch.arange(length + 1)]


def language_loss(lm: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, in nats, for (B, T + 1) tokens; in half precision on CUDA."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
        logits = lm(tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def held_out_loss(lm: torch.nn.Module, ids: torch.Tensor, length: int, n: int) -> float:
    """Nats per token on `n` pieces that lie evenly over the held-out text."""
    device = next(lm.parameters()).device
    starts = torch.linspace(0, len(ids) - length - 2, n).long()
    with torch.no_grad():
        losses = [language_loss(lm, pieces(ids, some, length).to(device)).item() * len(some) for some in starts.split(32)]  # fmt: skip
    return sum(losses) / n


def unigram_loss(ids: torch.Tensor, unseen: torch.Tensor, vocabulary: int) -> float:
    """Nats per token on held-out text of a model that knows how frequent each token is, and no more."""
    count = torch.bincount(ids, minlength=vocabulary).double() + 1
    return float(-(count / count.sum()).log()[unseen].mean()) if len(unseen) else math.nan

"""Language models of Pythia's and Mamba's classes, loaded from a hub name or a folder and fine-tuned to track a state.

Tokens and states are mapped as in Li et al. 2025 (arXiv:2503.02854): each action and each state is one token of the model's
own vocabulary where it has one, else one added token; the label stands at every position, and the loss is on labels alone.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from torch import nn

from statedepth import analogue, mixers, models, tasks, training
from statedepth.analogue import ANALOGUES
from statedepth.files import write_whole
from statedepth.tasks import Task
from statedepth.training import Trained, TrainSpec

mixers.install()
transformers.utils.logging.disable_progress_bar()  # loading takes a blink; our own bars say what is long

CLASSES = {"gpt_neox": "GPT-NeoX (Pythia)", "mamba": "Mamba", "mamba2": "Mamba-2"}  # by model_type of the configuration
SIZES = {"EleutherAI/pythia-160m": "0.4 GB", "EleutherAI/pythia-410m": "0.9 GB", "state-spaces/mamba-130m-hf": "0.5 GB"}
STORED = torch.bfloat16  # of fine-tuned weights
BRACKETS = ("()", "[]", "{}", "<>", "«»", "“”", "‘’", "「」")
SHAPES = ("empty", "round", "square", "curly", "angle", "guillemet", "double", "single", "corner")

# One recipe for each class and all tasks: lengths mixed from the start, until it is learned, by the same stop rule.
RECIPES: dict[str, dict[str, Any]] = {
    "gpt_neox": {"steps": 4000, "lr": 1e-3, "grow_at": 0.0, "stop_at": 0.99},
    "mamba": {"steps": 3000, "lr": 2e-3, "grow_at": 0.0, "stop_at": 0.99},
    "mamba2": {"steps": 3000, "lr": 2e-3, "grow_at": 0.0, "stop_at": 0.99},
}
# Settings of training that came after the first published checkpoint, and change nothing at their defaults.
LATER = ("supervision",)
LARGE_MODEL_LR = 5e-5  # of models over 20 million parameters


@dataclass(frozen=True)
class Vocabulary:
    """Which token of a model's vocabulary stands for each action and each state of a task."""

    actions: tuple[int, ...]  # (V,) token ids
    states: tuple[int, ...]  # (K,) token ids
    added: tuple[str, ...]  # names that the vocabulary has no token for; they were given its unused rows
    begin: tuple[int, ...] = ()  # the token that texts begin with, where there is one


def names(task: Task) -> tuple[list[str], list[str]]:
    """What the actions and the states of a task are called in text: (V,) and (K,), all different."""
    if task.name.startswith("dyck-"):
        k = task.vocab_size // 2
        actions = [pair[0] for pair in BRACKETS[:k]] + [pair[1] for pair in BRACKETS[:k]]
        states = list(SHAPES[: k + 1]) if task.target == "top" else [f"{task.target}{i}" for i in range(task.n_outputs)]
        return actions, states
    actions = [str(i) for i in range(task.vocab_size)]
    if task.name == "parity":
        return actions, ["even", "odd"]
    letters = [chr(ord("A") + i) for i in range(26)]
    return actions, letters[: task.n_outputs] if task.n_outputs <= 26 else [f"S{i}" for i in range(task.n_outputs)]


def vocabulary(tokenizer: Any, rows: int, task: Task) -> Vocabulary:
    """Map a task's names to token ids of a tokenizer whose model has `rows` rows in its embedding.

    A name is taken as it stands or after a space; what is no single token gets one of the rows that no token uses.
    Raises ValueError where these are too few.
    """
    used = max(tokenizer.get_vocab().values()) + 1
    added: list[str] = []
    taken: dict[int, str] = {}
    found: list[list[int]] = []
    for kind in names(task):
        ids = []
        for name in kind:
            for text in (name, f" {name}"):
                pieces = tokenizer(text, add_special_tokens=False)["input_ids"]
                if len(pieces) == 1 and pieces[0] not in (*taken, tokenizer.unk_token_id):
                    ids.append(int(pieces[0]))
                    break
            else:
                ids.append(used + len(added))
                added.append(name)
            taken[ids[-1]] = name
        found.append(ids)
    if used + len(added) > rows:
        lacks = f"no token for {', '.join(added)} of {task.name} and " if added else ""
        raise ValueError(
            f"the vocabulary has {lacks}room for {max(0, rows - used)} more "
            f"({used} tokens, {rows} rows); add rows with model.resize_token_embeddings({used + len(added)}) and save it"
        )
    begin = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), None)
    return Vocabulary(tuple(found[0]), tuple(found[1]), tuple(added), () if begin is None else (int(begin),))


class Tuned(nn.Module):
    """A language model as a tracker of a task's state: (B, T) tokens of the task to (B, T, K) logits of its states.

    Strings begin with the token that texts begin with. Without it, attention whose positions are rotary alone sees no
    difference between one 1 and two: all values that it could weigh are the same. `stream` leaves its position out.
    """

    actions: torch.Tensor
    states: torch.Tensor
    begin: torch.Tensor

    def __init__(self, lm: Any, words: Vocabulary) -> None:
        super().__init__()
        self.lm = lm
        self.others = False  # see `models.with_others`
        self.register_buffer("actions", torch.tensor(words.actions), persistent=False)
        self.register_buffer("states", torch.tensor(words.states), persistent=False)
        self.register_buffer("begin", torch.tensor(words.begin, dtype=torch.long), persistent=False)

    @property
    def backbone(self) -> Any:
        """The model without its head; its `layers` are the blocks."""
        return self.lm.base_model

    @property
    def prefix(self) -> int:
        """Positions before those of the tokens."""
        return len(self.begin)

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, D), normalised: what the head reads at the positions of the tokens."""
        begin = self.begin.expand(len(tokens), -1)
        ids = torch.cat([begin, self.actions[tokens]], 1)
        return self.backbone(input_ids=ids, use_cache=False).last_hidden_state[:, self.prefix :]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """The head's rows of the states alone are read: an answer is a state. With `others`, (B, T, K + 1)."""
        head = self.lm.get_output_embeddings()
        if self.others:
            every = head(self.hidden(tokens)).float()
            rest = every.index_fill(-1, self.states, -torch.inf).amax(-1, keepdim=True)
            return torch.cat([every[..., self.states], rest], -1)
        bias = None if getattr(head, "bias", None) is None else head.bias[self.states]
        return F.linear(self.hidden(tokens), head.weight[self.states], bias).float()


def language_loss(model: nn.Module, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over the whole vocabulary at every position, and the logits of the states; mixed precision on CUDA."""
    assert isinstance(model, Tuned)
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
        logits = model.lm.get_output_embeddings()(model.hidden(tokens)).float()
    wanted = model.states[targets]
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten()), logits.detach()[..., model.states]


def whole_vocabulary_accuracy(model: Tuned, task: Task, length: int, n: int = 512) -> float:
    """Share of positions at which the most probable token of all is the right state."""
    batch = task.sample(n, length, torch.Generator().manual_seed(0), "test")
    device = model.states.device
    right = []
    with torch.no_grad():
        for tokens, targets in zip(batch.tokens.split(64), batch.targets.split(64), strict=True):
            answer = model.lm.get_output_embeddings()(model.hidden(tokens.to(device))).argmax(-1)
            right.append((answer == model.states[targets.to(device)]).double().mean(1).cpu())
    return float(torch.cat(right).mean())


# ---- checkpoints of others ------------------------------------------------------------------------------------------


def configuration(checkpoint: str) -> Any:
    """The transformers configuration of a hub name or a folder.

    Raises ValueError for one that is missing (what to fetch, how large it is, where to put it) and for another class.
    """
    config = _reading(checkpoint, lambda: transformers.AutoConfig.from_pretrained(checkpoint, trust_remote_code=False))
    if config.model_type not in CLASSES:
        known = ", ".join(f"{name} ({kind})" for kind, name in CLASSES.items())
        raise ValueError(f"checkpoint={checkpoint!r}: is a {config.model_type}; this claim is about {known}")
    return config


def load(checkpoint: str) -> tuple[Any, Any]:
    """The language model, in single precision, and its tokenizer, of a hub name or a folder; no remote code is run.

    Raises ValueError as `configuration` does, and for a file that is truncated or lacks weights, or has no tokenizer.
    """
    configuration(checkpoint)
    lm, report = _reading(
        checkpoint,
        lambda: transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        ),
    )
    for kind in ("missing_keys", "mismatched_keys"):
        if report[kind]:
            first = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[kind])[0]
            raise ValueError(
                f"checkpoint={checkpoint!r}: {len(report[kind])} weights are {kind.partition('_')[0]}, first {first}; fetch it again"
            )
    deeper = [key for key in report["unexpected_keys"] if (at := re.search(r"layers\.(\d+)\.", str(key))) and int(at[1]) >= lm.config.num_hidden_layers]  # fmt: skip
    if deeper:
        raise ValueError(
            f"checkpoint={checkpoint!r}: has weights of more blocks than the {lm.config.num_hidden_layers} of its "
            "config.json; fetch both again"
        )
    tokenizer = _reading(
        checkpoint, lambda: transformers.AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    )
    if not tokenizer("0", add_special_tokens=False)["input_ids"]:  # as one made up for a folder without its files
        raise ValueError(f"checkpoint={checkpoint!r}: has no tokenizer; put its tokenizer.json beside the weights")
    return lm, tokenizer


def _reading(checkpoint: str, read: Any) -> Any:
    """`read()`, with what may go wrong put into one line that says what to do."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ValueError(
                f"checkpoint={checkpoint!r}: has no config.json; name the folder of a transformers checkpoint"
            )
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint):
        known = ", ".join(ANALOGUES)
        raise ValueError(
            f"checkpoint={checkpoint!r}: no such folder, and no hub name (OWNER/NAME); analogues are {known}"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # making a model draws weights, that are then read
            return read()
    except Exception as error:  # a file of others can be wrong in any way
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if folder.is_dir():
            raise ValueError(f"checkpoint={checkpoint!r}: cannot be read ({why}); fetch its files again") from error
        size, name = SIZES.get(checkpoint, "a few GB"), checkpoint.rpartition("/")[2]
        raise ValueError(
            f"checkpoint={checkpoint!r}: neither in the cache nor to be had from the hub. Fetch it ({size}) where there is "
            f"a network, with: hf download {checkpoint} --local-dir {name}; then put the folder here and name it: "
            f"-p checkpoint {name}"
        ) from error


def fingerprint(checkpoint: str) -> str:
    """Of the files in a folder, so that others under the same name are another checkpoint; a hub name is its own."""
    folder = Path(checkpoint)
    kinds = ("*.safetensors", "*.bin", "config.json", "tokenizer*.json")
    files = sorted(path for kind in kinds for path in folder.glob(kind))
    found = [_hash_of(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256("".join(found).encode()).hexdigest()[:16] if files else checkpoint


@lru_cache(maxsize=64)
def _hash_of(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- fine-tuning ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tuning:
    """A task, a language model and a recipe: all that decides a fine-tuned model's weights.

    `base` is the name of an analogue, a hub name, or a folder; `pretrained` False keeps its architecture and starts from
    random weights. Raises ValueError for an unknown task or class, and for lengths of which a split has no string.
    """

    task: str
    base: str = field(repr=False)  # where it is may change
    family: str = ""  # gpt_neox | mamba | mamba2
    pretrained: bool = True
    seed: int = 0  # of the order of the training data, and of the weights where they are random
    train: TrainSpec = field(default_factory=TrainSpec)
    identity: str = ""  # what the base is beside its name: an analogue's settings, a folder's weights

    def __post_init__(self) -> None:
        training.splits_hold(self.task, self.train.min_length, self.train.length)
        if self.family not in CLASSES:
            raise ValueError(f"family={self.family!r}: must be one of {', '.join(CLASSES)}")

    @property
    def name(self) -> str:
        """Of the base, without its place."""
        return re.sub(r"[^\w.-]", "-", self.base.rstrip("/").rpartition("/")[2])

    @property
    def key(self) -> str:
        """File name of the checkpoint; settings of `LATER` are part of it where they are not at their defaults."""
        usual = asdict(TrainSpec())
        train = {k: v for k, v in asdict(self.train).items() if k not in LATER or v != usual[k]}
        said = {**asdict(self), "base": self.name, "train": train}
        code = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.task}-{self.name}-{'pretrained' if self.pretrained else 'scratch'}-{self.seed}-{code}"

    @property
    def taps(self) -> int:
        """As of the formal models: the window that is drawn beside every profile is the same for all."""
        return 4

    def config(self) -> Any:
        """The transformers configuration of the base."""
        return ANALOGUES[self.base].config() if self.base in ANALOGUES else configuration(self.base)

    def untrained(self, device: str = "cpu") -> Trained:
        """The same architecture with other random weights, never trained."""
        task = tasks.named(self.task)
        lm = analogue.new(self.config(), (self.seed + 1_000_003) % 2**31)
        # Which row stands for a token means nothing where all are random.
        words = Vocabulary(tuple(range(task.vocab_size)), tuple(range(task.n_outputs)), (), (task.vocab_size,))
        return Trained(Tuned(lm, words).eval().to(device), task, self, [])


def tuning(task: str, base: str, pretrained: bool, seed: int, **changes: Any) -> Tuning:
    """The run of a task on a base, by the recipe of its class with `changes`. ValueError for a base that cannot be read."""
    if base in ANALOGUES:
        family, identity = ANALOGUES[base].family, ANALOGUES[base].key
        large = False
    else:
        config = configuration(base)
        family, identity = config.model_type, fingerprint(base)
        large = config.hidden_size**2 * config.num_hidden_layers * 6 > 2e7
    settings = {**RECIPES[family], **({"lr": LARGE_MODEL_LR} if large and pretrained else {}), **changes}
    return Tuning(task, base, family, pretrained, seed, TrainSpec(**settings), identity)


def start(run: Tuning, bases: Path, device: str = "cpu") -> tuple[Tuned, Vocabulary, dict[str, Any]]:
    """The model before fine-tuning, its vocabulary, and what is known of its base; an analogue is pretrained if need be.

    Raises ValueError as `load` and `vocabulary` do, before any training of the task.
    """
    about: dict[str, Any] = {"checkpoint": run.name}
    if run.base in ANALOGUES:
        spec = ANALOGUES[run.base]
        if run.pretrained:
            place = analogue.pretrain(spec, bases, device)
            lm, tokenizer = load(str(place))
            record = json.loads((place / "record.json").read_text())
            about |= {k: record[k] for k in ("text", "held_out", "unigram", "history")}
            about["tokens_seen"] = spec.steps * spec.batch * spec.length
        else:
            lm, tokenizer = analogue.new(spec.config(), run.seed), analogue.tokenizer_of(spec)
    elif run.pretrained:
        lm, tokenizer = load(run.base)
    else:
        _, tokenizer = load(run.base)
        lm = analogue.new(run.config(), run.seed)
    words = vocabulary(tokenizer, lm.get_input_embeddings().num_embeddings, tasks.named(run.task))
    for module in lm.modules():  # in training mode, for which Mamba has the faster path, but without dropout
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return Tuned(lm, words).to(device).train(), words, about


def fine_tune(
    run: Tuning, folder: Path, bases: Path, device: str = "cpu", progress: bool = True, stop_after: int | None = None
) -> Trained:
    """Fine-tune all weights by `training.fit`, and write the checkpoint; goes on where an interrupted run left off."""
    task = tasks.named(run.task)
    model, words, about = start(run, bases, device)
    resume = folder / f"{run.key}.resume.safetensors"
    history = training.fit(model, run, resume, language_loss, progress, stop_after)
    model.eval()
    training.round_to(model, STORED)
    accuracy = {length: training.evaluate(model, task, length) for length in training.lengths_beyond(run.train.length)}
    trained = Trained(model, task, run, history, accuracy)
    about["whole_vocabulary"] = whole_vocabulary_accuracy(model, task, run.train.length)
    save(trained, words, about, folder)
    resume.unlink(missing_ok=True)
    return trained


def _state(lm: Any) -> dict[str, torch.Tensor]:
    """The weights by name, one name for each: tied ones once."""
    kept: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in lm.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            kept[name] = value
    return kept


def save(trained: Trained, words: Vocabulary, about: Mapping[str, Any], folder: Path) -> Path:
    """Write KEY.safetensors in bfloat16 and, after it, KEY.json: the run, the base, the mapping, the record, the hash."""
    run, model = trained.run, trained.model
    assert isinstance(run, Tuning) and isinstance(model, Tuned)
    weights = folder / f"{run.key}.safetensors"
    tensors = {k: v.detach().to("cpu", STORED).contiguous() for k, v in _state(model.lm).items()}
    write_whole(weights, lambda draft: draft.write_bytes(safetensors.torch.save(tensors)))
    record = {
        "run": {**asdict(run), "base": run.base if run.base in ANALOGUES else run.name},
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": models.n_parameters(model),
        "config": {k: v for k, v in model.lm.config.to_dict().items() if k != "_name_or_path"},
        "vocabulary": asdict(words),
        "about": dict(about),
        "history": trained.history,
        "accuracy": trained.accuracy,
    }
    write_whole(folder / f"{run.key}.json", lambda draft: draft.write_text(json.dumps(record, indent=1) + "\n"))
    return weights


def record_of(run: Tuning, folder: Path) -> dict[str, Any]:
    """The record of a fine-tuned checkpoint. FileNotFoundError where there is none; ValueError where it is another's."""
    path = folder / f"{run.key}.json"
    if not path.exists():
        raise FileNotFoundError(f"{path.name}: no such checkpoint in {folder}")
    try:
        record = json.loads(path.read_text())
        said = record["run"]
        stored = Tuning(**{**said, "train": TrainSpec(**said["train"])})
        task, words = tasks.named(stored.task), Vocabulary(**{k: tuple(v) for k, v in record["vocabulary"].items()})
        rows = int(record["config"]["vocab_size"])
        if (len(words.actions), len(words.states)) != (task.vocab_size, task.n_outputs):
            raise ValueError("a vocabulary of another task")
        if not all(isinstance(i, int) and 0 <= i < rows for i in (*words.actions, *words.states, *words.begin)):
            raise ValueError(f"a vocabulary with rows beyond {rows}")
        if not record["accuracy"] or not all(int(n) == len(values) for n, values in record["accuracy"].items()):
            raise ValueError("accuracies of other lengths")
        if not record["history"] or record["config"]["model_type"] != stored.family:
            raise ValueError("another class, or no history")
        record["sha256"], record["about"]["whole_vocabulary"], record["parameters"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: not a readable record of a checkpoint ({error}); delete it") from error
    if stored.key != run.key or stored.train != run.train:
        raise ValueError(f"{path.name}: describes another run than {run}; delete it")
    return record


def load_tuned(run: Tuning, folder: Path, device: str = "cpu") -> Trained:
    """The checkpoint of exactly this run; it needs nothing of the base.

    FileNotFoundError if there is none; ValueError, by name, if it is not what it says it is.
    """
    record, weights = record_of(run, folder), folder / f"{run.key}.safetensors"
    again = "delete both files of this name and run again to train it anew"
    if not weights.exists():
        raise FileNotFoundError(f"{weights.name}: no such checkpoint in {folder}")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != record["sha256"]:
        raise ValueError(f"{weights.name}: does not match the hash in {run.key}.json; {again}")
    try:
        lm: Any = analogue.new(transformers.AutoConfig.for_model(**record["config"]), 0)
        tensors = {k: v.float() for k, v in safetensors.torch.load_file(weights).items()}
        if set(tensors) != set(_state(lm)):
            raise ValueError("other names")
        lm.load_state_dict(tensors, strict=False)  # tied weights have one name there, and two here
    except Exception as error:  # as for a file of others
        raise ValueError(f"{weights.name}: does not fit the model that its record describes ({error}); {again}") from error  # fmt: skip
    words = Vocabulary(**{k: tuple(v) for k, v in record["vocabulary"].items()})
    accuracy = {int(length): values for length, values in record["accuracy"].items()}
    return Trained(Tuned(lm, words).eval().to(device), tasks.named(run.task), run, record["history"], accuracy)


def bases_of(runs: Sequence[Tuning]) -> list[str]:
    """The analogues whose pretrained weights these runs start from, each once."""
    return list(dict.fromkeys(run.base for run in runs if run.pretrained and run.base in ANALOGUES))

"""Pretrained checkpoints: read as they are or refused by name, one row for each name, fine-tuned to the same bits."""

import hashlib
import json
import os
import pickle
import re
import shutil
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import huggingface_hub.constants
import pytest
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F
import transformers

from statedepth import analogue, models, pretrained, tasks, training
from statedepth.analogue import Analogue, Text
from statedepth.pretrained import CLASSES, Tuned, Tuning, Vocabulary
from statedepth.stream import between, run_from, stream
from statedepth.training import TrainSpec

torch.set_num_threads(1)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
transformers.utils.logging.set_verbosity_error()

L, ROWS, STEPS = 3, 320, 12
REAL_EVALUATE = training.evaluate
every_family = pytest.mark.parametrize("family", CLASSES)
every_site = pytest.mark.parametrize("site", range(L + 1))
TASKS = ["parity", "S3", "A4", "Z6", "dyck-2-4", "dyck-2-4-depth", "dyck-8-2", "S4", "S5"]
MORE_TASKS = ["S2", "A5", "Z26", "Z27", "Z120", "dyck-1-8", "dyck-2-4-openers", "dyck-8-2-first"]


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch):
    """Few test sequences, and a point to go on from at every fifth step."""
    monkeypatch.setattr(training, "evaluate", partial(REAL_EVALUATE, n=64))
    monkeypatch.setattr(training, "SAVE_EVERY", 5)


# ---- tokenizers and models, made by hand ----------------------------------------------------------------------------

BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def bpe(*words, special=(), alphabet=BYTES):
    """A byte-level tokenizer in which these words are tokens; Ġx is x after a space."""
    vocab, merges = {letter: i for i, letter in enumerate(alphabet)}, []
    for word in words:
        made = word[0]
        for letter in word[1:]:
            if made + letter not in vocab:
                merges.append((made, letter))
                vocab[made + letter] = len(vocab)
            made += letter
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return wrapped(backend)


def whole_words(*words, unknown="<unk>"):
    """A tokenizer of whole words, in which all others are one and the same token."""
    vocab = {word: i for i, word in enumerate([unknown, *words])}
    return wrapped(tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=unknown)), unk_token=unknown)


def wrapped(backend, **options):
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def config_of(family, **changes):
    common = {"vocab_size": ROWS, "hidden_size": 16, "num_hidden_layers": L, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt_neox":
        kind, own = transformers.GPTNeoXConfig, {"num_attention_heads": 2, "intermediate_size": 32}
    elif family == "mamba":
        kind, own = transformers.MambaConfig, {"state_size": 4, "pad_token_id": 0}
    else:
        own = {"state_size": 4, "pad_token_id": 0, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 32}
        kind = transformers.Mamba2Config
    return kind(**{**common, **own, **changes})


def lm_of(family, seed=0, **changes):
    """A model none of whose weights is a one or a zero, norms and biases among them, as after pretraining."""
    lm, generator = analogue.new(config_of(family, **changes), seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in lm.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return lm.eval()


def written(lm, by, folder):
    lm.save_pretrained(folder)
    by.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def originals():
    return {family: lm_of(family) for family in CLASSES}


@pytest.fixture(scope="module")
def places(originals, tmp_path_factory):
    """A folder with a whole checkpoint of each class; tests that damage one work on a copy."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: written(lm, bpe("Ġeven"), root / family) for family, lm in originals.items()}


@pytest.fixture
def copy_of(places, tmp_path):
    """A copy of a class's checkpoint, to damage."""
    return lambda family="gpt_neox", name="copy": shutil.copytree(places[family], tmp_path / name)


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = change(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def refused(folder):
    """Why a checkpoint is refused, in one line that begins with what was asked for."""
    asked = f"checkpoint={str(folder)!r}: "
    with pytest.raises(ValueError, match=re.escape(asked)) as error:
        pretrained.load(str(folder))
    assert str(error.value).startswith(asked) and "\n" not in str(error.value)
    return str(error.value).removeprefix(asked)


IDS = torch.randint(ROWS, (2, 9), generator=torch.Generator().manual_seed(0))


def answers(lm, ids=IDS):
    with torch.no_grad():
        return lm(ids).logits


# ---- names and rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS + MORE_TASKS)
def test_every_action_and_every_state_has_a_name_of_its_own(task):
    task = tasks.named(task)
    actions, states = pretrained.names(task)
    assert (len(actions), len(states)) == (task.vocab_size, task.n_outputs)
    assert len({*actions, *states}) == len(actions) + len(states)
    assert all(name == name.strip() != "" for name in (*actions, *states))


def test_brackets_are_named_by_brackets_and_a_state_by_the_shape_on_top():
    actions, states = pretrained.names(tasks.dyck(2, 4))
    assert (actions, states) == (["(", "[", ")", "]"], ["empty", "round", "square"])


def test_a_name_that_is_a_token_is_taken_as_it_stands_or_after_a_space():
    by = bpe("even", "Ġodd")
    words = pretrained.vocabulary(by, ROWS, tasks.parity())
    assert [by.decode([i]) for i in words.actions + words.states] == ["0", "1", "even", " odd"]
    assert words.added == ()


def test_a_name_as_it_stands_comes_before_one_after_a_space():
    by = bpe("odd", "Ġ1")
    words = pretrained.vocabulary(by, ROWS, tasks.parity())
    assert [by.decode([i]) for i in (*words.actions, words.states[1])] == ["0", "1", "odd"]


def test_a_name_of_several_pieces_gets_a_row_that_no_token_uses():
    by = bpe("odd", special=["<|padding|>"])
    words = pretrained.vocabulary(by, ROWS, tasks.parity())
    assert words.added == ("even",)
    assert words.states[0] == len(by) == max(by.get_vocab().values()) + 1
    assert words.states[0] not in by.get_vocab().values() and words.states[1] == by.get_vocab()["odd"]


def test_a_mark_that_the_tokenizer_sets_before_every_text_is_no_piece_of_a_name():
    by = bpe("Ġeven", "odd", special=["<s>"])
    mark = ("<s>", by.convert_tokens_to_ids("<s>"))
    by.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[mark])
    assert len(by("odd")["input_ids"]) == 2
    assert pretrained.vocabulary(by, ROWS, tasks.parity()).added == ()


def one_for_all():
    """Of letters: it makes a lower-case one of every capital."""
    by = bpe("even", "Ġodd", "Ġ1", "10")
    by.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    return by


TOKENIZERS = {
    "bytes": bpe,
    "words": lambda: bpe("10", "11", "Ġ12", "empty", "Ġround", "Ġdepth0", "S1", "«"),
    "lower case": one_for_all,
    "unknown": whole_words,
}


@pytest.mark.parametrize("by", TOKENIZERS)
@pytest.mark.parametrize("task", TASKS + MORE_TASKS)
def test_no_two_names_share_a_row(task, by):
    task, by = tasks.named(task), TOKENIZERS[by]()
    words = pretrained.vocabulary(by, 1000, task)
    ids = words.actions + words.states
    assert (len(words.actions), len(words.states)) == (task.vocab_size, task.n_outputs)
    assert len(set(ids)) == len(ids) and min(ids) >= 0 and max(ids) < 1000
    assert sum(i > max(by.get_vocab().values()) for i in ids) == len(words.added)


def test_a_name_that_the_tokenizer_does_not_know_is_not_taken_for_the_unknown_token():
    by = whole_words("0", "1", "odd")
    words = pretrained.vocabulary(by, 10, tasks.parity())
    assert words.added == ("even",)
    assert by.unk_token_id not in words.actions + words.states


@pytest.mark.parametrize("task", TASKS)
def test_a_vocabulary_that_is_exactly_full_works_and_one_row_fewer_is_refused_with_the_names_and_the_room(task):
    """Of all names, this tokenizer has none."""
    task, by = tasks.named(task), bpe(alphabet="x")
    words = pretrained.vocabulary(by, 1000, task)
    assert list(words.added) == [name for kind in pretrained.names(task) for name in kind]
    need, room = len(by) + len(words.added), len(words.added) - 1
    assert pretrained.vocabulary(by, need, task) == words
    message = rf"no token for {re.escape(', '.join(words.added))} of {task.name} and room for {room} more \(1 tokens, {need - 1} rows\).*{need}"
    with pytest.raises(ValueError, match=message):
        pretrained.vocabulary(by, need - 1, task)


def test_a_full_vocabulary_that_has_every_name_works():
    by = bpe("even", "odd")
    assert pretrained.vocabulary(by, len(by), tasks.parity()).added == ()


def test_fewer_rows_than_tokens_are_not_refused_for_the_lack_of_no_name():
    by = bpe("even", "odd")
    with pytest.raises(ValueError, match=rf"{len(by)} tokens, {len(by) - 1} rows") as error:
        pretrained.vocabulary(by, len(by) - 1, tasks.parity())
    assert "no token for  of parity" not in str(error.value)


def never(*_, **__):
    raise AssertionError("this was not to be done")


def tuning(base, task="parity", start=True, seed=0, **changes):
    train = {"length": 8, "steps": STEPS, "batch": 8, "lr": 1e-2, "min_length": 4, "stop_at": 0.0, **changes}
    return pretrained.tuning(task, str(base), start, seed, **train)


def fine_tuned(run, folder, bases=None, **options):
    return pretrained.fine_tune(run, folder, bases or folder / "bases", progress=False, **options)


@pytest.mark.parametrize("start", [True, False])
def test_too_few_rows_are_refused_before_any_training(tmp_path, monkeypatch, start):
    by = bpe("Ġeven")
    written(lm_of("mamba", vocab_size=len(by)), by, tmp_path / "full")
    monkeypatch.setattr(training, "fit", never)
    with pytest.raises(ValueError, match="no token for odd of parity and room for 0 more"):
        fine_tuned(tuning(tmp_path / "full", start=start), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- checkpoints of others ------------------------------------------------------------------------------------------


@every_family
def test_a_checkpoint_gives_back_the_model_and_the_tokenizer_that_were_written(family, originals, places):
    lm, by = pretrained.load(str(places[family]))
    assert torch.equal(answers(lm), answers(originals[family]))
    text = "even more (odd) «things» 0 1"
    assert by(text)["input_ids"] == bpe("Ġeven")(text)["input_ids"]
    assert not lm.training


@every_family
def test_half_precision_is_read_as_the_same_numbers_in_single(family, tmp_path):
    lm = lm_of(family).to(torch.bfloat16)
    again, _ = pretrained.load(str(written(lm, bpe(), tmp_path)))
    assert {weights.dtype for weights in again.parameters()} == {torch.float32}
    there = dict(lm.named_parameters())
    assert all(torch.equal(weights, there[name].float()) for name, weights in again.named_parameters())


def test_files_laid_out_as_pythias_are_read(copy_of, originals):
    """On the hub they hold, beside the weights, buffers that transformers computes anew."""
    folder, mask = copy_of("gpt_neox"), torch.ones(1, 1, 32, 32).bool().tril()
    at = [f"gpt_neox.layers.{i}.attention" for i in range(L)]
    buffers = {f"{a}.bias": mask.clone() for a in at} | {f"{a}.masked_bias": torch.tensor(-1e9) for a in at}
    change_weights(
        folder, lambda tensors: {**tensors, **buffers, **{f"{a}.rotary_emb.inv_freq": torch.ones(1) for a in at}}
    )
    assert "embed_out.weight" in safetensors.torch.load_file(folder / "model.safetensors")
    assert torch.equal(answers(pretrained.load(str(folder))[0]), answers(originals["gpt_neox"]))


def test_weights_tied_in_the_file_are_tied_in_the_model(places):
    assert "lm_head.weight" not in safetensors.torch.load_file(places["mamba"] / "model.safetensors")
    lm, _ = pretrained.load(str(places["mamba"]))
    assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight


@every_family
def test_reading_leaves_the_global_random_state_as_it_was(family, places):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    pretrained.load(str(places[family]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_of_another_class_is_refused_with_its_class_and_those_that_are_known(tmp_path):
    config = transformers.GPT2Config(vocab_size=ROWS, n_embd=16, n_layer=2, n_head=2)
    written(analogue.new(config, 0), bpe(), tmp_path)
    message = refused(tmp_path)
    assert "is a gpt2" in message
    assert all(kind in message and name in message for kind, name in CLASSES.items())


@pytest.mark.parametrize("part", [0, 4, 100, 0.1, 0.5, 0.9, -1])
@every_family
def test_cut_weights_are_refused(family, part, copy_of):
    folder = copy_of(family)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(part * len(data)) if 0 < part < 1 else part])
    assert "cannot be read" in refused(folder)


@pytest.mark.parametrize("part", [0, 10, 0.5, 0.99])
def test_cut_weights_in_pytorchs_own_format_are_refused(part, copy_of, originals):
    folder = copy_of()
    (folder / "model.safetensors").unlink()
    weights = folder / "pytorch_model.bin"
    torch.save(originals["gpt_neox"].state_dict(), weights)
    assert torch.equal(answers(pretrained.load(str(folder))[0]), answers(originals["gpt_neox"]))
    data = weights.read_bytes()
    weights.write_bytes(data[: int(part * len(data)) if part < 1 else part])
    assert "cannot be read" in refused(folder)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight"),
        ("gpt_neox", "gpt_neox.final_layer_norm.bias"),
        ("mamba", "backbone.layers.0.mixer.A_log"),
        ("mamba", "backbone.embeddings.weight"),
        ("mamba2", "lm_head.weight"),
    ],
)
def test_a_file_that_lacks_a_weight_is_refused_by_its_name(family, name, copy_of):
    folder = copy_of(family)
    change_weights(folder, lambda tensors: {n: t for n, t in tensors.items() if n != name})
    assert name in refused(folder)


@pytest.mark.parametrize(("family", "name"), [("gpt_neox", "gpt_neox.layers.1.mlp.dense_h_to_4h.bias"), ("mamba", "backbone.layers.0.mixer.D")])  # fmt: skip
def test_a_weight_of_another_shape_is_refused_by_its_name(family, name, copy_of):
    folder = copy_of(family)
    change_weights(folder, lambda tensors: {**tensors, name: tensors[name][:-1].clone()})
    assert name in refused(folder)


def test_a_folder_without_weights_is_refused(copy_of):
    folder = copy_of()
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(folder)


def test_a_folder_without_a_configuration_is_refused(copy_of, tmp_path):
    folder = copy_of()
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"model_type": "gpt_ne',
        "null",
        "[]",
        "{}",
        '{"model_type": "no such class"}',
        '{"model_type": "gpt_neox", "hidden_size": "wide"}',
        '{"model_type": "gpt_neox", "hidden_size": 17, "num_attention_heads": 2}',
        '{"model_type": "gpt_neox", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}',
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(text, copy_of):
    folder = copy_of()
    (folder / "config.json").write_text(text)
    refused(folder)


@every_family
def test_a_folder_without_a_tokenizer_is_refused(family, copy_of):
    """Without one, no name is a token, and the rows of real tokens would be taken for unused ones."""
    folder = copy_of(family)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]
    assert "tokenizer" in refused(folder)


@pytest.mark.parametrize("part", [0, 1, 0.1, 0.5, 0.9, -2])
def test_a_cut_tokenizer_is_refused(part, copy_of):
    folder = copy_of()
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text[: int(part * len(text)) if 0 < part < 1 else part])
    refused(folder)


@pytest.mark.parametrize("text", ["{}", "null"])
def test_a_tokenizer_that_is_none_is_refused(text, copy_of):
    folder = copy_of()
    (folder / "tokenizer.json").write_text(text)
    refused(folder)


@pytest.mark.parametrize("name", ["nope", "gpt2", "/no/such/folder", "a/b/c", "~/model", "https://hub/a/b", "a/b c"])
def test_what_is_neither_a_folder_nor_a_hub_name_is_refused_with_the_analogues_names(name, monkeypatch):
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", never)
    message = refused(name)
    assert "no such folder" in message
    assert all(known in message for known in analogue.ANALOGUES)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Nothing is in the cache and nothing can be fetched."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("name", "size"), [*pretrained.SIZES.items(), ("somebody/some-model", "a few GB")])
def test_a_hub_name_that_cannot_be_reached_says_what_to_fetch_how_large_it_is_and_where_to_put_it(
    name, size, no_network, copy_of, monkeypatch, tmp_path, originals
):
    message = refused(name)
    assert size in message
    there = re.search(rf"hf download {name} --local-dir (\S+);.*-p checkpoint (\S+)$", message)
    assert there and there[1] == there[2]
    copy_of(name=there[1])  # as if it had been done
    monkeypatch.chdir(tmp_path)
    assert torch.equal(answers(pretrained.load(there[2])[0]), answers(originals["gpt_neox"]))


def test_an_error_of_the_network_is_told_as_one(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Connection reset by peer")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    assert "hf download EleutherAI/pythia-160m" in refused("EleutherAI/pythia-160m")


def test_a_folder_that_looks_like_a_hub_name_is_a_folder(no_network, copy_of, monkeypatch, tmp_path, originals):
    copy_of("mamba", "EleutherAI/pythia-160m")
    monkeypatch.chdir(tmp_path)
    lm, _ = pretrained.load("EleutherAI/pythia-160m")
    assert torch.equal(answers(lm), answers(originals["mamba"]))


# ---- code in a checkpoint ---------------------------------------------------------------------------------------------

PLANTED = """
from pathlib import Path
import transformers
Path({marker!r}).touch()
class Config(transformers.GPTNeoXConfig):
    model_type = "planted"
class Model(transformers.GPTNeoXForCausalLM):
    config_class = Config
class Words(transformers.PreTrainedTokenizerFast):
    pass
def generate(*_, **__):
    pass
"""
CODE = {"AutoConfig": "planted.Config", "AutoModelForCausalLM": "planted.Model"}


@pytest.fixture
def with_code(copy_of, tmp_path, monkeypatch):
    """(folder, marker): a checkpoint whose code makes the file `marker` when it is run."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, marker = copy_of(), tmp_path / "ran"
    code = PLANTED.format(marker=str(marker))
    (folder / "planted.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    return folder, marker


def test_the_planted_code_would_run_where_it_is_trusted(with_code):
    folder, marker = with_code
    change_json(folder / "config.json", model_type="planted", auto_map=CODE)
    transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize("kind", ["gpt_neox", "planted", None])
def test_code_in_a_checkpoint_is_never_run(kind, with_code):
    folder, marker = with_code
    change_json(folder / "config.json", model_type=kind, auto_map=CODE, architectures=["Model"])
    words = {"AutoTokenizer": ["planted.Words", "planted.Words"]}
    change_json(folder / "tokenizer_config.json", auto_map=words, tokenizer_class="Words")
    if kind == "gpt_neox":  # a class that is known is read by transformers' own code
        lm, _ = pretrained.load(str(folder))
        assert type(lm) is transformers.GPTNeoXForCausalLM
    else:
        refused(folder)
    assert not marker.exists()


class Plant:
    """Unpickled, it makes the file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("how", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_code_in_a_pickle_of_weights_is_never_run_and_the_file_is_refused(how, with_code):
    folder, marker = with_code
    (folder / "model.safetensors").unlink()
    how({"gpt_neox.embed_in.weight": Plant(marker)}, folder / "pytorch_model.bin")
    try:
        refused(folder)
    finally:
        assert not marker.exists()


# ---- the tracker and its sites ----------------------------------------------------------------------------------------

S3 = tasks.symmetric(3)
TOKENS = torch.randint(6, (3, 9), generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(6, (3, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[(), (7,)], ids=["as it is", "begun"])
def model(family, originals, request):
    words = replace(pretrained.vocabulary(bpe(), ROWS, S3), begin=request.param)
    return Tuned(originals[family], words).eval()


def block_by_hand(model, block, h):
    """One block called on its own."""
    body, length = model.lm.base_model, h.shape[1]
    if not hasattr(body, "rotary_emb"):
        return block(h)
    later = torch.full((length, length), float("-inf")).triu(1)[None, None]
    return block(h, attention_mask=later, position_embeddings=body.rotary_emb(h, torch.arange(length)[None]))


def answer_by_hand(model, h):
    body = model.lm.base_model
    norm = getattr(body, "norm_f", None) or body.final_layer_norm
    return model.lm.get_output_embeddings()(norm(h))[..., list(model.states)]


def by_hand(model, h, site=0, edit=None):
    """The stream at each site from `site` on, where it is `h`, with `edit` applied; and the logits.

    The token that texts begin with goes before, through all blocks, and is in nothing that comes out.
    """
    edit, found, blocks = edit or {}, {site: h}, list(model.lm.base_model.layers)
    before = model.lm.get_input_embeddings().weight[model.begin][None]
    for block in blocks[:site] if len(model.begin) else ():
        before = block_by_hand(model, block, before)
    whole = torch.cat([before.expand(len(h), -1, -1), h], 1)
    for above, block in enumerate(blocks[site:], start=site + 1):
        whole = block_by_hand(model, block, whole)
        p = len(model.begin)
        found[above] = edit.get(above, lambda h: h)(whole[:, p:])
        whole = torch.cat([whole[:, :p], found[above]], 1)
    return found, answer_by_hand(model, found[len(blocks)])


def kept(model, keep=range(L + 1), edit=None, tokens=TOKENS):
    with torch.no_grad(), stream(model, keep, edit) as found:
        out = model(tokens)
    return found, out


def close(a, b):
    return torch.allclose(a, b, atol=1e-5)


def replacement(seed=2):
    return torch.randn(*TOKENS.shape, 16, generator=torch.Generator().manual_seed(seed))


@every_family
def test_site_0_is_the_embedding_and_site_l_the_raw_output_of_block_l(model):
    found, out = kept(model)
    with torch.no_grad():
        embedding = model.lm.get_input_embeddings().weight[model.actions[TOKENS]]
        expected, logits = by_hand(model, embedding)
    assert torch.equal(found[0], embedding)
    assert found.keys() == expected.keys() == set(range(L + 1))
    assert all(close(found[site], expected[site]) for site in found)
    assert close(out, logits)
    assert not any(torch.allclose(found[site], found[site + 1], atol=1e-2) for site in range(L))


def test_the_token_that_texts_begin_with_is_the_tokenizers_own():
    begins, ends, neither = (bpe(), bpe(), bpe())
    begins.add_special_tokens({"bos_token": "<b>", "eos_token": "<e>"})
    ends.add_special_tokens({"eos_token": "<e>"})
    found = [pretrained.vocabulary(by, 400, S3).begin for by in (begins, ends, neither)]
    assert found == [(begins.bos_token_id,), (ends.eos_token_id,), ()]


def test_with_it_attention_by_rotary_positions_alone_tells_one_1_from_two(originals):
    """Without it, all values that attention could weigh are the same: every prefix of ones gives one answer."""
    words = pretrained.vocabulary(bpe(), ROWS, tasks.parity())
    ones = torch.ones(1, 5, dtype=torch.long)
    apart = []
    for begin in ((), (7,)):
        with torch.no_grad():
            out = Tuned(originals["gpt_neox"], replace(words, begin=begin)).eval()(ones)[0]
        apart.append(float((out[1:] - out[:-1]).abs().max()))
    assert apart[0] < 1e-5 and apart[1] > 1e-3


@every_family
def test_the_last_site_is_before_the_final_norm(model):
    found, out = kept(model)
    with torch.no_grad():
        assert close(answer_by_hand(model, found[L]), out)
        unnormed = model.lm.get_output_embeddings()(found[L])[..., model.states]
    assert not torch.allclose(unnormed, out, atol=1e-2)


@every_family
def test_keeping_leaves_the_logits_bitwise_as_they_are(model):
    with torch.no_grad():
        assert torch.equal(kept(model)[1], model(TOKENS))


@every_family
@every_site
def test_running_from_a_site_is_running_the_later_blocks_by_hand_and_the_edit_bit_for_bit(model, site):
    h = replacement()
    with torch.no_grad():
        out = run_from(model, site, h, TOKENS)
        assert close(out, by_hand(model, h, site)[1])
    assert (close if model.prefix else torch.equal)(out, kept(model, [], {site: lambda _: h})[1])
    assert not close(out, kept(model)[1])


@every_family
@pytest.mark.parametrize(("site", "last"), [(0, 1), (0, 3), (1, 2), (1, 3), (2, 3)])
def test_between_two_sites_edits_act_as_by_hand(model, site, last):
    h, edit = replacement(), {above: lambda h: 2 * h.roll(1, -1) for above in range(site + 1, last + 1)}
    with torch.no_grad():
        assert close(between(model, site, last, h, TOKENS), by_hand(model, h, site)[0][last])
        edited = between(model, site, last, h, TOKENS, edit)
        assert close(edited, by_hand(model, h, site, edit)[0][last])
    assert (close if model.prefix else torch.equal)(edited, kept(model, [last], {site: lambda _: h, **edit})[0][last])


@every_family
def test_only_the_blocks_that_are_needed_run(model, monkeypatch):
    model.begin = model.begin[:0]  # which would run through all blocks by itself
    blocks, ran = list(models.blocks(model)), []
    kind = type(blocks[0])
    real = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: ran.append(blocks.index(self)) or real(self, *a, **k))
    with torch.no_grad():
        run_from(model, 2, replacement(), TOKENS)
        assert ran == [2]
        between(model, 0, 2, replacement(), TOKENS)
        assert ran == [2, 0, 1]
        model(TOKENS)
    assert ran == [2, 0, 1, 0, 1, 2]


@every_family
@every_site
def test_an_edit_at_one_position_leaves_earlier_logits_bitwise_alone_and_changes_later_ones(model, site):
    def nudge(h):
        h = h.clone()
        h[:, 5] += torch.linspace(-1, 1, h.shape[-1])
        return h

    before, after = kept(model)[1], kept(model, [], {site: nudge})[1]
    assert torch.equal(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5], before[:, 5], atol=1e-4)
    assert torch.equal(after[:, 6:], before[:, 6:]) == (site == L)


# ---- answers and their loss ----------------------------------------------------------------------------------------------


def words_of(model, tokens):
    """(B, T, vocabulary) logits of the whole language model on the same text."""
    ids = torch.cat([model.begin.expand(len(tokens), -1), model.actions[tokens]], 1)
    return model.lm(ids).logits[:, len(model.begin) :]


@every_family
def test_the_trackers_logits_are_the_language_models_own_at_the_states(model):
    with torch.no_grad():
        whole = words_of(model, TOKENS)
        assert model(TOKENS).shape == (3, 9, 6)
        assert close(model(TOKENS), whole[..., list(model.states)])


def test_a_head_with_a_bias_is_read_with_it():
    model = Tuned(lm_of("gpt_neox"), pretrained.vocabulary(bpe(), ROWS, S3)).eval()
    head = torch.nn.Linear(16, ROWS)
    model.lm.set_output_embeddings(head)
    with torch.no_grad():
        head.bias.copy_(torch.arange(ROWS))
        assert torch.allclose(model(TOKENS), model.lm(model.actions[TOKENS]).logits[..., list(model.states)])


def loss_by_hand(model, tokens, targets):
    """Minus the logarithm of the probability, among all tokens, of the state's; the mean over rows and positions."""
    logits = words_of(model, tokens)
    total = 0.0
    for row, wanted in zip(logits, targets, strict=True):
        for at, state in zip(row, wanted, strict=True):
            total = total - (at[model.states[state]] - at.exp().sum().log())
    return total / targets.numel()


@every_family
def test_the_loss_is_the_cross_entropy_over_the_whole_vocabulary_at_every_position(model):
    with torch.no_grad():
        loss, out = pretrained.language_loss(model, TOKENS, TARGETS)
        assert loss.item() == pytest.approx(loss_by_hand(model, TOKENS, TARGETS).item(), abs=1e-5)
        assert loss > F.cross_entropy(model(TOKENS).flatten(0, 1), TARGETS.flatten())  # which is among the states alone
        assert close(out, model(TOKENS))
        for t in range(TOKENS.shape[1]):
            other = TARGETS.clone()
            other[:, t] = (other[:, t] + 1) % 6
            changed = pretrained.language_loss(model, TOKENS, other)[0]
            assert changed.item() == pytest.approx(loss_by_hand(model, TOKENS, other).item(), abs=1e-5)
            assert abs(changed - loss) > 1e-5


@every_family
@pytest.mark.parametrize("training_mode", [False, True])
def test_the_loss_has_gradients_in_all_weights(family, training_mode):
    model = Tuned(lm_of(family), pretrained.vocabulary(bpe(), ROWS, S3)).train(training_mode)
    loss, out = pretrained.language_loss(model, TOKENS, TARGETS)
    loss.backward()
    assert not out.requires_grad
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]  # fmt: skip
    assert without == []


@every_family
def test_the_losss_gradient_is_that_of_the_loss_by_hand(family):
    model = Tuned(lm_of(family), pretrained.vocabulary(bpe(), ROWS, S3)).eval()
    weights = [p for p in model.parameters()]
    ours = torch.autograd.grad(pretrained.language_loss(model, TOKENS, TARGETS)[0], weights)
    theirs = torch.autograd.grad(loss_by_hand(model, TOKENS, TARGETS), weights)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("says", ["even", "odd", "something else"])
def test_the_whole_vocabularys_accuracy_is_that_of_the_most_probable_token_of_all(says):
    words = pretrained.vocabulary(bpe(), ROWS, tasks.parity())
    model = Tuned(lm_of("gpt_neox"), words).eval()
    head = torch.nn.Linear(16, ROWS)
    model.lm.set_output_embeddings(head)
    with torch.no_grad():
        head.bias[{"even": words.states[0], "odd": words.states[1], "something else": 7}[says]] = 1e4
    targets = tasks.parity().sample(100, 8, torch.Generator().manual_seed(0), "test").targets
    share = {"even": (targets == 0), "odd": (targets == 1), "something else": targets < 0}[says].double().mean()
    assert pretrained.whole_vocabulary_accuracy(model, tasks.parity(), 8, n=100) == pytest.approx(share.item())


# ---- fine-tuning ------------------------------------------------------------------------------------------------------


def same(a, b):
    weights, others = a.model.state_dict(), b.model.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert a.history == b.history
    assert a.accuracy == b.accuracy
    return True


def same_files(one, two):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


@every_family
def test_a_tiny_model_learns_to_answer_with_the_tokens_of_the_states(family, places, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 100)
    run = tuning(places[family], "dyck-2-4", steps=300, batch=32, min_length=2)
    before = pretrained.whole_vocabulary_accuracy(pretrained.start(run, tmp_path)[0], tasks.named(run.task), 8)
    result = fine_tuned(run, tmp_path)
    assert result.accuracy_at(8) > 0.95
    assert result.history[-1]["loss"] < 0.1
    about = json.loads((tmp_path / f"{run.key}.json").read_text())["about"]
    assert about["whole_vocabulary"] > 0.95 and before < 0.2
    assert not result.model.training


@pytest.mark.parametrize("start", [True, False], ids=["pretrained", "scratch"])
@pytest.mark.parametrize(("family", "stops"), [("gpt_neox", (1, 7)), ("mamba", (5, 6, 11)), ("mamba2", (STEPS,))])
def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(family, stops, start, places, tmp_path):
    run = tuning(places[family], start=start)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            fine_tuned(run, tmp_path / "often", stop_after=stop)
        assert not list(tmp_path.glob("often/*.json"))
    assert same(fine_tuned(run, tmp_path / "often"), fine_tuned(run, tmp_path / "once"))
    assert same_files(tmp_path / "often", tmp_path / "once")
    assert len(list((tmp_path / "once").iterdir())) == 2


def test_an_interrupted_run_of_a_base_with_dropout_does_so_too(copy_of, tmp_path):
    base = copy_of("gpt_neox")
    change_json(base / "config.json", hidden_dropout=0.2)
    for start in (True, False):
        run, state = tuning(base, start=start), torch.get_rng_state()
        with pytest.raises(KeyboardInterrupt):
            fine_tuned(run, tmp_path / "often", stop_after=6)
        assert same(fine_tuned(run, tmp_path / "often"), fine_tuned(run, tmp_path / "once"))
        assert torch.equal(torch.get_rng_state(), state)


@every_family
@pytest.mark.parametrize("start", [True, False], ids=["pretrained", "scratch"])
def test_fine_tuning_leaves_the_global_random_state_as_it_was(family, start, places, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fine_tuned(tuning(places[family], start=start, steps=2), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_fine_tuning_starts_from_the_pretrained_weights_or_from_others(places, originals, tmp_path):
    run = tuning(places["mamba"])
    model, words, about = pretrained.start(run, tmp_path)
    assert torch.allclose(answers(model.lm), answers(originals["mamba"]), atol=1e-6)  # in training mode by another path
    assert about == {"checkpoint": "mamba"} and words == pretrained.vocabulary(bpe("Ġeven"), ROWS, tasks.parity())
    fresh = [pretrained.start(tuning(places["mamba"], start=False, seed=seed), tmp_path)[0] for seed in (0, 0, 1)]
    assert torch.equal(answers(fresh[0].lm), answers(fresh[1].lm))
    assert not close(answers(fresh[0].lm), answers(fresh[2].lm))
    assert not close(answers(fresh[0].lm), answers(model.lm))
    assert [list(f.states) for f in fresh] == [list(words.states)] * 3


def test_another_seed_sees_other_data(places, tmp_path):
    one, two = (fine_tuned(tuning(places["mamba2"], seed=seed), tmp_path) for seed in (0, 1))
    assert one.history != two.history


def test_all_weights_are_tuned(places, originals, tmp_path):
    """The embedding's rows of tokens that never occur fall to weight decay alone."""
    result = fine_tuned(tuning(places["gpt_neox"]), tmp_path)
    before = dict(originals["gpt_neox"].named_parameters())
    assert [n for n, p in result.model.lm.named_parameters() if close(p, before[n])] == []


def test_a_task_whose_splits_lack_a_length_is_refused_before_training(places, monkeypatch, tmp_path):
    """dyck(1, 1) has one string of each length: no length has sequences in all three splits."""
    monkeypatch.setattr(training, "fit", never)
    with pytest.raises(ValueError, match="dyck-1-1"):
        fine_tuned(tuning(places["mamba"], "dyck-1-1"), tmp_path)


# ---- checkpoints of our own ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(places, tmp_path_factory):
    """(result, run, folder) of a fine-tuned model of each class."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "evaluate", partial(REAL_EVALUATE, n=64))
        for family in CLASSES:
            folder, run = tmp_path_factory.mktemp(family), tuning(places[family])
            found[family] = fine_tuned(run, folder), run, folder
    return found


@every_family
def test_a_checkpoint_gives_back_what_was_saved_without_its_base(family, checkpoints, monkeypatch):
    original, run, folder = checkpoints[family]
    monkeypatch.setattr(pretrained, "load", never)
    monkeypatch.setattr(pretrained, "configuration", never)
    loaded = pretrained.load_tuned(run, folder)
    assert same(loaded, original)
    assert loaded.run == run and loaded.task == tasks.parity() and not loaded.model.training
    tokens = tasks.parity().sample(4, 9, torch.Generator().manual_seed(0)).tokens
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens), original.model(tokens))
    assert torch.equal(loaded.model.actions, original.model.actions)


@every_family
def test_a_checkpoint_is_two_files_and_holds_bfloat16(family, checkpoints):
    result, run, folder = checkpoints[family]
    assert sorted(path.name for path in folder.iterdir()) == [f"{run.key}.json", f"{run.key}.safetensors"]
    stored = safetensors.torch.load_file(folder / f"{run.key}.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    there = result.model.lm.state_dict()
    assert all(torch.equal(tensor.float(), there[name]) for name, tensor in stored.items())  # nothing was lost
    record = json.loads((folder / f"{run.key}.json").read_text())
    assert record["sha256"] == hashlib.sha256((folder / f"{run.key}.safetensors").read_bytes()).hexdigest()
    assert record["parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert record["vocabulary"]["added"] == ["odd"]


@every_family
def test_tied_weights_are_stored_once_and_tied_again(family, checkpoints):
    result, run, folder = checkpoints[family]
    stored = safetensors.torch.load_file(folder / f"{run.key}.safetensors")
    both = [tensor for tensor in stored.values() if tensor.shape == (ROWS, 16)]
    assert len(both) == (1 if family == "mamba" else 2)
    for model in (result.model, pretrained.load_tuned(run, folder).model):
        tied = model.lm.get_input_embeddings().weight is model.lm.get_output_embeddings().weight
        assert tied == (family == "mamba")


def test_weights_tied_by_the_configuration_alone_are_stored_once_too(tmp_path):
    base = written(lm_of("gpt_neox", tie_word_embeddings=True), bpe(), tmp_path / "base")
    run = tuning(base)
    result = fine_tuned(run, tmp_path / "out")
    assert same(pretrained.load_tuned(run, tmp_path / "out"), result)
    stored = safetensors.torch.load_file(tmp_path / "out" / f"{run.key}.safetensors")
    assert sum(tensor.shape == (ROWS, 16) for tensor in stored.values()) == 1


@every_family
def test_loading_a_checkpoint_leaves_the_global_random_state_as_it_was(family, checkpoints):
    _, run, folder = checkpoints[family]
    before = torch.get_rng_state()
    pretrained.load_tuned(run, folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_record_of_a_folders_checkpoint_names_no_path_of_the_machine(checkpoints, places):
    for _, run, folder in checkpoints.values():
        record = (folder / f"{run.key}.json").read_text()
        assert str(places[run.family].parent) not in record and str(Path.home()) not in record
        assert not re.search(r'"/\w', record)
        assert b"/" not in (folder / f"{run.key}.safetensors").read_bytes()[:200]


@pytest.fixture
def damaged(checkpoints, tmp_path):
    """(run, weights, record) of a copy to damage."""
    _, run, folder = checkpoints["mamba"]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return run, tmp_path / f"{run.key}.safetensors", tmp_path / f"{run.key}.json"


def flip_byte(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def refuses(run, path, kind=ValueError):
    with pytest.raises(kind, match=re.escape(path.name)):
        pretrained.load_tuned(run, path.parent)


@pytest.mark.parametrize("at", [-1, -500, 12], ids=["last weight", "some weight", "header"])
def test_a_flipped_bit_in_the_weights_is_refused_by_name(damaged, at):
    run, weights, _ = damaged
    flip_byte(weights, at)
    refuses(run, weights)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_cut_tuned_weights_are_refused_by_name(damaged, size):
    run, weights, _ = damaged
    weights.write_bytes(weights.read_bytes()[:size])
    refuses(run, weights)


@pytest.mark.parametrize("which", [1, 2], ids=["weights", "record"])
def test_a_missing_file_is_named(damaged, which):
    damaged[which].unlink()
    refuses(damaged[0], damaged[which], FileNotFoundError)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"run": 3}', '{"run": {"task": "parity"}}', "\x00\xff"])
def test_an_unreadable_record_is_refused_by_name(damaged, text):
    run, _, record = damaged
    record.write_bytes(text.encode("latin-1"))
    refuses(run, record)


CHANGES = {
    "another seed": lambda r: r["run"].update(seed=1),
    "another task": lambda r: r["run"].update(task="Z2"),
    "another start": lambda r: r["run"].update(pretrained=False),
    "another identity": lambda r: r["run"].update(identity="other"),
    "another base": lambda r: r["run"].update(base="other"),
    "another class": lambda r: r["run"].update(family="gpt_neox"),
    "another rate": lambda r: r["run"]["train"].update(lr=0.1),
    "no steps": lambda r: r["run"]["train"].update(steps=0),
    "an unknown setting": lambda r: r["run"]["train"].update(dropout=0.1),
    "no recipe": lambda r: r["run"].pop("train"),
    "no hash": lambda r: r.pop("sha256"),
    "another hash": lambda r: r.update(sha256="0" * 64),
    "a null for a hash": lambda r: r.update(sha256=None),
    "no history": lambda r: r.pop("history"),
    "no accuracy": lambda r: r.pop("accuracy"),
    "an accuracy at no length": lambda r: r["accuracy"].update(long=[]),
    "a null for accuracies": lambda r: r.update(accuracy=None),
    "a list of accuracies": lambda r: r.update(accuracy=[0.5]),
    "no mapping": lambda r: r.pop("vocabulary"),
    "a null for a mapping": lambda r: r.update(vocabulary=None),
    "an empty mapping": lambda r: r.update(vocabulary={}),
    "a mapping of too few states": lambda r: r["vocabulary"].update(states=[270]),
    "a mapping to a row that is not there": lambda r: r["vocabulary"].update(actions=[0, ROWS]),
    "a null for a configuration": lambda r: r.update(config=None),
    "an empty configuration": lambda r: r.update(config={}),
    "an unknown class": lambda r: r["config"].update(model_type="no such class"),
    "another width": lambda r: r["config"].update(hidden_size=32),
    "a width that is no number": lambda r: r["config"].update(hidden_size="wide"),
    "another depth": lambda r: r["config"].update(num_hidden_layers=L + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_says_something_else_is_refused_by_name(damaged, change):
    run, _, record = damaged
    content = json.loads(record.read_text())
    CHANGES[change](content)
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(run.key)):
        pretrained.load_tuned(run, record.parent)


@pytest.mark.parametrize("write", ["renamed", "garbage"])
def test_weights_that_do_not_fit_the_model_are_refused_by_name(damaged, write):
    """As after an update of transformers that renames a parameter: the hash is right, the names are not."""
    run, weights, record = damaged
    if write == "garbage":
        weights.write_bytes(b"garbage" * 30)
    else:
        tensors = safetensors.torch.load_file(weights)
        safetensors.torch.save_file({n.replace("A_log", "A"): t for n, t in tensors.items()}, weights)
    change_json(record, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    refuses(run, weights)


def test_a_whole_checkpoint_under_another_runs_name_is_refused(damaged):
    run, weights, record = damaged
    other = replace(run, seed=3)
    for path in (weights, record):
        path.rename(path.parent / path.name.replace(run.key, other.key))
    with pytest.raises(ValueError, match=rf"{re.escape(other.key)}.*seed=3"):
        pretrained.load_tuned(other, weights.parent)


@pytest.mark.parametrize("damage", [lambda p: flip_byte(p, -100), lambda p: p.write_bytes(p.read_bytes()[:-50])])
def test_a_damaged_point_to_go_on_from_is_refused_by_name(damage, places, tmp_path):
    run = tuning(places["mamba2"])
    with pytest.raises(KeyboardInterrupt):
        fine_tuned(run, tmp_path, stop_after=6)
    (resume,) = tmp_path.glob("*.resume.safetensors")
    damage(resume)
    with pytest.raises(ValueError, match=re.escape(resume.name)):
        fine_tuned(run, tmp_path)


def test_a_write_that_fails_leaves_nothing_that_loads(places, tmp_path, monkeypatch):
    def half(path, _):
        with path.open("wb") as file:
            file.write(b"half of it")
        raise OSError("disk full")

    run = tuning(places["mamba2"], steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(training, "save_progress", lambda *_: None)
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(OSError, match="disk full"):
            fine_tuned(run, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match=re.escape(f"{run.key}.json")):
        pretrained.load_tuned(run, tmp_path)


# ---- names of runs ----------------------------------------------------------------------------------------------------------


def test_the_name_depends_on_the_weights_and_not_on_their_place(places, tmp_path, monkeypatch):
    there = [shutil.copytree(places["mamba"], tmp_path / part / "base") for part in ("one", "two/three", "other")]
    change_weights(there[2], lambda tensors: {n: t + 1e-3 for n, t in tensors.items()})
    one, two, other = (tuning(folder).key for folder in there)
    assert one == two != other
    assert one.startswith("parity-base-pretrained-0-") and re.fullmatch(r"[\w.-]+", one)
    assert tuning(f"{there[0]}/").key == one
    monkeypatch.chdir(tmp_path / "one")
    assert tuning("base").key == one


def test_other_weights_put_in_the_same_place_have_another_name(copy_of):
    base = copy_of("mamba")
    before = tuning(base).key
    change_weights(base, lambda tensors: {n: t + 1e-3 for n, t in tensors.items()})
    assert tuning(base).key != before


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_another_configuration_or_tokenizer_is_another_base(file, copy_of):
    base = copy_of("gpt_neox")
    before = tuning(base).key
    path = Path(base) / file
    path.write_text(path.read_text() + "\n")
    assert tuning(base).key != before


def test_weights_of_more_blocks_than_the_configuration_has_are_refused(copy_of):
    folder = copy_of("gpt_neox")
    path = Path(folder) / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 2'))
    assert "more blocks than the 2" in refused(folder)


def test_an_interrupted_run_goes_on_where_its_base_has_moved(copy_of, tmp_path):
    base = copy_of("mamba2", "one/base")
    with pytest.raises(KeyboardInterrupt):
        fine_tuned(tuning(base), tmp_path / "out", stop_after=6)
    moved = shutil.copytree(base, tmp_path / "two" / "base")
    assert same(fine_tuned(tuning(moved), tmp_path / "out"), fine_tuned(tuning(base), tmp_path / "once"))


def test_a_checkpoint_is_found_where_its_base_has_moved(checkpoints, places, tmp_path):
    result, run, folder = checkpoints["mamba"]
    moved = tuning(shutil.copytree(places["mamba"], tmp_path / "mamba"))
    assert moved.base != run.base
    assert same(pretrained.load_tuned(moved, folder), result)


def test_every_setting_that_is_changed_changes_the_name():
    base = Tuning("parity", "owner/model", "mamba", True, 0, TrainSpec(), "identity")
    others = {"task": "S3", "base": "owner/other", "family": "mamba2", "pretrained": False, "seed": 1, "identity": "another"}  # fmt: skip
    others["train"] = replace(base.train, lr=0.1)
    assert others.keys() == asdict(base).keys()
    keys = [base.key] + [replace(base, **{name: value}).key for name, value in others.items()]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[\w.-]+", key) for key in keys)


@pytest.mark.parametrize(("changes", "message"), [({"task": "XOR"}, "task='XOR'"), ({"family": "gpt2"}, "family='gpt2'.*mamba2")])  # fmt: skip
def test_an_unknown_task_or_class_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(Tuning("parity", "owner/model", "mamba", True, 0), **changes)


def test_a_base_that_cannot_be_read_is_refused_when_the_run_is_named(tmp_path, no_network):
    with pytest.raises(ValueError, match="checkpoint='nope'"):
        tuning("nope")
    with pytest.raises(ValueError, match=r"checkpoint='EleutherAI/pythia-410m'.*0\.9 GB"):
        tuning("EleutherAI/pythia-410m")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        tuning(tmp_path)


@pytest.mark.parametrize("width", [16, 768])
def test_large_pretrained_models_have_a_lower_rate(width, tmp_path):
    config_of("gpt_neox", hidden_size=width, num_hidden_layers=12).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    usual = pretrained.RECIPES["gpt_neox"]["lr"]
    lowered = pretrained.LARGE_MODEL_LR if width == 768 else usual
    rates = [pretrained.tuning("parity", str(tmp_path), start, 0).train.lr for start in (True, False)]
    assert rates == [lowered, usual]
    assert pretrained.tuning("parity", str(tmp_path), True, 0, lr=0.5).train.lr == 0.5


# ---- other random weights, and analogues -----------------------------------------------------------------------------------


def test_an_untrained_network_is_another_one_of_the_same_shape_and_always_the_same(checkpoints):
    result, run, _ = checkpoints["mamba2"]
    before = torch.get_rng_state()
    one, two = run.untrained(), run.untrained()
    assert torch.equal(torch.get_rng_state(), before)
    weights, tuned = one.model.state_dict(), result.model.state_dict()
    assert all(torch.equal(weights[name], other) for name, other in two.model.state_dict().items())
    assert {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in tuned.items()}
    assert not any(torch.equal(weights[n], w) for n, w in tuned.items())
    scratch = pretrained.start(replace(run, pretrained=False), Path("unused"))[0]
    assert not close(answers(one.model.lm), answers(scratch.lm))
    assert not one.model.training and one.history == []
    assert one.model(TOKENS % 2).shape == (3, 9, 2)


LINES = tuple(f"def f{i}(x):\n    return x + {i}\n" * 4 for i in range(6))


@pytest.fixture
def tiny(monkeypatch):
    """A small analogue under the name `tiny`."""
    spec = Analogue("mamba", 16, n_layers=2, d_state=4, vocabulary=ROWS, steps=5, batch=4, length=16)
    monkeypatch.setitem(analogue.ANALOGUES, "tiny", spec)
    monkeypatch.setattr(analogue, "corpus", lambda: Text(LINES, LINES[:2]))
    return spec


def test_an_analogue_is_pretrained_once_and_its_record_says_on_what(tiny, tmp_path, monkeypatch):
    run = tuning("tiny")
    result = fine_tuned(run, tmp_path / "out", tmp_path / "bases")
    place = analogue.place_of(tiny, tmp_path / "bases")
    made, record = json.loads((place / "record.json").read_text()), pretrained.record_of(run, tmp_path / "out")
    assert record["run"]["base"] == record["about"]["checkpoint"] == "tiny"
    assert {k: record["about"][k] for k in ("text", "held_out", "unigram", "history")} == {k: made[k] for k in ("text", "held_out", "unigram", "history")}  # fmt: skip
    assert record["about"]["tokens_seen"] == 5 * 4 * 16
    monkeypatch.setattr(analogue, "language_loss", never)
    fine_tuned(tuning("tiny", "Z6"), tmp_path / "out", tmp_path / "bases")
    shutil.rmtree(tmp_path / "bases")
    assert same(pretrained.load_tuned(run, tmp_path / "out"), result)


def test_an_analogues_architecture_is_tuned_from_random_weights_without_pretraining_it(tiny, tmp_path, monkeypatch):
    with_pretraining = pretrained.start(tuning("tiny"), tmp_path / "bases")[1]
    monkeypatch.setattr(analogue, "language_loss", never)
    run = tuning("tiny", start=False)
    model, words, _ = pretrained.start(run, tmp_path / "none")
    assert words == with_pretraining  # the same rows stand for the same names
    assert torch.equal(answers(model.lm), answers(analogue.new(tiny.config(), 0)))
    assert not (tmp_path / "none").exists()
    fine_tuned(run, tmp_path / "out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_another_pretraining_of_the_same_name_is_another_run(tiny, monkeypatch):
    before = tuning("tiny").key
    monkeypatch.setitem(analogue.ANALOGUES, "tiny", replace(tiny, steps=6))
    assert tuning("tiny").key != before


def test_the_bases_of_runs_are_the_analogues_that_they_start_from_each_once(tiny, places):
    runs = [tuning("tiny"), tuning("mamba-small", start=False), tuning(places["mamba"]), tuning("tiny", seed=1), tuning("mamba-large")]  # fmt: skip
    assert pretrained.bases_of(runs) == ["tiny", "mamba-large"]


def test_a_vocabulary_survives_its_record():
    words = pretrained.vocabulary(bpe(), ROWS, tasks.dyck(8, 2))
    assert Vocabulary(**{k: tuple(v) for k, v in json.loads(json.dumps(asdict(words))).items()}) == words

"""Analogues: a corpus that every Python has, split by file; a tokenizer that loses nothing; pretraining to the same bits."""

import hashlib
import json
import math
import os
import random
import re
import sysconfig
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
import transformers

from statedepth import analogue, models, pretrained
from statedepth.analogue import ANALOGUES, END, SPARE, Analogue, Text

torch.set_num_threads(1)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
transformers.utils.logging.set_verbosity_error()

FAMILIES = ("gpt_neox", "mamba")
every_family = pytest.mark.parametrize("family", FAMILIES)
SETTINGS = {"n_layers": 2, "n_heads": 2, "d_state": 4, "vocabulary": 320, "steps": 14, "batch": 4, "length": 12, "lr": 1e-2}  # fmt: skip
LINES = tuple("".join(f"def f{(7 * i + j) % 10}(x):\n    return x\n" for j in range(20)) for i in range(9))
PLANTED = Text(LINES[:7], LINES[7:])


def spec_of(family, **changes):
    return Analogue(family, 16, **{**SETTINGS, **changes})


def never(*_args, **_kwargs):
    raise AssertionError("must not be called")


# ---- the corpus ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of planted files, each of whose text is its name; returns what fills it and reads it."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "stdlib" else never())
    analogue.corpus.cache_clear()

    def read(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name, encoding="utf-8")
        analogue.corpus.cache_clear()
        return analogue.corpus()

    yield read
    analogue.corpus.cache_clear()


MODULES = [f"{folder}m{i}.py" for folder in ("", "email/", "email/mime/") for i in range(60)]


def test_files_are_in_one_part_or_the_other_and_all_are_in_one(library):
    text = library(*MODULES)
    assert sorted(text.train + text.held_out) == sorted(MODULES)  # each once
    assert 0 < len(text.held_out) < len(MODULES) / 8
    assert [*text.train] == sorted(text.train) and [*text.held_out] == sorted(text.held_out)


def test_a_file_stays_in_its_part_whatever_stands_beside_it_and_in_it(library, tmp_path):
    before = library(*MODULES)
    after = library(*(f"more/n{i}.py" for i in range(60)))
    assert set(before.train) < set(after.train) and set(before.held_out) < set(after.held_out)
    (tmp_path / before.held_out[0]).write_text("other", encoding="utf-8")
    assert "other" in library().held_out


def test_the_same_library_gives_the_same_corpus_in_the_same_order(library):
    first = library(*reversed(MODULES))
    assert library(*MODULES) == first and library().record() == first.record()


@pytest.mark.parametrize("folder", ["test", "tests", "idlelib/idle_test", "lib2to3", "distutils/tests/deep", "site-packages/torch", "lib2to3/tests"])  # fmt: skip
def test_code_of_others_and_tests_are_no_text(library, folder):
    text = library(*MODULES, *(f"{folder}/t{i}.py" for i in range(30)))
    assert sorted(text.train + text.held_out) == sorted(MODULES)


def test_only_source_is_text_and_a_module_may_be_called_as_it_likes(library):
    kept = ["testing.py", "unittest/case.py", "latest/tests.py"]
    text = library(*MODULES, *kept, "README.txt", "m.pyc", "data/x.json")
    assert sorted(text.train + text.held_out) == sorted([*MODULES, *kept])


def test_a_file_that_is_no_utf8_is_read_all_the_same(library, tmp_path):
    library(*MODULES)
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    text = library()
    assert "# \ufffd\n" in text.train + text.held_out


def test_a_python_without_sources_is_refused(library, tmp_path, monkeypatch):
    says = "this Python has no source of its standard library"
    with pytest.raises(ValueError, match=says):
        library()
    with pytest.raises(ValueError, match=says):
        library("m0.py")  # of which no part could be held out, or nothing be trained on
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=says):
        library()


@pytest.fixture(scope="module")
def real():
    analogue.corpus.cache_clear()
    return analogue.corpus()


def test_this_pythons_library_has_both_parts_and_shares_no_text_between_them(real):
    assert len(real.train) > 300 and len(real.held_out) > 10
    assert not {t for t in real.train if t.strip()} & {t for t in real.held_out if t.strip()}
    both = (Path(sysconfig.get_path("stdlib")) / name for name in ("test/__main__.py", "idlelib/idle_test/htest.py"))
    tests = {path.read_text(encoding="utf-8") for path in both if path.exists()}
    assert not tests & {*real.train, *real.held_out}
    assert any("def namedtuple(" in text for text in real.train + real.held_out)


def test_the_record_says_what_the_text_was():
    text = Text(("é", "b"), ("c",))
    record = text.record()
    assert (record["files"], record["bytes"]) == (3, 4)
    assert record["sha256"] == hashlib.sha256("é\0b\0c".encode()).hexdigest()
    assert record["python"] == sysconfig.get_python_version() or record["python"].startswith(f"{sysconfig.get_python_version()}.")  # fmt: skip
    assert Text(("éb",), ("c",)).record()["sha256"] != record["sha256"]


# ---- the tokenizer -------------------------------------------------------------------------------------------------------

TEXTS = ("", " ", "a . b , c n't 's do not ! ?", "  lead and trail \n\n", "\t\r\n\x00\x7f", "é ü 漢字 🙂 \ud7ff", "".join(map(chr, range(32, 600))))  # fmt: skip


@pytest.fixture(scope="module")
def some(real):
    """A few files of the library, and a tokenizer of them."""
    files = tuple(text[:5000] for text in real.train[::40])
    return files, analogue.tokenizer(files, 400)


def test_the_tokenizer_has_every_byte_and_loses_nothing(some, real, tmp_path):
    by = some[1]
    assert set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) < set(by.get_vocab())
    by.save_pretrained(tmp_path)
    for one in (by, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        for text in (*TEXTS, *some[0][:3], real.held_out[0][:5000]):
            ids = one(text, add_special_tokens=False)["input_ids"]
            assert one.decode(ids) == text
            assert one(text)["input_ids"] == ids  # nothing is put before or after


def test_the_last_rows_of_the_embedding_are_spare(some):
    used = sorted(some[1].get_vocab().values())
    assert used == list(range(400 - SPARE))
    assert some[1].convert_tokens_to_ids(END) == 0
    ids = analogue.encoded(some[1], (*TEXTS, *some[0]))
    assert ids.max() < 400 - SPARE


def test_few_merges_leave_more_rows_spare():
    by = analogue.tokenizer(("ab" * 9,), 1000)
    assert max(by.get_vocab().values()) < 300


def test_the_tokenizer_depends_on_the_text_and_the_size_alone(some):
    files, by = some
    again, smaller, other = analogue.tokenizer(files, 400), analogue.tokenizer(files, 390), analogue.tokenizer(files[1:], 400)  # fmt: skip
    assert again.backend_tokenizer.to_str() == by.backend_tokenizer.to_str()
    assert set(smaller.get_vocab()) < set(by.get_vocab()) and other.get_vocab() != by.get_vocab()


def test_the_tokenizer_of_an_analogue_sees_the_text_for_training_alone(monkeypatch):
    monkeypatch.setattr(analogue, "corpus", lambda: Text(PLANTED.train, never))
    assert analogue.tokenizer_of(spec_of("mamba")).get_vocab() == analogue.tokenizer(PLANTED.train, 320).get_vocab()


def test_a_file_ends_with_the_end_and_is_encoded_as_if_alone(some):
    by = some[1]
    ids = analogue.encoded(by, ("def f", "", "ine(x)")).tolist()
    one, two = (by(text, add_special_tokens=False)["input_ids"] for text in ("def f", "ine(x)"))
    assert ids == [*one, 0, 0, *two, 0]
    assert by.convert_ids_to_tokens(0) == END == by.eos_token


# ---- losses, by hand -----------------------------------------------------------------------------------------------------


def test_the_unigram_loss_is_that_of_counts_with_one_added():
    ids, unseen = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 3, 0])  # of 4 tokens: 3, 2, 1, 1 of 7
    expected = -(2 * math.log(3 / 7) + 2 * math.log(1 / 7)) / 4
    assert analogue.unigram_loss(ids, unseen, 4) == pytest.approx(expected, rel=1e-12)
    assert math.isnan(analogue.unigram_loss(ids, unseen[:0], 4))
    many = torch.arange(5).repeat(1000)
    assert analogue.unigram_loss(many, many, 5) == pytest.approx(math.log(5))


def log_probabilities(lm, tokens):
    with torch.no_grad():
        logits = lm(tokens).logits.double()
    return logits - logits.exp().sum(-1, keepdim=True).log()


@every_family
def test_the_loss_is_minus_the_log_probability_of_each_next_token(family):
    lm = analogue.new(spec_of(family).config(), 0)
    tokens = torch.randint(320, (3, 10), generator=torch.Generator().manual_seed(0))
    said = log_probabilities(lm, tokens)
    terms = [-said[b, t, tokens[b, t + 1]].item() for b in range(3) for t in range(9)]
    assert analogue.language_loss(lm, tokens).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_pieces_are_of_adjacent_tokens_and_one_longer_than_the_input():
    found = analogue.pieces(torch.arange(100, 200), torch.tensor([0, 7, 90]), 4)
    assert found.tolist() == [[100, 101, 102, 103, 104], [107, 108, 109, 110, 111], [190, 191, 192, 193, 194]]


def test_the_held_out_loss_is_over_pieces_that_lie_evenly_over_the_text():
    lm = analogue.new(spec_of("gpt_neox").config(), 0)
    ids, length = torch.randint(320, (8 * 39 + 10,), generator=torch.Generator().manual_seed(0)), 8
    starts = [8 * i for i in range(40)]  # from the first to the last, whole
    assert starts[-1] + length + 2 == len(ids)
    each = [analogue.language_loss(lm, ids[None, s : s + length + 1]).item() for s in starts]
    assert analogue.held_out_loss(lm, ids, length, 40) == pytest.approx(np.mean(each), rel=1e-5)
    assert all(weights.grad is None for weights in lm.parameters())


# ---- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("family", "gpt2"), ("family", "mamba2"), ("family", None), ("d_model", 7), ("d_model", 1025), ("d_model", 16.0), ("d_model", "16"), ("d_model", True), ("n_layers", 0), ("n_layers", 49), ("n_heads", 0), ("n_heads", 17), ("d_state", 0), ("d_state", 129), ("vocabulary", 299), ("vocabulary", 65537), ("steps", 0), ("steps", 1e3), ("batch", 0), ("batch", 4097), ("length", 7), ("length", 4097), ("seed", -1), ("seed", 2**31), ("seed", None)],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: must be ")):
        Analogue(**{**asdict(spec_of("mamba")), name: value})


@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf, 2.0, "fast", None, True])
def test_an_impossible_rate_is_refused_by_name(value):
    with pytest.raises(ValueError, match=f"lr={value!r}: must be "):
        spec_of("mamba", lr=value)


def test_whatever_number_of_steps_is_taken_can_be_trained(monkeypatch, tmp_path):
    """The schedule takes no more than a million."""
    monkeypatch.setattr(analogue, "corpus", lambda: PLANTED)
    for steps in (10**6, 10**7):
        try:
            spec = spec_of("gpt_neox", steps=steps)
        except ValueError as error:
            assert str(error).startswith(f"steps={steps}: ")
            continue
        with pytest.raises(KeyboardInterrupt):
            analogue.pretrain(spec, tmp_path, progress=False, stop_after=1)


def test_heads_share_an_even_number_of_features_and_each_is_rotated():
    """A quarter of a head is: with fewer than 8 features in it there would be no positions at all."""
    for width, heads in ((20, 4), (16, 16), (9, 1), (8, 4), (12, 2)):
        with pytest.raises(
            ValueError, match=f"d_model={width}: must be a multiple of {2 * heads} and {8 * heads} or more"
        ):
            Analogue("gpt_neox", width, n_heads=heads)
    for width, heads in ((32, 4), (16, 2), (8, 1)):  # the smallest that are taken know positions
        lm = analogue.new(Analogue("gpt_neox", width, 1, heads, vocabulary=320).config(), 0).eval()
        with torch.no_grad():
            one, other = (lm(torch.tensor([ids])).logits[0, -1] for ids in ([5, 6, 7, 8], [7, 6, 5, 8]))
        assert not torch.allclose(one, other, atol=1e-6)
    assert Analogue("mamba", 9).d_model == 9


def test_every_setting_that_is_changed_changes_the_name():
    base = spec_of("mamba")
    others = {**{n: v + 2 for n, v in asdict(base).items() if n != "family"}, "d_model": 32, "lr": 0.5, "family": "gpt_neox"}  # fmt: skip
    keys = [base.key, *(replace(base, **{name: value}).key for name, value in others.items())]
    assert len(set(keys)) == len(asdict(base)) + 1
    assert base.key.startswith("mamba-2x16-") and all(re.fullmatch(r"[\w.-]+", key) for key in keys)


def test_there_are_two_sizes_of_each_class_and_they_are_small():
    sizes = {family: [] for family in FAMILIES}
    for name, spec in ANALOGUES.items():
        with torch.device("meta"):
            lm = transformers.AutoModelForCausalLM.from_config(spec.config())
        assert len(lm.base_model.layers) == spec.n_layers == 12
        sizes[spec.family].append((name.rpartition("-")[2], models.n_parameters(lm)))
        assert name.startswith(spec.family.replace("_", "-"))
    for found in sizes.values():
        (small, few), (large, many) = found
        assert (small, large) == ("small", "large") and 200_000 < few < many / 2 < 500_000


# ---- pretraining ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def planted(monkeypatch):
    """A text of a few lines, and a look at the held-out loss every fifth step."""
    monkeypatch.setattr(analogue, "corpus", lambda: PLANTED)
    monkeypatch.setattr(analogue, "LOOK_EVERY", 5)


def trained(spec, folder, **options):
    return analogue.pretrain(spec, folder, progress=False, **options)


def contents(place):
    return {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """For each class: an uninterrupted pretraining, and the model as it was when it was written."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analogue, "corpus", lambda: PLANTED)
        patch.setattr(analogue, "LOOK_EVERY", 5)
        real = analogue.new
        for family in FAMILIES:
            made = []
            patch.setattr(analogue, "new", lambda *args, made=made: made.append(real(*args)) or made[-1])
            folder = tmp_path_factory.mktemp(family)
            torch.manual_seed(5), np.random.seed(5), random.seed(5)
            states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
            place = trained(spec_of(family), folder)
            left = torch.equal(torch.get_rng_state(), states[0]), np.random.get_state()[1].tolist() == states[1], random.getstate() == states[2]  # fmt: skip
            found[family] = place, made[0], left
    return found


@every_family
def test_what_is_pretrained_is_read_back_the_same(once, family):
    place, lm, _ = once[family]
    loaded, by = pretrained.load(str(place))
    assert loaded.config.model_type == family and len(loaded.base_model.layers) == 2
    wanted = lm.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(weights, wanted[name]) for name, weights in loaded.state_dict().items())
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        assert torch.equal(loaded(tokens).logits, lm.eval()(tokens).logits)
    assert (
        by(LINES[8])["input_ids"] == analogue.encoded(analogue.tokenizer(PLANTED.train, 320), LINES[8:])[:-1].tolist()
    )
    assert by.eos_token == END and loaded.get_input_embeddings().num_embeddings == 320


@every_family
def test_the_record_says_the_settings_the_text_and_the_curve(once, family):
    place, lm, _ = once[family]
    spec, record = spec_of(family), json.loads((place / "record.json").read_text())
    by = analogue.tokenizer(PLANTED.train, 320)
    ids, unseen = analogue.encoded(by, PLANTED.train), analogue.encoded(by, PLANTED.held_out)
    assert Analogue(**record["spec"]) == spec and record["text"] == PLANTED.record()
    assert record["tokens"] == len(ids) and record["parameters"] == models.n_parameters(lm)
    assert record["bytes_per_token"] == pytest.approx(sum(map(len, PLANTED.train)) / len(ids))
    assert [point["step"] for point in record["history"]] == [5, 10, 14]
    assert all(point.keys() == {"step", "loss", "held_out"} for point in record["history"])
    assert record["unigram"] == analogue.unigram_loss(ids, unseen, 320)
    assert record["held_out"] == pytest.approx(analogue.held_out_loss(lm, unseen, spec.length, 512), rel=1e-5)
    last = analogue.held_out_loss(lm, unseen, spec.length, 64)
    assert record["history"][-1]["held_out"] == pytest.approx(last, rel=1e-5)


@every_family
def test_the_random_states_are_left_as_they_were_and_do_not_matter(once, family, planted, tmp_path):
    assert once[family][2] == (True, True, True)
    torch.manual_seed(77), np.random.seed(77), random.seed(77)
    assert contents(trained(spec_of(family), tmp_path)) == contents(once[family][0])


@every_family
@pytest.mark.parametrize("stops", [(7,), (3, 5, 14)])
def test_an_interrupted_pretraining_goes_on_to_the_same_bits(once, family, stops, planted, tmp_path, monkeypatch):
    spec, steps = spec_of(family), []
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            trained(spec, tmp_path, stop_after=stop)
        assert not analogue.place_of(spec, tmp_path).exists()
    real = analogue.pieces
    monkeypatch.setattr(analogue, "pieces", lambda *args: steps.append(len(args[1]) == spec.batch) or real(*args))
    place = trained(spec, tmp_path)
    assert steps.count(True) == 14 - 5 * (stops[-1] // 5) if stops[-1] < 14 else not any(steps)
    assert contents(place) == contents(once[family][0])
    assert [path.name for path in tmp_path.iterdir()] == [spec.key]


def test_what_is_finished_is_not_trained_again(once, monkeypatch):
    place = once["mamba"][0]
    before = contents(place)
    for name in ("corpus", "tokenizer", "new", "language_loss"):
        monkeypatch.setattr(analogue, name, never)
    assert trained(spec_of("mamba"), place.parent) == place == analogue.place_of(spec_of("mamba"), place.parent)
    assert contents(place) == before


@pytest.mark.parametrize("fails", ["model", "tokenizer", "record", "rename"])
def test_a_write_that_fails_leaves_nothing_that_passes_for_finished(once, fails, planted, tmp_path, monkeypatch):
    spec = spec_of("gpt_neox")

    def half(_self, folder, *_args, **_kwargs):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half of it")
        raise OSError("disk full")

    def full(*_args, **_kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        if fails == "record":
            real = json.dumps
            patch.setattr(json, "dumps", lambda said, **how: full() if "unigram" in said else real(said, **how))
        elif fails == "rename":
            real_rename = Path.rename
            patch.setattr(Path, "rename", lambda self, to: full() if spec.key in self.name else real_rename(self, to))
        else:
            patch.setattr(transformers.PreTrainedModel if fails == "model" else transformers.PreTrainedTokenizerBase, "save_pretrained", half)  # fmt: skip
        with pytest.raises(OSError, match="disk full"):
            trained(spec, tmp_path)
    assert not analogue.place_of(spec, tmp_path).exists()
    real_pieces = analogue.pieces
    monkeypatch.setattr(analogue, "pieces", lambda ids, starts, length: never() if len(starts) == spec.batch else real_pieces(ids, starts, length))  # fmt: skip
    place = trained(spec, tmp_path)  # without another step of training
    assert contents(place) == contents(once["gpt_neox"][0])
    assert [path.name for path in tmp_path.iterdir()] == [spec.key]


@every_family
def test_pretraining_learns_more_than_how_frequent_each_token_is(family, planted, tmp_path, monkeypatch):
    monkeypatch.setattr(analogue, "LOOK_EVERY", 40)
    record = json.loads((trained(spec_of(family, steps=80, lr=2e-2), tmp_path) / "record.json").read_text())
    first, last = record["history"][0]["held_out"], record["history"][-1]["held_out"]
    assert last < first < math.log(320)
    assert record["held_out"] < 0.5 * record["unigram"]


def test_the_end_of_a_file_is_learned_as_any_other_token(once):
    """Strings of a task begin with it; an embedding that is left out of training would be a row of zeros."""
    for place, lm, _ in once.values():
        fresh = analogue.new(lm.config, json.loads((place / "record.json").read_text())["spec"]["seed"])
        row, before = (one.get_input_embeddings().weight[0] for one in (lm, fresh))
        assert row.norm() > 0 and not torch.allclose(row, before * row.norm() / before.norm(), atol=1e-4)


def test_held_out_text_has_no_part_in_training(once, monkeypatch, tmp_path):
    monkeypatch.setattr(analogue, "LOOK_EVERY", 5)
    monkeypatch.setattr(analogue, "corpus", lambda: Text(PLANTED.train, ("x = 'something else'\n" * 30,)))
    place = trained(spec_of("gpt_neox"), tmp_path)
    one, two = (json.loads((p / "record.json").read_text()) for p in (place, once["gpt_neox"][0]))
    assert [h["loss"] for h in one["history"]] == [h["loss"] for h in two["history"]]
    assert one["held_out"] != two["held_out"] and one["unigram"] != two["unigram"]
    tensors = [safetensors.torch.load_file(p / "model.safetensors") for p in (place, once["gpt_neox"][0])]
    assert all(torch.equal(weights, tensors[1][name]) for name, weights in tensors[0].items())


def test_a_loss_that_is_not_finite_stops_the_training(planted, tmp_path, monkeypatch):
    real = analogue.language_loss
    monkeypatch.setattr(analogue, "language_loss", lambda *args: real(*args) * math.nan)
    spec = spec_of("gpt_neox")
    with pytest.raises(FloatingPointError, match=rf"{spec.key}: the loss is nan after 5 steps"):
        trained(spec, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_point_to_go_on_from_that_is_damaged_is_refused_by_name(planted, tmp_path):
    spec = spec_of("gpt_neox")
    with pytest.raises(KeyboardInterrupt):
        trained(spec, tmp_path, stop_after=6)
    (resume,) = tmp_path.glob("*.resume.safetensors")
    resume.write_bytes(resume.read_bytes()[:-40])
    with pytest.raises(ValueError, match=re.escape(resume.name)):
        trained(spec, tmp_path)


def test_another_text_is_another_pretraining_that_does_not_go_on_from_this_one(planted, tmp_path, monkeypatch):
    """A resume file of another Python's text must not be mixed with this one's."""
    spec = spec_of("gpt_neox")
    with pytest.raises(KeyboardInterrupt):
        trained(spec, tmp_path, stop_after=6)
    other = Text(tuple(reversed(PLANTED.train)), PLANTED.held_out)
    monkeypatch.setattr(analogue, "corpus", lambda: Text(other.train[:3], other.held_out))
    with pytest.raises(ValueError, match="another"):
        trained(spec, tmp_path)


@every_family
def test_initial_weights_depend_on_the_seed_and_not_on_the_random_state(family):
    config, states = spec_of(family).config(), []
    for _ in range(2):
        before = torch.get_rng_state()
        states.append([analogue.new(config, seed).state_dict() for seed in (0, 1)])
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
    (one, other), (again, _) = states
    assert all(torch.equal(weights, again[name]) for name, weights in one.items())
    assert not all(torch.equal(weights, other[name]) for name, weights in one.items())

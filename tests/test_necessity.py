"""`check` of a reader's own activations: planted codes come out as they were planted, and bad input is named in one line."""

import io
import pickle
import runpy
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from statedepth import __main__ as command_line
from statedepth import necessity
from statedepth.necessity import check, check_file
from statedepth.removal import WITHIN, Parts

torch.set_num_threads(1)

EXACT = ["mean projection", "LEACE"]
SIGN = np.array([1, -1])


MANY = 3000  # with fewer, erasers of single positions leave what the noise of their sample makes of class means


def rows(n=450, length=4, width=8, seed=0, share=0.5):
    """Noise of `n` sequences of `length` rows, and labels of two classes that have nothing to do with it."""
    rng = np.random.default_rng(seed)
    sequence, position = np.repeat(np.arange(n), length), np.tile(np.arange(length), n)
    h = rng.standard_normal((n * length, width))
    return {"h": h, "labels": (rng.random(n * length) < share).astype(int), "sequence": sequence, "position": position}


def coded(gain=1.0, **changes):
    """`rows` with one linear code of the labels, 2 `gain` to either side (a number for each row, or one for all)."""
    made = rows(**changes)
    made["h"][:, 0] += 2 * gain * SIGN[made["labels"]]
    return made


def alternating(positions=(0, 1, 2, 3), signs=(1, -1, 1, -1), **changes):
    """A code whose sign depends on the position."""
    made = rows(length=len(positions), **changes)
    made["h"][:, 0] += 2 * np.array(signs)[made["position"]] * SIGN[made["labels"]]
    return {**made, "position": np.array(positions)[made["position"]]}


def two_codes(n=450):
    """A clean code, and a copy of it whose scale varies, so that a probe looks at the clean one alone."""
    made = coded(gain=2, n=n)
    gain = np.random.default_rng(1).uniform(0.2, 1, len(made["h"]))
    made["h"][:, 0] = made["h"][:, 0] * 0.3
    made["h"][:, 1] = 4 * gain * SIGN[made["labels"]] + 0.1 * made["h"][:, 1]
    return made


def exclusive():
    """Two bits that are readable each by itself; the label is whether they differ."""
    made = rows()
    bit = np.random.default_rng(1).integers(0, 2, len(made["h"]))
    made["h"][:, 0] += 3 * SIGN[bit]
    made["h"][:, 1] += 3 * SIGN[bit ^ made["labels"]]
    return made


def like_depth(n=450):
    """Of four classes two are possible at even positions and two at odd ones, and the position is readable too."""
    made = rows(n)
    made["labels"] = made["position"] % 2 + 2 * made["labels"]
    made["h"][:, :4] += 4 * np.eye(4)[made["labels"]]
    made["h"][:, 5] += 2 * made["position"]
    return made


def by_scope(table, scope):
    return table[table["positions"] == scope].set_index("method")


# ---- planted codes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["pooled", "each"])
def test_a_variable_with_one_linear_code_is_removed_by_the_exact_erasers(scope):
    found = by_scope(check(**coded(n=MANY), methods=EXACT), scope)
    assert found["outcome"].tolist() == ["removed"] * 2
    assert (found["positions_read"] == "").all()
    assert (found["refit"] <= found["refit_majority"] + WITHIN).all()
    assert (found["refit_own"] <= found["refit_own_majority"] + WITHIN).all()
    assert (found["positions_asked"] == 4).all() and (found["positions_left_out"] == 0).all()


def test_the_numbers_before_are_those_of_a_probe_of_scikit_learn_and_of_the_planted_variance():
    made = coded(n=1200)
    found = check(**made, methods=["LEACE"])
    fitted = made["sequence"] < 600
    other = LogisticRegression().fit(made["h"][fitted], made["labels"][fitted])
    accuracy = other.score(made["h"][~fitted], made["labels"][~fitted])
    assert np.allclose(found[["before", "before_own"]], accuracy, atol=0.02)
    assert np.allclose(found[["majority", "own_majority"]], 0.5, atol=0.05)
    assert np.allclose(found["variance_removed"], 5 / 12, atol=0.03)  # 2^2 + 1 of that and of seven more
    assert ((found["norm"] > 0.4) & (found["norm"] < 0.75)).all()


@pytest.mark.parametrize("scope", ["pooled", "each"])
def test_a_copy_of_another_scale_is_left_by_the_direction_and_not_by_the_exact_erasers(scope):
    found = by_scope(check(**two_codes(MANY)), scope)
    assert found["outcome"].to_dict() == {
        "direction": "not removed",
        "mean projection": "removed",
        "LEACE": "removed",
    }
    assert found.loc["direction", "refit"] > found.loc["direction", "refit_majority"] + 0.05


@pytest.mark.parametrize("positions", [(0, 1, 2, 3), (3, 10, 11, 40), (-2, -1, 0, 1)])
def test_a_code_whose_sign_alternates_is_seen_and_erased_at_single_positions_alone(positions):
    table = check(**alternating(positions, n=MANY), methods=EXACT)
    pooled, each = by_scope(table, "pooled"), by_scope(table, "each")
    assert (pooled["before"] <= pooled["majority"] + WITHIN).all() and (pooled["before_own"] > 0.9).all()
    assert (pooled["refit"] <= pooled["refit_majority"] + WITHIN).all()
    assert (pooled["outcome"] == "not removed").all()
    assert (pooled["positions_read"] == ", ".join(map(str, positions))).all()
    assert (each["outcome"] == "removed").all() and (each["positions_read"] == "").all()


def test_positions_at_which_it_is_still_read_are_those_that_have_the_code():
    table = check(**alternating((5, 6, 7, 8), (1, 0, 0, -1), n=1500), methods=["LEACE"])
    assert by_scope(table, "pooled")["positions_read"].item() == "5, 8"


@pytest.mark.parametrize("made", [rows, exclusive], ids=["noise", "exclusive or"])
def test_what_no_linear_probe_reads_is_absent(made):
    table = check(**made())
    assert (table["outcome"] == "absent").all()
    assert (table["before"] <= table["majority"] + WITHIN).all()


def test_where_one_class_is_the_most_frequent_everywhere_there_is_no_eraser_on_top():
    table = check(**coded(share=0.3), methods=EXACT)
    assert (table["rank"] == 1).all()


def test_an_eraser_on_top_leaves_nothing_where_the_position_tells_of_the_label(monkeypatch):
    each = by_scope(check(**like_depth(MANY), methods=EXACT), "each")
    assert (each["refit"] <= each["refit_majority"] + WITHIN).all() and (each["outcome"] == "removed").all()
    assert (each["rank"] == 1 + 3).all()  # of one at each position, and of what the second takes
    monkeypatch.setattr(necessity, "_position_tells", lambda *_: False)
    alone = by_scope(check(**like_depth(MANY), methods=EXACT), "each")
    assert (alone["rank"] == 1).all()
    assert (alone["refit"] > alone["refit_majority"] + 0.1).all() and (alone["outcome"] == "not removed").all()


@pytest.mark.parametrize("methods", [["INLP"], ["strong direction", "LEACE"]])
def test_rows_are_of_the_methods_asked_for_each_in_both_kinds(methods):
    table = check(**coded(), methods=methods)
    assert table[["positions", "method"]].values.tolist() == [
        [scope, method] for scope in ("pooled", "each") for method in methods
    ]
    assert set(table["outcome"]) <= {"removed", "not removed"}


@pytest.mark.parametrize("offset", [3e5, 1e7])
def test_a_feature_far_from_zero_hides_nothing(offset):
    """Of the spread of activations a probe takes features under a share for constants: an offset is no spread."""
    made = two_codes()
    made["h"][:, 7] += offset
    assert (check(**made, methods=["direction"])["outcome"] == "not removed").all()


def test_a_code_far_from_zero_is_read_in_double_precision():
    made = coded()
    made["h"] += 1e8
    table = check(**made, methods=["LEACE"])
    assert (table["before"] > 0.9).all() and (table["rank"] == table["rank"].round()).all()


# ---- what must not matter --------------------------------------------------------------------------------------------------


def same(found, expected):
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6, atol=1e-9)
    return True


def test_precision_and_library_of_the_arrays_do_not_matter():
    made = coded(n=420)
    made["h"] = torch.tensor(made["h"]).bfloat16().double().numpy()  # numbers that all precisions have
    expected = check(**made, methods=["LEACE"])
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        tensors = {name: torch.tensor(value) for name, value in made.items()}
        tensors["h"] = tensors["h"].to(kind).requires_grad_()
        assert check(**tensors, methods=["LEACE"]).equals(expected)
    narrow = {name: value.astype(np.int16) for name, value in made.items() if name != "h"}
    assert check(made["h"].astype(np.float32), **narrow, methods=["LEACE"]).equals(expected)
    assert check(**{name: value.tolist() for name, value in made.items()}, methods=["LEACE"]).equals(expected)


def test_the_order_of_rows_does_not_matter():
    made = like_depth()
    shuffled = np.random.default_rng(3).permutation(len(made["h"]))
    assert same(
        check(**{name: value[shuffled] for name, value in made.items()}, methods=["LEACE"]),
        check(**made, methods=["LEACE"]),
    )


def test_the_numbers_of_classes_and_sequences_do_not_matter():
    made = coded()
    renamed = {**made, "labels": 3 + 900 * made["labels"], "sequence": 7 * made["sequence"] - 1000}
    assert same(check(**renamed, methods=["LEACE"]), check(**made, methods=["LEACE"]))


def test_the_scale_of_activations_does_not_matter():
    made = coded()
    columns = ["rank", "before", "refit", "refit_own", "positions_read", "outcome"]
    assert same(
        check(**{**made, "h": 1e-4 * made["h"]}, methods=["LEACE"])[columns], check(**made, methods=["LEACE"])[columns]
    )


def test_what_is_given_is_not_changed():
    made = coded()
    kept = {name: value.copy() for name, value in made.items()}
    check(**made)
    assert all(np.array_equal(made[name], kept[name]) for name in made)


def test_the_seed_deals_the_sequences():
    made = coded()
    first, again, other = (check(**made, methods=["LEACE"], seed=seed) for seed in (1, np.int64(1), 0))
    assert first.equals(again) and not first.equals(other)


# ---- samples -----------------------------------------------------------------------------------------------------------------


def test_no_sequence_is_in_two_samples_and_all_are_in_one(monkeypatch):
    made, seen = coded(), []
    made["h"][:, 7] = made["sequence"] / 450  # so that a row says where it comes from
    real = necessity.fit_one
    monkeypatch.setattr(necessity, "fit_one", lambda method, parts, before: seen.append(parts) or real(method, parts, before))  # fmt: skip
    check(**made, methods=["LEACE"])
    assert len(seen) == 5  # of all positions, then of each of four
    for parts in seen:
        four = [
            set(part[0][..., 7].mul(450).round().int().flatten().tolist())
            for part in (parts.erase, parts.fit, parts.validation, parts.test)
        ]
        assert [len(part) for part in four] == [180, 135, 45, 90]
        assert len(set().union(*four)) == 450


def test_probes_of_edited_activations_are_fitted_on_sequences_that_no_eraser_saw(monkeypatch):
    sizes, real = [], Parts.readings
    monkeypatch.setattr(Parts, "readings", lambda self, sample: sizes.append(len(sample[0])) or real(self, sample))
    check(**coded(), methods=["LEACE"])
    before, after = [4 * 180] + [180] * 4, [4 * 135] + [135] * 4  # of all positions, then of each of four
    assert sizes == before + 2 * after


def test_a_sequence_that_is_known_by_heart_tells_nothing_of_others():
    """Every sequence has its own direction, the same in all of its rows: split by row, a probe would read the label."""
    rng = np.random.default_rng(0)
    made = rows(n=500, length=4, width=150)
    made["h"] = (3 * rng.standard_normal((500, 150)))[made["sequence"]] + 0.1 * made["h"]
    made["labels"] = rng.integers(0, 2, 500)[made["sequence"]]
    table = check(**made, methods=["LEACE"])
    assert (table["before"] < 0.6).all() and (table["outcome"] == "absent").all()


def ragged(rare):
    """Sequences of one to five rows, the fifth of no more than `rare` of them; the code is at all positions."""
    made = coded(n=900, length=5)
    last = np.random.default_rng(4).permutation(np.repeat([1, 2, 3, 4, 5], [100, 100, 100, 600 - rare, rare]))
    return {name: value[made["position"] < last[made["sequence"]]] for name, value in made.items()}


def test_ragged_sequences_have_rare_positions_left_out_and_counted():
    made = ragged(rare=120)
    table = check(**made)
    assert (table["positions_asked"] == 4).all() and (table["positions_left_out"] == 1).all()
    assert (table.query("method in @EXACT")["outcome"] == "removed").all()
    common = {name: value[made["position"] < 4] for name, value in made.items()}
    assert same(check(**common), table.assign(positions_left_out=0))


def test_a_position_with_rows_enough_is_asked():
    assert (check(**ragged(rare=590), methods=["LEACE"])["positions_left_out"] == 0).all()


def test_a_position_of_one_class_is_left_out_and_counted():
    made = coded()
    made["labels"][made["position"] == 2] = 1
    table = check(**made, methods=["LEACE"])
    assert (table["positions_asked"] == 3).all() and (table["positions_left_out"] == 1).all()
    assert (table["outcome"] == "removed").all()


def test_where_every_position_is_rare_the_pooled_probe_decides_alone():
    table = check(**coded(n=300), methods=EXACT)
    assert table["positions"].tolist() == ["pooled"] * 2 and table["outcome"].tolist() == ["removed"] * 2
    assert (table["positions_asked"] == 0).all() and (table["positions_left_out"] == 4).all()
    assert table[["before_own", "refit_own"]].isna().all(axis=None)


# ---- what cannot be checked --------------------------------------------------------------------------------------------------


def without(made, name, value):
    return {**made, name: value(made[name])}


def hole(h):
    h = h.copy()
    h[[3, 9], 2] = np.nan, np.inf
    return h


def lonely(labels):
    """Class 1 in one sequence alone, and so in one sample."""
    labels = np.zeros_like(labels)
    labels[:4] = 1
    return labels


MALFORMED = {  # array, what becomes of it, what the error says
    "flat h": ("h", lambda h: h[:, 0], r"h is float64 \(1800,\): must be floating-point numbers \(n, D\)"),
    "h of whole numbers": ("h", lambda h: h.astype(int), "h is int64 .*floating-point"),
    "h of objects": ("h", lambda h: h.astype(object), "h is object .*floating-point"),
    "no rows": ("h", lambda h: h[:0], r"h is float64 \(0, 8\).*over 0"),
    "no features": ("h", lambda h: h[:, :0], r"h is float64 \(1800, 0\).*over 0"),
    "rows of two lengths": ("h", lambda h: [[1.0, 2.0], [1.0]], "h is no array .*one length"),
    "holes in h": ("h", hole, "h holds values that are not finite in 2 rows; leave those rows out"),
    "fewer labels": ("labels", lambda y: y[1:], r"labels is \(1799,\): must be \(1800,\)"),
    "labels in a column": ("labels", lambda y: y[:, None], r"labels is \(1800, 1\): must be \(1800,\)"),
    "labels with a fraction": ("labels", lambda y: y.astype(float), "labels is float64: must be whole numbers"),
    "labels that are words": ("labels", lambda y: y.astype(str), "labels is <U.*whole numbers; number the values"),
    "labels of truth": ("labels", lambda y: y.astype(bool), "labels is bool: must be whole numbers"),
    "labels under 0": ("labels", lambda y: y - 1, "labels go from -1 to 0: must be classes numbered from 0"),
    "labels over 1000": ("labels", lambda y: y * 1001, "labels go from 0 to 1001.*at most 1000"),
    "one class": ("labels", lambda y: y * 0 + 2, "labels hold the class 2 alone.*two are needed"),
    "one class in a sample": ("labels", lonely, "labels hold a single class in a sample.*add some"),
    "fewer sequences": ("sequence", lambda s: s[:-5], r"sequence is \(1795,\)"),
    "49 sequences": ("sequence", lambda s: s % 49, "sequence names 49 sequences: at least 50"),
    "fractional sequences": ("sequence", lambda s: s / 2, "sequence is float64: must be whole numbers"),
    "no positions": ("position", lambda p: np.array(3), r"position is \(\): must be \(1800,\)"),
    "positions not finite": ("position", lambda p: p + np.nan, "position is float64: must be whole numbers"),
}
malformed = pytest.mark.parametrize(("name", "value", "message"), MALFORMED.values(), ids=MALFORMED)


@malformed
def test_arrays_that_cannot_be_checked_are_named_with_what_is_wrong(name, value, message):
    with pytest.raises(ValueError, match=message):
        check(**without(coded(), name, value))


@pytest.mark.parametrize("methods", [[], ["leace"], ["LEACE", "random"], "LEACE"])
def test_methods_that_do_not_exist_are_refused_with_those_that_do(methods):
    with pytest.raises(ValueError, match=r"methods=.*direction, .*mean projection, LEACE, INLP"):
        check(**coded(), methods=methods)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_a_seed_that_is_none_is_refused_by_value(seed):
    with pytest.raises(ValueError, match=f"seed={seed!r}"):
        check(**coded(), seed=seed)


def npz(path, **changes):
    arrays = {**coded(), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def cut(path):
    npz(path)
    path.write_bytes(path.read_bytes()[:5000])


def flipped(path):
    npz(path)
    content = bytearray(path.read_bytes())
    content[3000] ^= 255
    path.write_bytes(content)


def array_file(header, data=b""):
    """A .npz whose four members have this header."""

    def write(path):
        text = header.encode() + b"\n"
        with zipfile.ZipFile(path, "w") as stored:
            for name in necessity.ARRAYS:
                stored.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data)

    return write


def one_array(path):
    with io.BytesIO() as content:
        np.save(content, coded()["h"])
        path.write_bytes(content.getvalue())


HEADER = "{{'descr': '<f8', 'fortran_order': False, 'shape': {}, }}"
DAMAGED = {  # what is written, what the error says
    "cut off": (cut, "no .npz, or only a part"),
    "flipped bits": (flipped, "Bad CRC-32"),
    "text": (lambda path: path.write_text("h labels\n1 2\n"), "no .npz"),
    "nothing": (lambda path: path.write_bytes(b""), "no .npz"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps(coded())), "no .npz"),
    "one array": (one_array, "no .npz"),
    "no arrays": (np.savez, "lacks h, labels, sequence, position; it has nothing"),
    "two missing": (lambda path: npz(path, h=None, position=None), "lacks h, position; it has labels, sequence"),
    "objects": (lambda path: npz(path, labels=np.array([{}] * 1800)), "Object arrays cannot be loaded"),
    "a header of two lines": (array_file("{'descr': hello"), ""),
    "a header too long": (array_file(HEADER.format("(1,)") + " " * 20_000), ""),
    "too large": (array_file(HEADER.format("(1000000000000, 8)")), ""),
    "far too large": (array_file(HEADER.format(f"({10**22}, 8)")), ""),
    "too little": (array_file(HEADER.format("(30, 8)"), b"12345678"), ""),
}


@pytest.fixture
def command(tmp_path, capsys):
    """Runs `check` of a file and gives its exit code, lines of stdout and of stderr, and what `--out` got."""

    def run(path, *options):
        out = tmp_path / "made" / "table.csv"
        code = command_line.main(["check", str(path), "--out", str(out), *options])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err.splitlines(), out

    return run


def refused(result, *words):
    code, printed, errors, out = result
    assert (code, printed, len(errors)) == (2, [], 1)
    assert errors[0].startswith("error: ") and all(word in errors[0] for word in words)
    assert not out.parent.exists()
    return True


@pytest.mark.parametrize(("write", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_cannot_be_used_is_named_in_one_line_with_the_remedy(write, message, tmp_path, command):
    path = tmp_path / "mine.npz"
    write(path)
    with pytest.raises(ValueError, match=rf"^mine\.npz: cannot be used \(.*{message}.*\); write it by numpy.savez\("):
        check_file(path)
    assert refused(command(path), "mine.npz", message)


in_files = {key: case for key, case in MALFORMED.items() if key not in ("h of objects", "rows of two lengths")}


@pytest.mark.parametrize(("name", "value", "message"), in_files.values(), ids=in_files)
def test_so_are_arrays_in_a_file(name, value, message, tmp_path, command):
    path = tmp_path / "mine.npz"
    npz(path, **{name: value(coded()[name])})
    with pytest.raises(ValueError, match=rf"^mine\.npz: {message}"):
        check_file(path)
    assert refused(command(path), f"mine.npz: {name} ")


def test_a_file_that_is_not_there_a_folder_and_wrong_options_are_refused_in_one_line(tmp_path, command):
    npz(tmp_path / "mine.npz")
    assert refused(command(tmp_path / "other.npz"), "other.npz: no such file")
    assert refused(command(tmp_path), f"{tmp_path.name}: no such file")
    assert refused(command(tmp_path / "mine.npz", "--method", "leace"), "methods=['leace']", "LEACE")
    assert refused(command(tmp_path / "mine.npz", "--seed", "-1"), "seed=-1")


# ---- the command -------------------------------------------------------------------------------------------------------------


def test_a_file_gives_what_its_arrays_give(tmp_path):
    npz(tmp_path / "plain.npz")
    np.savez_compressed(tmp_path / "small.npz", extra=np.zeros(3), **coded())
    expected = check(**coded(), methods=["LEACE"], seed=2)
    for name in ("plain.npz", "small.npz"):
        assert check_file(tmp_path / name, ["LEACE"], 2).equals(expected)


def test_the_command_prints_a_row_and_a_sentence_each_and_writes_the_whole_table(tmp_path, command):
    np.savez(tmp_path / "mine.npz", **alternating((0, 3, 4, 9)))
    code, printed, errors, out = command(tmp_path / "mine.npz")
    table = check(**alternating((0, 3, 4, 9)))
    assert (code, errors) == (0, [])
    assert printed[0].split() == command_line._PRINTED
    assert len(printed) == 1 + 6 + 6
    for line, row in zip(printed[1:7], table.itertuples(), strict=True):
        assert line.split()[: len(row.method.split())] == row.method.split() and line.endswith(row.outcome)
        numbers = [
            row.variance_removed,
            row.before,
            row.refit,
            row.refit_majority,
            row.refit_own,
            row.refit_own_majority,
        ]
        assert " ".join(f"{x:.3f}" for x in numbers) in " ".join(line.split())
        assert (row.positions_read or "none") in line
    assert printed[8] == "mean projection, one eraser: not removed"
    assert printed[12] == "LEACE, an eraser at each position: removed"
    pd.testing.assert_frame_equal(pd.read_csv(out, keep_default_na=False), table, check_dtype=False)
    assert [path.name for path in out.parent.iterdir()] == ["table.csv"]


def test_the_command_takes_methods_and_a_seed_and_needs_no_table(tmp_path, capsys):
    npz(tmp_path / "mine.npz")
    options = ["--method", "mean projection", "--method", "LEACE", "--seed", "3"]
    assert command_line.main(["check", str(tmp_path / "mine.npz"), *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    table = check(**coded(), methods=EXACT, seed=3)
    assert [line.split(",")[0] for line in printed[5:]] == table["method"].tolist()
    for line, row in zip(printed[1:5], table.itertuples(), strict=True):
        assert f"{row.before:.3f}" in line and f"{row.refit:.3f}" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


def test_the_command_says_what_was_left_out_and_where_an_eraser_does_nothing(tmp_path, capsys):
    for name, made in {"rare": ragged(rare=120), "few": coded(n=300), "none": rows()}.items():
        np.savez(tmp_path / f"{name}.npz", **made)

    def printed(name):
        assert command_line.main(["check", str(tmp_path / f"{name}.npz"), "--method", "direction"]) == 0
        return capsys.readouterr().out.splitlines()

    assert printed("rare")[-1].startswith("1 of 5 positions")
    assert printed("few")[-1].startswith("4 of 4 positions") and "-" in printed("few")[1].split()
    assert printed("none")[-1] == "direction, an eraser at each position: absent (it erases nothing)"


@pytest.mark.parametrize("blocked", ["folder", "parent"])
def test_a_table_that_cannot_be_written_is_one_line_and_leaves_nothing(blocked, tmp_path, capsys):
    npz(tmp_path / "mine.npz")
    (tmp_path / "there").mkdir()
    out = tmp_path / "there" if blocked == "folder" else tmp_path / "mine.npz" / "table.csv"
    assert command_line.main(["check", str(tmp_path / "mine.npz"), "--method", "LEACE", "--out", str(out)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and f"{out}: cannot be written" in errors[0]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine.npz", "there"]


def test_a_table_that_breaks_off_is_not_there(tmp_path, monkeypatch):
    npz(tmp_path / "mine.npz")

    def broken(self, path, **_):
        path.write_text("half a")
        raise ZeroDivisionError

    monkeypatch.setattr(pd.DataFrame, "to_csv", broken)
    with pytest.raises(ZeroDivisionError):
        command_line.main(["check", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "table.csv")])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


def test_it_is_a_command_of_the_module(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["statedepth", "check", str(tmp_path / "none.npz")])
    monkeypatch.delitem(sys.modules, "statedepth.__main__")
    with pytest.raises(SystemExit) as left:
        runpy.run_module("statedepth", run_name="__main__")
    assert left.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1

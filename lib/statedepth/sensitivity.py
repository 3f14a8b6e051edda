"""Does claim 1's verdict hang on our choices? Its criterion at other settings, and the profile through training.

The criterion and the predictions were committed before any model of a variant was probed; what was sharpened after four
of them had been is on the page, under limits. Tables in, verdicts and numbers out; no torch.
"""

import pandas as pd

from statedepth import flip, profiles
from statedepth.sensitivity_readings import (
    BASE,
    comparable,
    in_words,
    indices,
    lacking,
    late_on_parity,
    moves,
    new_models,
    sides,
    through_training,
    turned,
    variant_name,
)
from statedepth.verdicts import (
    JUDGED,
    NAMES,
    Numbers,
    Part,
    Prediction,
    Tables,
    Verdict,
    of_the_five,
    target_of,
    task_name,
)

CRITERION_PARTS = ("parity", "dyck", "late")  # of `flip.verdict_by_reading`, for each architecture

VARIANTS = (
    "d_model=32",
    "d_model=128",
    "n_layers=2",
    "n_layers=8",
    "length=10",
    "length=40",
    "supervision=last",
    "negative_eigenvalues=true",
    "residual=true",
)


PREDICTIONS = (
    Prediction("2026-11-26", "No other width, depth or training length changes the outcome of claim 1.", {f"{v}.outcome": True for v in VARIANTS[:6]}),
    Prediction("2026-11-26", "Neither negative eigenvalues nor a residual stream around LSTM and GRU changes it.", {f"{v}.outcome": True for v in VARIANTS[7:]}),
    Prediction("2026-11-26", "Supervised at the last position alone, the Transformer does not learn Parity, so that nothing can be compared.", {"supervision=last.tested": False}),
    Prediction("2026-11-26", "With eight blocks Mamba and Mamba-2 have their largest rise on Parity before the last; with two, Mamba has it at the last.", {"n_layers=8.mamba.late": False, "n_layers=8.mamba2.late": False, "n_layers=2.mamba.late": True}),
    Prediction("2026-11-26", "With a residual stream LSTM and GRU still read Parity after their first block.", {"residual=true.lstm.first": True, "residual=true.gru.first": True}),
    Prediction("2026-11-26", "With negative eigenvalues Mamba and Mamba-2 read Parity after their first block.", {"negative_eigenvalues=true.mamba.first": True, "negative_eigenvalues=true.mamba2.first": True}),
    Prediction("2026-11-26", "Through training, Mamba and Mamba-2 on Parity are not late before they have mastered it.", {"training.mamba.late_before": False, "training.mamba2.late_before": False}),
)  # fmt: skip


def outcomes(tables: Tables) -> dict[str, Verdict]:
    """Claim 1's verdict by its own criterion, of the models of each variant and no others.

    All by one rule: where one is provisional, so that intervals alone decide, they decide in all.
    """
    table = {"indices": indices(tables["varied_profiles"])}
    variants = table["indices"]["reading"].unique()
    found = {variant: flip.verdict_by_reading(table, variant) for variant in variants}
    if any(one.provisional for one in found.values()):
        found = {variant: flip.verdict_by_reading(table, variant, by_intervals=True) for variant in variants}
    return found


def flips(verdict: Verdict) -> dict[str, bool]:
    """Does it flip? For each architecture that could be tested."""
    return {p.key: p.holds for p in verdict.parts if p.key.endswith(".flips") and p.holds is not None}


def alike(verdict: Verdict, base: Verdict) -> bool | None:
    """The same outcome, by the same architectures where both could test them? None where one could not be tested at all."""
    if "not tested" in (verdict.outcome, base.outcome):
        return None
    ours, theirs = flips(verdict), flips(base)
    return verdict.outcome == base.outcome and all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys())


def held(verdict: Verdict) -> dict[str, int]:
    """How many of the three parts of claim 1's criterion hold, for each architecture of which all could be tested."""
    holds = {part.key: part.holds for part in verdict.parts}
    of = {a: [holds.get(f"{a}.{part}") for part in CRITERION_PARTS] for a in JUDGED}
    return {a: sum(map(bool, parts)) for a, parts in of.items() if None not in parts}


def _of_training(trajectory: pd.DataFrame) -> list[Part]:
    """On Parity: late before mastery, and late at the end, in at least 80% of the seeds that mastered it."""
    found = through_training(trajectory)
    found = found[(found["task"] == "parity") & (found["when"] != "not mastered")]
    parts = []
    for architecture, name in JUDGED.items():
        here = found[found["architecture"] == architecture]
        before = bool((here["when"] == "before").mean() >= flip.LATE_SHARE) if len(here) > 1 else None
        end = bool(here["late_end"].mean() >= flip.LATE_SHARE) if len(here) > 1 else None
        key = f"training.{architecture}"
        parts += [
            Part(
                f"{key}.late_before",
                f"{name} on Parity is late at some moment before it has mastered it, in {flip.LATE_SHARE:.0%} of seeds or more",
                before,
            ),
            Part(f"{key}.late_end", f"{name} on Parity is late when training ends, in as many", end),
        ]
    return parts


def verdict(tables: Tables) -> Verdict:
    """Does the outcome of claim 1 change with a setting?

    Each variant is judged by claim 1's own criterion (`flip.verdict_by_reading`) over the seeds of this study, and so is
    claim 1's setting over the same seeds. *Stable*: no variant that could be tested has another outcome, or another
    architecture that flips; *changes*: one has, named; *not tested*: no variant, or not claim 1's setting, could be
    tested. With fewer than five seeds anywhere intervals alone decide everywhere, and the verdict says provisional.
    """
    tables = of_the_five(tables)
    found = outcomes(tables)
    base = found.pop(BASE)
    parts: list[Part] = []
    same: list[str] = []
    differ: list[str] = []
    deciding = []
    for variant, one in found.items():
        same_outcome = alike(one, base)
        name = variant_name(variant)
        parts += [
            Part(f"{variant}.outcome", f"{name}: the outcome of claim 1 is the same", same_outcome),
            Part(f"{variant}.tested", f"{name}: the models that learned suffice to test claim 1", one.outcome != "not tested"),
        ]  # fmt: skip
        parts += [Part(f"{variant}.{part.key}", f"{name}: {part.text}", part.holds) for part in one.parts]
        if same_outcome is not None:
            (same if same_outcome else differ).append(variant)
        counts = ", ".join(f"{NAMES[a]} {n}" for a, n in held(one).items()) or "none could be tested"
        deciding.append({"label": f"{name}: of the three parts of claim 1's criterion, those that hold", "text": counts})  # fmt: skip
    parts += [Part(f"{BASE}.{part.key}", f"{variant_name(BASE)}: {part.text}", part.holds) for part in base.parts]
    parts += _of_training(tables["trajectory"])
    if not same and not differ:
        outcome, reasons = "not tested", ["No variant could be compared with claim 1's own setting."]
    else:
        outcome = "changes" if differ else "stable"
        reasons = [f"At its own setting, over the seeds of this study, claim 1 is {base.outcome}."]
        names = ", ".join(f"{variant_name(v)} ({found[v].outcome})" for v in differ)
        tested = {v: found[v] for v in same + differ}
        untested = [variant_name(v) for v in found if v not in tested]
        without = f"; {', '.join(untested)} could not be tested, since too few models learned" if untested else ""
        reasons.append(
            f"Of {len(found)} variants it comes out otherwise with {names}{without}."
            if differ
            else f"So it is in {len(same)} of {len(found)} variants{without}."
        )
        pairs = comparable(tables["varied"])
        partly = [variant_name(v) for v, one in tested.items() if any((v, a) not in pairs for a in held(one))]
        if partly:
            reasons.append(f"Only some of the architectures are other ones with {', '.join(partly)}.")
        reasons += _what_decides(tables, tested) + _what_moves(tables)
        reasons += [said] if (said := in_words(through_training(tables["trajectory"]))) else []
    provisional = any(one.provisional for one in (base, *found.values()))
    return Verdict("flip_sensitivity", "small", outcome, provisional, reasons, parts, deciding)


def _what_decides(tables: Tables, tested: dict[str, Verdict]) -> list[str]:
    """Which part of the criterion keeps the architectures from flipping, where a variant has other models of them."""
    possible = comparable(tables["varied"])
    pairs = {(v, a): n for v, one in tested.items() for a, n in held(one).items() if (v, a) in possible}
    if not pairs:
        return []
    late = late_on_parity(tables)
    early = sum(NAMES[a] not in late[v] for v, a in pairs)
    elsewhere = [f"{NAMES[a]} ({variant_name(v)})" for v in late if v not in tested and v != BASE for a in JUDGED if NAMES[a] in late[v]]  # fmt: skip
    said = f" Where claim 1 could not be tested, late are {', '.join(elsewhere)}." if elsewhere else ""
    return [
        f"In {early} of {len(pairs)} pairs of a variant and an architecture that it could change, the largest rise on Parity is not "
        f"at the last block in at least {flip.LATE_SHARE:.0%} of seeds, which no interval decides; of the three parts of the "
        f"criterion no pair holds more than {max(pairs.values())}.{said}"
    ]


def _what_moves(tables: Tables) -> list[str]:
    """Whose concentration on Parity leaves that of claim 1's setting; not by other numbers of blocks, which move it by themselves."""
    table = moves(tables)
    table = table[~table["variant"].str.startswith("n_layers")]
    said = [f"{NAMES[str(a)]} in {here['clear'].sum()} of {len(here)}" for a, here in table.groupby("architecture", sort=False)]  # fmt: skip
    return (
        [
            "With as many blocks, the concentration on Parity is another than at claim 1's setting, by its pointwise 95% interval, "
            f"for {', '.join(said)} variants."
        ]
        if said
        else []
    )


def beside_base(tables: Tables) -> pd.DataFrame:
    """Each variant's models, those that did not learn, and its outcome; a row per variant."""
    found, models, new = outcomes(tables), tables["varied"], new_models(tables["varied"])
    failed = lacking(models)
    rows = []
    for variant, one in found.items():
        here = models[models["variant"] == variant]
        names = here["architecture"].unique()
        other = [NAMES[a] for a in names if (variant, a) in new]
        lost = f"{(~here['passed']).sum()} of {len(here)}: {failed[variant]}"
        rows.append(
            {
                "setting": variant_name(variant),
                "other models": "all" if len(other) == len(names) else ", ".join(other),
                "did not learn": "none" if here["passed"].all() else lost,
                "claim 1": one.outcome,
            }
        )
    return pd.DataFrame(rows)


def intervals_turned(tables: Tables) -> pd.DataFrame:
    """`turned` as readers see it; apart from `beside_base`, whose columns would leave it no room on a phone."""
    return pd.DataFrame(
        [
            {"setting": variant_name(v), "C less the Transformer's, by its interval": said or "as at claim 1's setting"}
            for v, said in turned(tables).items()
        ]
    )


def profiles_moved(tables: Tables) -> pd.DataFrame:
    """Of each variant, who is late on Parity, and whose concentration there is another than at claim 1's setting."""
    late, table = late_on_parity(tables), moves(tables)
    rows = []
    for variant, names in late.items():
        here = table[(table["variant"] == variant) & table["clear"]]
        said = [f"{NAMES[row['architecture']]} {row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})" for row in here.to_dict("records")]  # fmt: skip
        rows.append(
            {
                "setting": variant_name(variant),
                "late on Parity": ", ".join(names) or "none",
                "C on Parity, less that at claim 1's setting": "" if variant == BASE else ", ".join(said) or "none clear of zero",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def numbers(tables: Tables) -> Numbers:
    """Every number that the pages quote from this study."""
    found = Numbers()
    add = found.add
    by_variant, models = outcomes(tables), tables["varied"]
    base = by_variant.pop(BASE)
    tested = {v: one for v, one in by_variant.items() if one.outcome != "not tested"}
    same = sum(bool(alike(one, base)) for one in tested.values())
    where = "sensitivity-verdict"
    add("variants", len(by_variant), str(len(by_variant)), "settings that were varied", "sensitivity-models")
    add("tested", len(tested), str(len(tested)), "of them, those in which claim 1 could be tested", where)
    add("same", same, f"{same} of {len(tested)}", "variants with claim 1's own outcome", where)
    # A setting that an architecture has not leaves its models as they were.
    models = models.drop_duplicates("checkpoint")
    seeds = models["seed"].nunique()
    add("seeds", seeds, str(seeds), "seeds of this study", "sensitivity-models")
    add("models", len(models), str(len(models)), "models of this study", "sensitivity-models")
    failed = int((~models["passed"]).sum())
    add("failed", failed, str(failed), "models that did not learn their task", "sensitivity-models")
    read = sides(tables)
    mamba = read[(read["task"] == "parity") & (read["architecture"] == "mamba")]
    half = float((mamba["high"] - mamba["low"]).median() / 2)
    add("half", half, f"{half:.2f}", "median half-width of the interval of Mamba's C minus the Transformer's on Parity", "sensitivity-contrasts")  # fmt: skip
    base_side = read[read["variant"] == BASE].set_index(["task", "architecture"])["side"].to_dict()
    both = [
        {base_side.get((t, a)), s} for t, a, s in zip(read["task"], read["architecture"], read["side"], strict=True)
    ]
    across = sum(pair == {"as claimed", "opposite"} for pair in both)
    add("across", across, str(across), "differences of C that are as claimed at one setting and opposite at claim 1's, or the other way round", "sensitivity-contrasts")  # fmt: skip
    negative = indices(tables["varied_profiles"]).query(
        "reading == 'negative_eigenvalues=true' and task == 'parity' and passed and index == 'concentration'"
    )
    negative = negative[negative["architecture"].isin(["mamba", "mamba2"])]
    first = int((negative["largest_site"] == 1).sum())
    add("negative.first", first if len(negative) else None, f"{first} of {len(negative)}", "models with negative eigenvalues with their largest rise on Parity at the first block", "sensitivity-profiles")  # fmt: skip
    way = through_training(tables["trajectory"]).query("task == 'parity' and architecture in ('mamba', 'mamba2')")
    before = int((way["when"] == "before").sum())
    add("before", before if len(way) else None, f"{before} of {len(way)}", "Mamba and Mamba-2 models that were late on Parity before mastery", "sensitivity-training")  # fmt: skip
    table = indices(tables["varied_profiles"]).query("passed and index == 'concentration'")
    for (variant, task, architecture), cell in table.groupby(["reading", "task", "architecture"], sort=False):
        if set(cell["variable"]) - {target_of(str(task))}:
            cell = cell[cell["variable"] == target_of(str(task))]
        value = profiles.mean_interval(cell["value"].dropna().to_numpy())
        label = f"concentration, {NAMES[str(architecture)]} on {task_name(str(task))}, {variant_name(str(variant))}"
        text = f"{value.estimate:.2f}" if value.n else ""
        key = f"{variant}.{architecture}.{task}.concentration"
        add(key, value.estimate, text, label, "sensitivity-contrasts", headline=True)
    for row in through_training(tables["trajectory"]).groupby(["task", "architecture"], sort=False):
        (task, architecture), here = row
        at = here["mastery"].median() / here["steps"].max()
        label = f"median share of training after which {NAMES[str(architecture)]} first masters {task_name(str(task))}, where it does"
        add(f"{architecture}.{task}.mastery", at, f"{at:.0%}", label, "sensitivity-training", True, "never")
    return found

"""Does claim 1's verdict hang on our choices? Its criterion at other settings, and the profile through training.

The criterion and the predictions were committed before any model of a variant was probed; what was sharpened after four
of them had been is on the page, under limits. Tables in, verdicts and numbers out; no torch.
"""

import math

import pandas as pd

from statedepth import flip, profiles
from statedepth.verdicts import (
    JUDGED,
    NAMES,
    THRESHOLD,
    Numbers,
    Part,
    Prediction,
    Tables,
    Verdict,
    target_of,
    task_name,
)

BASE = "base"  # the variant that is claim 1's own setting

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


def variant_name(variant: str) -> str:
    """A variant as readers see it: n_layers=8 is "8 blocks"."""
    setting, _, value = variant.partition("=")
    words = {
        BASE: "claim 1's setting",
        "d_model": f"width {value}",
        "n_layers": f"{value} blocks",
        "length": f"{value} tokens",
        "supervision": f"{value} position supervised",
        "negative_eigenvalues": "negative eigenvalues",
        "residual": "LSTM, GRU with residual",
    }
    return words.get(setting, variant)


PREDICTIONS = (
    Prediction("2026-11-26", "No other width, depth or training length changes the outcome of claim 1.", {f"{v}.outcome": True for v in VARIANTS[:6]}),
    Prediction("2026-11-26", "Neither negative eigenvalues nor a residual stream around LSTM and GRU changes it.", {f"{v}.outcome": True for v in VARIANTS[7:]}),
    Prediction("2026-11-26", "Supervised at the last position alone, the Transformer does not learn Parity, so that nothing can be compared.", {"supervision=last.tested": False}),
    Prediction("2026-11-26", "With eight blocks Mamba and Mamba-2 have their largest rise on Parity before the last; with two, Mamba has it at the last.", {"n_layers=8.mamba.late": False, "n_layers=8.mamba2.late": False, "n_layers=2.mamba.late": True}),
    Prediction("2026-11-26", "With a residual stream LSTM and GRU still read Parity after their first block.", {"residual=true.lstm.first": True, "residual=true.gru.first": True}),
    Prediction("2026-11-26", "With negative eigenvalues Mamba and Mamba-2 read Parity after their first block.", {"negative_eigenvalues=true.mamba.first": True, "negative_eigenvalues=true.mamba2.first": True}),
    Prediction("2026-11-26", "Through training, Mamba and Mamba-2 on Parity are not late before they have mastered it.", {"training.mamba.late_before": False, "training.mamba2.late_before": False}),
)  # fmt: skip


def indices(varied_profiles: pd.DataFrame) -> pd.DataFrame:
    """A table of `profiles.index_table`'s form of every profile; its `reading` is the variant."""
    rows = []
    by = ["task", "variable", "architecture", "seed", "passed"]
    for keys, cell in profiles.with_readability(varied_profiles).groupby(["variant", *by], sort=False):
        values = cell.sort_values("site")["readability"].to_numpy()
        shares = profiles.rise_shares(values)
        where = dict(zip(["reading", *by], keys, strict=True))
        where |= {"largest_site": 0 if shares is None else int(shares.argmax()) + 1, "last_site": len(values) - 1}
        rows += [{**where, "index": index, "value": value} for index, value in profiles.indices(values).items()]
    return pd.DataFrame(rows)


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


def late_on_parity(tables: Tables) -> dict[str, list[str]]:
    """Of each variant the architectures, by name, whose largest rise is at the last block in at least 80% of seeds.

    Of the models that learned Parity, two or more, as claim 1's criterion has it, but the Transformer is among them.
    """
    table = indices(tables["varied_profiles"]).query("task == 'parity' and passed and index == 'concentration'")
    found: dict[str, list[str]] = {variant: [] for variant in tables["varied"]["variant"].unique()}
    for (variant, architecture), here in table.groupby(["reading", "architecture"], sort=False):
        if len(here) > 1 and (here["largest_site"] == here["last_site"]).mean() >= flip.LATE_SHARE:
            found[str(variant)].append(NAMES[str(architecture)])
    return {variant: sorted(names, key=list(NAMES.values()).index) for variant, names in found.items()}


def flips(verdict: Verdict) -> dict[str, bool]:
    """Does it flip? For each architecture that could be tested."""
    return {p.key: p.holds for p in verdict.parts if p.key.endswith(".flips") and p.holds is not None}


def alike(verdict: Verdict, base: Verdict) -> bool | None:
    """The same outcome, by the same architectures where both could test them? None where one could not be tested at all."""
    if "not tested" in (verdict.outcome, base.outcome):
        return None
    ours, theirs = flips(verdict), flips(base)
    return verdict.outcome == base.outcome and all(ours[key] == theirs[key] for key in ours.keys() & theirs.keys())


CRITERION_PARTS = ("parity", "dyck", "late")  # of `flip.verdict_by_reading`, for each architecture


def moved(verdict: Verdict, base: Verdict) -> tuple[list[str], int]:
    """Statements of the criterion that come out otherwise than in `base`, and how many were tested in both."""
    ours, theirs = ({part.key: part for part in one.parts} for one in (verdict, base))
    keys = [
        key
        for key, part in ours.items()
        if key.rpartition(".")[2] in CRITERION_PARTS and part.holds is not None and key in theirs
    ]
    keys = [key for key in keys if theirs[key].holds is not None]
    return [ours[key].text for key in keys if ours[key].holds != theirs[key].holds], len(keys)


def through_training(trajectory: pd.DataFrame) -> pd.DataFrame:
    """When each model mastered its task, and when its profile was late; a row per model.

    Of the moments at which it was probed, `mastery` is the first step at which the accuracy at the training length is 99%
    or more (not a number: never); `first_late` the first at which the largest rise is at the last block; `late_end` says whether it is there when
    training ends. `when` puts the two in order: before, at, after, never late; or not mastered.
    """
    rows = []
    table = profiles.with_readability(trajectory)
    for (task, architecture, seed), model in table.groupby(["task", "architecture", "seed"], sort=False):
        late: dict[int, bool] = {}
        reached: dict[int, float] = {}
        for step in sorted(map(int, model["step"].unique())):
            cell = model[model["step"] == step].sort_values("site")
            shares = profiles.rise_shares(cell["readability"].to_numpy())
            late[step] = shares is not None and int(shares.argmax()) == len(shares) - 1
            reached[step] = float(cell["reached"].iloc[0])
        mastery = min((step for step, value in reached.items() if value >= THRESHOLD), default=math.nan)
        first = min((step for step, is_late in late.items() if is_late), default=math.nan)
        if math.isnan(mastery):
            when = "not mastered"
        elif math.isnan(first):
            when = "never late"
        else:
            when = "before" if first < mastery else "at" if first == mastery else "after"
        rows.append(
            {
                "task": task,
                "architecture": architecture,
                "seed": seed,
                "mastery": mastery,
                "first_late": first,
                "late_end": late[max(late)],
                "steps": max(late),
                "when": when,
            }
        )
    columns = ["task", "architecture", "seed", "mastery", "first_late", "late_end", "steps", "when"]
    return pd.DataFrame(rows, columns=columns)


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
        other, of = moved(one, base)
        deciding.append({"label": f"{name}: statements that come out otherwise", "text": f"{len(other)} of {of}"})
    parts += [Part(f"{BASE}.{part.key}", f"{variant_name(BASE)}: {part.text}", part.holds) for part in base.parts]
    parts += _of_training(tables["trajectory"])
    if not same and not differ:
        outcome, reasons = "not tested", ["No variant could be compared with claim 1's own setting."]
    else:
        outcome = "changes" if differ else "stable"
        reasons = [f"At its own setting, over the seeds of this study, claim 1 is {base.outcome}."]
        names = ", ".join(f"{variant_name(v)} ({found[v].outcome})" for v in differ)
        reasons.append(
            f"It comes out otherwise with {names}."
            if differ
            else f"So it is in all {len(same)} variants that could be tested."
        )
        lacking = [variant_name(v) for v in found if v not in same + differ]
        if lacking:
            reasons.append(f"Not tested, since too few models learned their task: {', '.join(lacking)}.")
        count = sum(bool(moved(one, base)[0]) for one in found.values())
        reasons.append(
            f"In {count} of {len(found)} variants some statement of the criterion about a single architecture comes out "
            "otherwise."
        )
        reasons += _in_words(through_training(tables["trajectory"]))
    provisional = any(one.provisional for one in (base, *found.values()))
    return Verdict("flip_sensitivity", "formal", outcome, provisional, reasons, parts, deciding)


def _in_words(found: pd.DataFrame) -> list[str]:
    """When each architecture was late on Parity, seed by seed."""
    said = []
    for architecture, here in found[found["task"] == "parity"].groupby("architecture", sort=False):
        counts = here["when"].value_counts()
        said.append(f"{NAMES[str(architecture)]} {', '.join(f'{when} in {n}' for when, n in counts.items())}")
    return [f"On Parity the largest rise comes to the last block, of {found['seed'].nunique()} seeds and beside mastery: {'; '.join(said)}."] if said else []  # fmt: skip


def beside_base(tables: Tables) -> pd.DataFrame:
    """Each variant's outcome, the models that learned their task, and what came out otherwise; a row per variant."""
    found, models = outcomes(tables), tables["varied"]
    rows = []
    for variant, one in found.items():
        here = models[models["variant"] == variant]
        other, of = moved(one, found[BASE])
        rows.append(
            {
                "setting": variant_name(variant),
                "learned": f"{here['passed'].sum()} of {len(here)}",
                "claim 1": one.outcome,
                "architectures tested": f"{len(flips(one))} of {len(JUDGED) - 1}",
                "statements otherwise": f"{len(other)} of {of}" if variant != BASE else "",
                "which": "; ".join(other) or ("" if variant == BASE else "none"),
            }
        )
    return pd.DataFrame(rows)


def training_table(tables: Tables) -> pd.DataFrame:
    """`through_training` as readers see it: a row per task and architecture, seed by seed."""

    def steps(values: pd.Series) -> str:
        return ", ".join("never" if math.isnan(value) else f"{value:,.0f}" for value in values)

    return pd.DataFrame(
        [
            {
                "task": task_name(str(task)),
                "architecture": NAMES[str(architecture)],
                "mastery": steps(here["mastery"]),
                "first late": steps(here["first_late"]),
                "of": f"{here['steps'].max():,}",
                "late, beside mastery": ", ".join(here["when"]),
                "late at the end": f"{here['late_end'].sum()} of {len(here)}",
            }
            for (task, architecture), here in through_training(tables["trajectory"]).groupby(
                ["task", "architecture"], sort=False
            )
        ]
    )


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

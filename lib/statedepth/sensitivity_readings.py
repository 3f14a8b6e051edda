"""What the sensitivity study shows beside its verdict: which models a setting changes, and what it does to them.

Tables in, tables and words out; nothing here decides an outcome.
"""

import math
from typing import Any

import pandas as pd

from statedepth import flip, profiles
from statedepth.verdicts import NAMES, THRESHOLD, Tables, task_name

BASE = "base"  # the variant that is claim 1's own setting


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
        "residual": "residual LSTM and GRU",
    }
    return words.get(setting, variant)


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


def new_models(varied: pd.DataFrame) -> set[tuple[str, str]]:
    """Variant and architecture whose models are not those of claim 1's setting: not all architectures have what is varied."""
    models = {where: set(of) for where, of in varied.groupby(["variant", "architecture"])["checkpoint"]}
    return {(str(v), str(a)) for (v, a), of in models.items() if v != BASE and of != models.get((BASE, a))}


def comparable(varied: pd.DataFrame) -> set[tuple[str, str]]:
    """Variant and architecture whose difference to the Transformer may be another than at claim 1's setting."""
    new = new_models(varied)
    pairs = set(zip(varied["variant"], varied["architecture"], strict=True))
    return {(v, a) for v, a in pairs if a != "transformer" and new & {(v, a), (v, "transformer")}}


def sides(tables: Tables) -> pd.DataFrame:
    """What the 95% interval of each architecture's C minus the Transformer's says, at each setting and on each task of claim 1.

    `side` is "as claimed" or "opposite" where the interval excludes zero, else "undecided"; "not tested" where fewer than
    two models of either learned.
    """
    found = flip.contrasts(indices(tables["varied_profiles"])).rename(columns={"reading": "variant"})
    found = found[(found["index"] == "concentration") & found["task"].isin(flip.TASKS)]

    def side(row: dict[Any, Any]) -> str:
        if row["n"] < 2:
            return "not tested"
        if row["low"] <= 0 <= row["high"]:
            return "undecided"
        return "as claimed" if row["difference"] * row["expected_sign"] > 0 else "opposite"

    columns = ["variant", "task", "architecture", "difference", "low", "high", "n"]
    return found[columns].assign(side=[side(row) for row in found.to_dict("records")]).reset_index(drop=True)


def turned(tables: Tables) -> dict[str, str]:
    """Of each variant what the intervals say otherwise than at claim 1's setting, in words; of that setting, what they say."""
    table = sides(tables)
    asked = list(table[["task", "architecture"]].drop_duplicates().itertuples(index=False, name=None))
    of = {
        (v, t, a): side for v, t, a, side in table[["variant", "task", "architecture", "side"]].itertuples(index=False)
    }
    found = {}
    for variant in tables["varied"]["variant"].unique():
        said: dict[str, list[str]] = {}
        for task, architecture in asked:
            before, after = (of.get((v, task, architecture), "not tested") for v in (BASE, variant))
            if variant == BASE or before != after:
                change = after if variant == BASE else f"{before} → {after}"
                said.setdefault(change, []).append(f"{NAMES[architecture]} on {task_name(task)}")
        found[variant] = "; ".join(f"{change}: {', '.join(names)}" for change, names in said.items())
    return found


def moves(tables: Tables) -> pd.DataFrame:
    """How far each architecture's own C on Parity is from that at claim 1's setting; a row per variant that changes it.

    `difference` with its Welch interval over seeds, of models that learned Parity, two or more of each; `clear`: the
    interval excludes zero. Asked after the run: it decides nothing.
    """
    table = indices(tables["varied_profiles"]).query("task == 'parity' and passed and index == 'concentration'")
    new = new_models(tables["varied"])
    of = {where: cell["value"].dropna().to_numpy() for where, cell in table.groupby(["reading", "architecture"], sort=False)}  # fmt: skip
    rows = []
    for (variant, architecture), values in of.items():
        base = of.get((BASE, architecture))
        if base is None or (variant, architecture) not in new:
            continue
        found = profiles.difference_interval(values, base)
        if found.n > 1:
            clear = bool(found.low > 0 or found.high < 0)
            numbers = {"difference": found.estimate, "low": found.low, "high": found.high, "clear": clear}
            rows.append({"variant": variant, "architecture": architecture, **numbers})
    return pd.DataFrame(rows, columns=["variant", "architecture", "difference", "low", "high", "clear"])


def lacking(varied: pd.DataFrame) -> dict[str, str]:
    """Of each variant the models that did not learn their task, counted by architecture and task, in words."""
    found: dict[str, list[str]] = {variant: [] for variant in varied["variant"].unique()}
    failed = varied[~varied["passed"]]
    for (variant, task, architecture), cell in failed.groupby(["variant", "task", "architecture"], sort=False):
        found[str(variant)].append(f"{NAMES[str(architecture)]} {len(cell)} on {task_name(str(task))}")
    return {variant: ", ".join(said) or "none" for variant, said in found.items()}


def through_training(trajectory: pd.DataFrame) -> pd.DataFrame:
    """When each model mastered its task, and when its profile was late; a row per model.

    Of the moments at which it was probed, `mastery` is the first step at which the accuracy at the training length is 99%
    or more (not a number: never); `first_late` the first at which the largest rise is at the last block; `late_end` says whether it is there when
    training ends, `at_mastery` and `at_end` at which block it is (0: no rise to speak of). `when` puts mastery and late in
    order: before, at, after, never late; or not mastered.
    """
    rows = []
    table = profiles.with_readability(trajectory)
    for (task, architecture, seed), model in table.groupby(["task", "architecture", "seed"], sort=False):
        late: dict[int, bool] = {}
        block: dict[float, int] = {}
        reached: dict[int, float] = {}
        for step in sorted(map(int, model["step"].unique())):
            cell = model[model["step"] == step].sort_values("site")
            shares = profiles.rise_shares(cell["readability"].to_numpy())
            block[step] = 0 if shares is None else int(shares.argmax()) + 1
            late[step] = shares is not None and block[step] == len(shares)
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
                "at_mastery": block.get(mastery, 0),
                "at_end": block[max(late)],
                "steps": max(late),
                "when": when,
            }
        )
    columns = [
        "task",
        "architecture",
        "seed",
        "mastery",
        "first_late",
        "late_end",
        "at_mastery",
        "at_end",
        "steps",
        "when",
    ]
    return pd.DataFrame(rows, columns=columns)


def in_words(found: pd.DataFrame) -> str:
    """On Parity, what `through_training` says of late and mastery; empty where Parity was not followed."""
    here = found[(found["task"] == "parity") & (found["when"] != "not mastered")]
    if not len(here):
        return ""
    end, before = int(here["late_end"].sum()), int((here["when"] == "before").sum())
    so = "" if end else ", so that these models cannot tell whether late comes before or after mastery"
    at = here["at_mastery"] == here["at_end"]
    return (
        f"On Parity, of {len(here)} models of claim 1's setting that master it, {end} are late when training ends{so}; "
        f"{before} were late at some moment before mastery. At mastery {at.sum()} have their largest rise at the block at which it is in the end."
    )


def training_table(tables: Tables) -> pd.DataFrame:
    """`through_training` as readers see it: a row per task and architecture, seed by seed."""

    def steps(values: pd.Series) -> str:
        return ", ".join("never" if math.isnan(value) else f"{value:,.0f}" for value in values)

    def block(number: int) -> str:
        return str(number) if number else "none"

    return pd.DataFrame(
        [
            {
                "task": task_name(str(task)),
                "architecture": NAMES[str(architecture)],
                "mastery": steps(here["mastery"]),
                "first late": steps(here["first_late"]),
                "of": f"{here['steps'].max():,}",
                "block of the largest rise at mastery": ", ".join(map(block, here["at_mastery"])),
                "at the end": ", ".join(map(block, here["at_end"])),
            }
            for (task, architecture), here in through_training(tables["trajectory"]).groupby(
                ["task", "architecture"], sort=False
            )
        ]
    )

"""Claim 1: its criterion, our dated predictions, and the numbers of its page.

The criterion was committed before the run that it judges. Tables in, verdicts and numbers out; no torch.
"""

import math
from dataclasses import replace

import pandas as pd

from statedepth import profiles
from statedepth.verdicts import (
    JUDGED,
    LEVEL,
    MIN_SEEDS,
    NAMES,
    Numbers,
    Part,
    Prediction,
    Tables,
    Verdict,
    interval_text,
    mean_text,
    of_the_five,
    target_of,
    task_name,
)

TASKS = ("parity", "dyck-2-4")
LATE_SHARE = 0.8  # share of seeds whose largest rise must be at the last block

# v1's figure: probe accuracy in per cent at L0..L3, read as sites 1..4 (our reading). The only published numbers.
PUBLISHED_PROFILES = pd.DataFrame(
    [
        {"architecture": architecture, "task": task, "site": site, "published": value / 100}
        for architecture, task, values in (
            ("mamba", "parity", (55, 60, 71, 100)),
            ("transformer", "parity", (55, 76, 98, 100)),
            ("mamba", "dyck-2-4", (73, 100, 100, 100)),
            ("transformer", "dyck-2-4", (100, 100, 100, 100)),
        )
        for site, value in enumerate(values, start=1)
    ]
)

PREDICTIONS = (
    Prediction("2026-11-22", "Mamba flips: more concentrated than the Transformer on Parity, less on Dyck, and late on Parity.", {"mamba.flips": True}),
    Prediction("2026-11-22", "Mamba-2 flips as Mamba does.", {"mamba2.flips": True}),
    Prediction("2026-11-22", "The LSTM is not late on Parity: its first block already holds the state.", {"lstm.late": False, "lstm.first": True}),
    Prediction("2026-11-22", "The GRU is not late on Parity: its first block already holds the state.", {"gru.late": False, "gru.first": True}),
    Prediction("2026-11-22", "By centre of mass there is no flip in Mamba: it is later than the Transformer on both tasks.", {"mamba.centre_flips": False, "mamba.later": True}),
)  # fmt: skip


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """Every architecture against the Transformer: each index, on each task, and the interaction of the two.

    From an `indices` table: models that passed only. `difference` is mean(a) - mean(Transformer) over seeds with its
    Welch interval and `p` its exact one-sided permutation p in the direction that claim 1 gives the index: over 0 on
    Parity, under 0 on Dyck, over 0 for the interaction (difference on Parity minus difference on Dyck, by seed). Spread
    and mean run against concentration (a state that comes late is read at fewer sites), so theirs are turned round. `p_holm` corrects over the family of all
    architectures and tasks of one index (the interaction is a family of its own).
    """
    usable = table[table["passed"] & table["value"].notna()]
    usable = usable[usable["variable"] == usable["task"].map(target_of)]
    rows = []
    for (reading, index), cell in usable.groupby(["reading", "index"], sort=False):
        seeds = {where: part.set_index("seed")["value"] for where, part in cell.groupby(["task", "architecture"])}

        def of(task: str, architecture: str, seeds: dict = seeds) -> pd.Series:
            return seeds.get((task, architecture), pd.Series(dtype=float))

        def flip_of(architecture: str) -> pd.Series:
            return (of("parity", architecture) - of("dyck-2-4", architecture)).dropna()

        towards = -1 if index in ("spread", "mean") else 1
        for architecture in [a for a in NAMES if a != "transformer" and a in set(table["architecture"])]:
            for task, sign, ours, theirs in (
                ("parity", towards, of("parity", architecture), of("parity", "transformer")),
                ("dyck-2-4", -towards, of("dyck-2-4", architecture), of("dyck-2-4", "transformer")),
                ("interaction", towards, flip_of(architecture), flip_of("transformer")),
            ):
                interval = profiles.difference_interval(ours.to_numpy(), theirs.to_numpy())
                rows.append(
                    {
                        "reading": reading,
                        "index": index,
                        "task": task,
                        "architecture": architecture,
                        "expected_sign": sign,
                        "difference": interval.estimate,
                        "low": interval.low,
                        "high": interval.high,
                        "n": interval.n,
                        "p": profiles.permutation_p(ours.to_numpy(), theirs.to_numpy(), sign),
                    }
                )
    columns = ["reading", "index", "task", "architecture", "expected_sign", "difference", "low", "high", "n", "p"]
    result = pd.DataFrame(rows, columns=columns)
    family = [result["reading"], result["index"], result["task"] == "interaction"]
    result["p_holm"] = result.groupby(family)["p"].transform(lambda p: profiles.holm(p.to_numpy())) if rows else []
    return result


def verdict(tables: Tables) -> Verdict:
    """Claim 1, from the `indices` table, by the pooled reading; the reasons say how many other readings agree."""
    pooled_verdict = verdict_by_reading(tables, "pooled")
    table = outcomes_by_reading(tables)
    others, pooled = table[table["reading"] != "pooled"], table[table["reading"] == "pooled"].iloc[0]
    if pooled_verdict.outcome == "not tested" or not len(others):
        return pooled_verdict
    differ = others[others["outcome"] != pooled_verdict.outcome]
    text = f"{len(others) - len(differ)} of {len(others)} other readings of the same profiles give the same outcome"
    if len(differ):
        text += "; not " + ", ".join(f"{row.reading} ({row.outcome})" for row in differ.itertuples())
    parts = list(READING_PARTS.values())
    moved = int((others[parts] != pooled[parts]).any(axis=1).sum())
    text += f"; in {moved} of them some part of the criterion comes out otherwise" if moved else ", part by part"
    return replace(pooled_verdict, reasons=[*pooled_verdict.reasons, f"{text}."])


READING_PARTS = {"parity": "more concentrated on Parity", "dyck": "less concentrated on Dyck", "late": "late on Parity"}


def outcomes_by_reading(tables: Tables) -> pd.DataFrame:
    """What the criterion of claim 1 gives by each reading: its outcome, and for whom each of its three parts holds."""
    rows = []
    for reading in tables["indices"]["reading"].unique():
        if reading == profiles.UNTRAINED:
            continue
        found = verdict_by_reading(tables, reading)
        holds = {part.key for part in found.parts if part.holds}
        row = {"reading": reading, "outcome": found.outcome}
        for key, name in READING_PARTS.items():
            row[name] = ", ".join(NAMES[a] for a in NAMES if f"{a}.{key}" in holds) or "none"
        rows.append(row)
    return pd.DataFrame(rows, columns=["reading", "outcome", *READING_PARTS.values()])


def concentration_by_seed(tables: Tables) -> pd.DataFrame:
    """C of every model that passed, and of the same architecture untrained, by task and architecture."""
    table = tables["indices"].query("index == 'concentration' and passed")
    table = table[table["variable"] == table["task"].map(target_of)]
    rows = []
    for (task, architecture), cell in table.groupby(["task", "architecture"], sort=False):
        trained = cell[cell["reading"] == "pooled"].sort_values("seed")
        untrained = cell[cell["reading"] == profiles.UNTRAINED]["value"]
        rows.append(
            {
                "task": task_name(str(task)),
                "architecture": NAMES[str(architecture)],
                "C of each seed": ", ".join(f"{value:.2f}" for value in trained["value"]),
                "largest rise at block": ", ".join(str(site) for site in trained["largest_site"]),
                "C untrained, mean": f"{untrained.mean():.2f}" if untrained.notna().any() else "no rise",
            }
        )
    return pd.DataFrame(rows)


def beside_published(tables: Tables) -> pd.DataFrame:
    """v1's sixteen accuracies, each beside ours: architecture, task, site, v1, ours with its interval, seeds."""
    table = tables["readability"].query("network == 'trained' and labels == 'task' and position == 0 and passed")
    rows = []
    for row in PUBLISHED_PROFILES.to_dict("records"):
        here = table[
            (table["task"] == row["task"])
            & (table["architecture"] == row["architecture"])
            & (table["site"] == row["site"])
        ]
        here = here[here["variable"] == target_of(row["task"])]
        value = profiles.mean_interval(100 * here["accuracy"].to_numpy())
        text = f"{value.estimate:.1f} ({value.low:.1f} to {value.high:.1f})" if value.n > 1 else f"{value.estimate:.1f}"
        rows.append(
            {
                "architecture": NAMES[row["architecture"]],
                "task": task_name(row["task"]),
                "site (v1's layer)": f"{row['site']} (L{row['site'] - 1})",
                "v1": f"{100 * row['published']:.0f}",
                "ours": text if value.n else "not run",
                "seeds": value.n,
            }
        )
    return pd.DataFrame(rows)


def published_contrasts(tables: Tables) -> dict[tuple[str, str], float]:
    """C(Mamba) - C(Transformer) of v1's figure, by task and by what site 0, which it does not have, is taken to be.

    "nothing": the probe of the embedding does no better than the most frequent class; "ours": it reads as in our models,
    mean over seeds. The most frequent class is that of our strings.
    """
    table = tables["readability"].query("network == 'trained' and labels == 'task' and position == 0 and passed")
    found = {}
    for task, published in PUBLISHED_PROFILES.groupby("task", sort=False):
        ours = table[(table["task"] == task) & (table["variable"] == target_of(str(task)))]
        for start in ("nothing", "ours"):
            of: dict[str, float] = {}
            for architecture, profile in published.groupby("architecture"):
                mine = ours[ours["architecture"] == architecture]
                majority, first = mine["majority"].mean(), mine.loc[mine["site"] == 0, "accuracy"].mean()
                values = [majority if start == "nothing" else first, *profile.sort_values("site")["published"]]
                readability = (pd.Series(values) - majority) / (1 - majority)
                of[str(architecture)] = (
                    profiles.indices(readability.to_numpy())["concentration"] if len(mine) else math.nan
                )
            found[str(task), start] = of["mamba"] - of["transformer"]
    return found


def verdict_by_reading(tables: Tables, reading: str, by_intervals: bool = False) -> Verdict:
    """Claim 1 by one reading of the profiles (see `profiles.index_table`); the claim is judged by the pooled one.

    For each architecture a but the Transformer, with C the concentration of the readability of the state (on
    Dyck: the stack top), over the models that passed: C(a) - C(Transformer) is over 0 on Parity and under 0 on Dyck, and
    on Parity the largest rise is at the last block in at least 80% of seeds. *Reproduced*: all architectures but the
    Transformer, and all four were run; *partly*: some, named; *not reproduced*: none. *Not tested*: fewer than two
    seeds passed for the Transformer, or for every other architecture, on one of the tasks.

    "Over" means that the 95% interval excludes 0 and that the Holm-corrected exact permutation p is under .05. The p is
    one-sided, since the claim gives the direction; at five seeds against five the least possible p of a family of
    eight is .032. With fewer than `MIN_SEEDS` seeds in any group no p of the family could reach .05: the interval alone
    decides, as it does where `by_intervals` asks for it, and the verdict says provisional.
    """
    table = of_the_five(tables)["indices"]
    table = table[table["reading"] == reading]
    found = contrasts(table)
    tested, flips, parts, deciding = [], [], [], []
    provisional = bool(by_intervals or len(found) == 0 or found["n"].min() < MIN_SEEDS)
    for architecture, name in JUDGED.items():
        if architecture == "transformer":
            continue
        rows = found[found["architecture"] == architecture]
        if not len(rows):
            parts.append(Part(f"{architecture}.flips", f"{name} flips against the Transformer", None))
            continue

        def over(task: str, index: str = "concentration", rows: pd.DataFrame = rows) -> bool | None:
            chosen = rows[(rows["index"] == index) & (rows["task"] == task)]
            if not len(chosen) or chosen["n"].iloc[0] < 2:
                return None
            row = chosen.iloc[0]
            clear = row["low"] > 0 if row["expected_sign"] > 0 else row["high"] < 0  # never where there is no interval
            return bool(clear and (provisional or row["p_holm"] < LEVEL))

        on_parity, on_dyck = over("parity"), over("dyck-2-4")
        on_last = table[(table["architecture"] == architecture) & (table["task"] == "parity")]
        on_last = on_last.query("passed and index == 'concentration'")
        late = (
            bool((on_last["largest_site"] == on_last["last_site"]).mean() >= LATE_SHARE) if len(on_last) > 1 else None
        )
        first = bool((on_last["largest_site"] == 1).mean() >= LATE_SHARE) if len(on_last) > 1 else None
        later = [
            row["low"] > 0 for _, row in rows[(rows["index"] == "centre") & (rows["task"] != "interaction")].iterrows()
        ]
        flipped = None if None in (on_parity, on_dyck, late) else bool(on_parity and on_dyck and late)
        parts += [
            Part(f"{architecture}.flips", f"{name} flips against the Transformer", flipped),
            Part(f"{architecture}.parity", f"{name} is more concentrated than the Transformer on Parity", on_parity),
            Part(f"{architecture}.dyck", f"{name} is less concentrated than the Transformer on Dyck", on_dyck),
            Part(f"{architecture}.late", f"{name} has its largest rise on Parity at the last block", late),
            Part(f"{architecture}.first", f"{name} has its largest rise on Parity at the first block", first),
            Part(
                f"{architecture}.later",
                f"{name} is later than the Transformer on both tasks by the centre index",
                all(later) if len(later) > 1 else None,
            ),
        ]
        for index in ("spread", "centre", "mean"):
            both = over("parity", index), over("dyck-2-4", index)
            holds = None if None in both else all(both)  # type: ignore[arg-type]
            parts.append(Part(f"{architecture}.{index}_flips", f"{name} flips by the {index} index", holds))
        if flipped is not None:
            tested.append(architecture)
            flips += [architecture] if flipped else []
        for task in ("parity", "dyck-2-4"):
            row = rows[(rows["index"] == "concentration") & (rows["task"] == task)]
            if len(row):
                label = f"C({name}) - C(Transformer) on {task_name(task)}"
                deciding.append({"label": label, "text": interval_text(row.iloc[0])})
    others = [a for a in JUDGED if a != "transformer"]
    if not tested:
        outcome, reasons = "not tested", ["Fewer than two seeds passed on one of the tasks in every comparison."]
    elif flips == others:
        outcome, reasons = "reproduced", ["All four architectures flip against the Transformer."]
    elif flips:
        names = " and ".join(NAMES[a] for a in flips)
        outcome, reasons = (
            "partly",
            [f"Only {names} of the {len(tested)} architectures tested flips against the Transformer."],
        )
    else:
        outcome, reasons = (
            "not reproduced",
            [f"None of the {len(tested)} architectures tested flips against the Transformer."],
        )
    return Verdict("flip", "formal", outcome, provisional, reasons, parts, deciding)


def numbers(tables: Tables) -> Numbers:
    """Every number that the pages quote from claim 1; what this run did not compute reads "not run"."""
    found = Numbers()
    add = found.add
    at_length = tables["models"].query("length == trained_length")
    sites = tables["readability"].query("network == 'trained' and labels == 'task' and position == 0 and passed")
    verdict_index = tables["indices"].query("passed and reading == 'pooled'")

    def mean_of(values: pd.Series) -> profiles.Interval:
        return profiles.mean_interval(values.dropna().to_numpy())

    for task in TASKS:
        variable = target_of(task)
        for architecture, name in NAMES.items():
            where = f"{architecture}.{task}"
            models = at_length[(at_length["task"] == task) & (at_length["architecture"] == architecture)]
            accuracy = mean_of(models["accuracy"])
            label = f"accuracy of {name} on {task_name(task)}"
            add(f"{where}.accuracy", accuracy.estimate, f"{accuracy.estimate:.1%}", label, "flip-models", True)
            everywhere = tables["models"].query("task == @task and architecture == @architecture")
            for times in (2, 4):
                beyond = everywhere[everywhere["length"] == times * everywhere["trained_length"]]
                longer = mean_of(beyond["accuracy"])
                label = f"accuracy of {name} on {task_name(task)} at {times} times the training length"
                add(f"{where}.accuracy.{times}x", longer.estimate, f"{longer.estimate:.1%}", label, "flip-models")
            passed = f"{models['passed'].sum()} of {len(models)}"
            n_passed = float(models["passed"].sum()) if len(models) else None
            add(
                f"{where}.passed", n_passed, passed, f"models of {name} that passed on {task_name(task)}", "flip-models"
            )
            mine = verdict_index.query("task == @task and architecture == @architecture and variable == @variable")
            for index in profiles.INDICES:
                value = mean_of(mine[mine["index"] == index]["value"])
                label = f"{index} of {name} on {task_name(task)}"
                headline = index == "concentration"
                add(f"{where}.{index}", value.estimate, mean_text(value), label, "flip-indices", headline)
            here = sites[
                (sites["task"] == task) & (sites["architecture"] == architecture) & (sites["variable"] == variable)
            ]
            here = profiles.with_readability(here)
            for site in range(max(5, *(here["site"] + 1))) if len(here) else range(5):
                value = mean_of(here[here["site"] == site]["readability"])
                label = f"readability at site {site} of {name} on {task_name(task)}"
                add(f"{where}.site{site}", value.estimate, mean_text(value), label, "flip-readability")
    for (task, start), apart in published_contrasts(tables).items():
        label = f"C(Mamba) - C(Transformer) of v1's figure on {task_name(task)}, where its site 0 reads {'as ours' if start == 'ours' else start}"
        add(f"published.{task}.{start}", apart, f"{apart:+.2f}", label, "flip-indices")
    n_models, n_failed = len(at_length), int((~at_length["passed"]).sum())
    add("models", n_models, str(n_models), "trained models", "flip-models")
    add("failed", n_failed, "none" if n_failed == 0 else str(n_failed), "models that failed", "flip-models")
    for architecture, name in NAMES.items():
        mine = at_length[at_length["architecture"] == architecture].head(1)
        steps, rate, grow_at = (mine[c].iloc[0] if len(mine) else math.nan for c in ("steps", "rate", "grow_at"))
        lengths = "lengths mixed nearly from the start" if grow_at == 0 else f"longer once {grow_at:.0%} are right"
        text = f"{steps:,.0f} steps at a rate of {rate:g}, {lengths}"
        add(f"{architecture}.recipe", float(steps), text, f"training recipe of {name}", "flip-models")
    comparisons = 2 * sum(a in set(at_length["architecture"]) for a in NAMES if a != "transformer")
    per_group = int(at_length.groupby(["task", "architecture"])["seed"].nunique().max())
    least = min(1.0, comparisons / math.comb(2 * per_group, per_group)) if comparisons else math.nan
    label = "least p that a comparison can have after Holm's correction"
    add("least_p", least, f"{least:.3f}", label, "flip-criterion")
    add("seeds", at_length["seed"].nunique(), str(at_length["seed"].nunique()), "seeds", "flip-models")
    length = int(at_length["trained_length"].iloc[0])
    add("length", length, str(length), "training length in tokens", "flip-models")
    differences = contrasts(tables["indices"]).query("reading == 'pooled'")
    for architecture in [a for a in NAMES if a != "transformer"]:
        for task in ("parity", "dyck-2-4", "interaction"):
            for index in profiles.INDICES:
                row = differences.query("architecture == @architecture and task == @task and index == @index")
                difference = float(row["difference"].iloc[0]) if len(row) else None
                text = interval_text(row.iloc[0]) if len(row) else ""
                label = f"{index} of {NAMES[architecture]} minus the Transformer's, {task_name(task)}"
                add(f"{architecture}.{task}.{index}_difference", difference, text, label, "flip-indices")
    return found

"""The house rules: imports flow one way, dependency files agree, the README's commands run, nothing private is tracked."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from statedepth.grid import ROOT

LIB = ROOT / "lib" / "statedepth"
ORDER = [
    *(
        "extensions",
        "files",
        "tasks",
        "kernels",
        "scan",
        "mixers",
        "models",
        "stream",
        "training",
        "analogue",
        "pretrained",
        "conv",
        "logistic",
        "probes",
        "erasers",
        "removal",
        "ablation",
        "windows",
        "necessity",
        "planted",
        "patching",
        "profiles",
        "tables",
        "verdicts",
        "flip",
        "grouping",
        "causal",
        "bottleneck_readings",
        "bottleneck",
        "sensitivity_readings",
        "sensitivity",
        "claims",
        "grid",
        "explorer",
    ),
    *(
        "render",
        "theme",
        "grouping_figures",
        "causal_figures",
        "bottleneck_figures",
        "overview_figures",
        "sensitivity_figures",
        "findings",
        "figures",
        "drawn",
        "listing",
        "exhibit",
        "icons",
        "explorer_page",
        "notebook",
        "extend",
        "redraw",
        "pages",
        "publish",
        "verify",
        "reproduce",
        "book",
        "__main__",
    ),
]


def imports_of(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "statedepth":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("statedepth.")}
    return found


def test_every_module_has_its_place_in_the_order():
    assert {p.stem for p in LIB.glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_flow_one_way(module):
    behind = {m for m in imports_of(LIB / f"{module}.py") if ORDER.index(m) >= ORDER.index(module)}
    assert not behind, f"{module} imports {behind}, which come after it"


def lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def requirement(text):
    name, rule = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", text).groups()
    return name.lower().replace("_", "-"), rule


def test_the_lock_satisfies_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        name, rule = requirement(text)
        assert lock()[name] in SpecifierSet(rule), f"{text}: the lock has {lock()[name]}"


def test_the_environment_is_the_lock():
    differing = {name: version(name) for name, wanted in lock().items() if version(name).split("+")[0] != wanted}
    assert not differing


def test_conda_installs_the_lock_and_gpu_adds_the_kernels_only():
    cpu, gpu = (yaml.safe_load((ROOT / f).read_text()) for f in ("environment.yml", "environment-gpu.yml"))
    pip_of = [next(d["pip"] for d in e["dependencies"] if isinstance(d, dict)) for e in (cpu, gpu)]
    assert pip_of[0] == ["-r requirements.lock", "-e ."]
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["gpu"]
    assert sorted(set(pip_of[1]) - set(pip_of[0])) == sorted(extra)
    assert cpu["dependencies"][0] == gpu["dependencies"][0] == "python=3.11"


def tracked():
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).exists()]


def test_no_pickle_no_machine_path_no_symlink():
    for path in tracked():
        assert not path.is_symlink(), f"{path}: symlinks break on Windows clones"
        assert path.suffix not in {".pt", ".pth", ".pkl", ".bin"}
        if path.suffix in {".py", ".md", ".ipynb", ".yml", ".yaml", ".json", ".csv", ".toml", ".cff"}:
            text = path.read_text()
            private = (
                re.findall(r"/(?:home|root|Users|work|tmp)/[\w.-]+", text) if path.name != Path(__file__).name else []
            )
            assert not private, f"{path}: names a path of one machine: {private[:3]}"


def test_tracked_files_stay_under_45_mib():
    assert sum(path.stat().st_size for path in tracked()) < 45 * 2**20


def fences():
    """(tag words, commands) of every shell fence of the README."""
    text = (ROOT / "README.md").read_text()
    return [(head.split(), body.strip()) for head, body in re.findall(r"```bash([^\n]*)\n(.*?)```", text, re.S)]


def test_readme_shows_a_time_beside_every_command():
    for words, body in fences():
        for line in body.splitlines():
            assert "gpu" in words or re.search(r"#.*\d+ (s|min)\b", line), f"no measured time beside: {line}"


@pytest.mark.parametrize(
    "command",
    [body for words, body in fences() if not {"long", "gpu"} & set(words)],
    ids=lambda c: c.splitlines()[0][:40],
)
def test_every_short_readme_command_runs(command):
    before = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    after = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout
    assert after == before, "the command touched tracked files"


# ---- CONTRIBUTING ---------------------------------------------------------------------------------------------------------


def test_the_picture_of_the_house_shows_every_module():
    picture = (ROOT / "book" / "_static" / "house.svg").read_text()
    shown = set(re.findall(r"\w+", " ".join(re.findall(r">([^<]*)</text>", picture))))
    hidden = {m for m in ORDER if m not in shown and not m.endswith(("_figures", "_readings"))} - {"__main__"}
    assert not hidden
    words = re.findall(r"monospace[^>]*>([^<]*)</text>", picture)
    named = {word for text in words if "," not in text for word in text.split()}
    assert named <= set(ORDER), "names a module that is gone"


def test_contributing_names_examples_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len(linked) == 6 and all((ROOT / place).exists() for place in linked)
    examples = {path.name for path in (ROOT / "tests" / "extensions").glob("*.py")}
    assert {Path(place).name for place in linked} == examples | {"house.svg"}

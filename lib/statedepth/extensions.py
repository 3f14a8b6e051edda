"""Files outside the package that are part of it where they are: `STATEDEPTH_EXTENSIONS`, or the folder extensions/.

Each is executed once, when the library is first imported, in every process; `statedepth.extend` is what they call.
"""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

VARIABLE = "STATEDEPTH_EXTENSIONS"  # files or folders, with the system's separator between them


@cache
def paths() -> tuple[Path, ...]:
    """The files, in the order in which they are executed. ValueError for a place that is not there."""
    found: list[Path] = []
    default = Path(__file__).resolve().parents[2] / "extensions"
    named = os.environ.get(VARIABLE)
    for place in map(Path, named.split(os.pathsep)) if named else [default]:
        if place.is_dir():
            found += sorted(place.glob("*.py"))
        elif place.exists():
            found.append(place)
        elif named:
            raise ValueError(f"{VARIABLE}={named!r}: {place} is not there")
    return tuple(dict.fromkeys(path.resolve() for path in found))


def load() -> None:
    """Execute them all, each as the module `statedepth_extension_NAME`."""
    if named := os.environ.get(VARIABLE):  # kernels and workers run in other folders
        os.environ[VARIABLE] = os.pathsep.join(str(Path(place).resolve()) for place in named.split(os.pathsep))
    for path in paths():
        name = f"statedepth_extension_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

"""A plan on disk: a folder with a model's graphs for one library, and `plan.json`, which says what they are.

    KILN_PLANS / MODEL-REVISION / LIBRARY-PRECISION / first.… others.… last.… plan.json

It is written whole or not at all, and read only if everything about it fits: graphs, model, weights, library and its
version, device, and the bytes of each file. Nothing is written beside it when it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from inference.card import ModelCard
from inference.errors import PlanUnavailable
from inference.plans import profiles
from inference.plans.profiles import Profile

# of the graphs' inputs, outputs and meaning: a plan of another one is not read
GRAPHS = 1
ABOUT = "plan.json"
# where plans are, unless KILN_PLANS says otherwise
ROOT = "~/.cache/kiln/plans"
BACKENDS = ("torch", "onnx", "tensorrt")
PRECISIONS = ("fp32", "fp16", "bf16")
LIBRARIES = ("onnxruntime", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class About:
    """What a plan is for. `gpus` are compute capabilities such as 8.9; empty: any device."""

    model: str
    revision: str
    precision: str
    library: str
    version: str
    profiles: tuple[Profile, ...]
    gpus: tuple[str, ...] = ()
    graphs: int = GRAPHS


@dataclass(frozen=True)
class Plan:
    """A plan whose files are what they were when it was written."""

    folder: Path
    about: About

    def file(self, part: str) -> Path:
        """Return the file of a graph, by its part's name."""
        (found,) = (path for path in self.folder.glob(f"{part}.*") if path.suffix in (".onnx", ".plan"))
        return found


def place(root: Path, card: ModelCard, library: str, precision: str) -> Path:
    """Return the folder of a model's plan."""
    model = re.sub(r"[^\w.-]+", "-", f"{card.name}-{card.revision}")
    return root / model / f"{library}-{precision}"


@contextmanager
def writing(folder: Path, about: About) -> Iterator[Path]:
    """Yield a folder to write the files into; it takes the plan's place at the end, unless something is raised."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{kind}.{os.getpid()}") for kind in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        files = {path.name: _fingerprint(path) for path in sorted(new.iterdir())}
        (new / ABOUT).write_text(json.dumps({**asdict(about), "profiles": _rows(about), "files": files}, indent=1))
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def read(folder: Path) -> Plan:
    """Read a plan and check the bytes of its files. Raises PlanUnavailable."""
    said = _said(folder)
    for name, fingerprint in said.pop("files").items():
        path = folder / name
        if not path.is_file() or _fingerprint(path) != fingerprint:
            raise PlanUnavailable(f"{path} is not what the plan was written with: build it again")
    return Plan(folder, _about(folder, said))


def about(folder: Path) -> About:
    """Return what a plan says of itself, without a look at its files. Raises PlanUnavailable."""
    said = _said(folder)
    said.pop("files")
    return _about(folder, said)


def check(plan: Plan, card: ModelCard, library: str, version: str, gpu: str | None) -> None:
    """Check that a plan is for this model, library and device. Raises PlanUnavailable, which says what differs."""
    found = plan.about
    expected = {"graphs": GRAPHS, "model": card.name, "revision": card.revision, "library": library, "version": version}
    for name, value in expected.items():
        if getattr(found, name) != value:
            raise PlanUnavailable(f"{plan.folder} has {name} {getattr(found, name)}, not {value}: build it again")
    if found.gpus and gpu not in found.gpus:
        raise PlanUnavailable(f"{plan.folder} is for GPUs of {', '.join(found.gpus)}, not {gpu}: build it for this one")


def everything(root: Path) -> list[Path]:
    """Return the folders of all plans under a root."""
    return sorted(path.parent for path in root.glob(f"*/[!.]*/{ABOUT}"))


def _said(folder: Path) -> dict[str, Any]:
    path = folder / ABOUT
    try:
        said = json.loads(path.read_text())
        assert isinstance(said, dict)
        assert isinstance(said["files"], dict)
    except FileNotFoundError as error:
        raise PlanUnavailable(f"there is no plan in {folder}: python -m inference.plans build") from error
    except (OSError, ValueError, AssertionError, KeyError) as error:
        raise PlanUnavailable(f"{path} is not what says what a plan is") from error
    return said


def _about(folder: Path, said: Mapping[str, Any]) -> About:
    try:
        if said.keys() != {field.name for field in fields(About)}:
            raise ValueError("its fields are others")
        values = {**said, "profiles": profiles.parse(said["profiles"]), "gpus": tuple(said["gpus"])}
    except (ValueError, TypeError, AttributeError) as error:
        raise PlanUnavailable(f"{folder / ABOUT}: {error}") from error
    return About(**values)


def _rows(about: About) -> list[dict[str, Any]]:
    return [{name: getattr(profile, name) for name in ("name", *profiles.AXES)} for profile in about.profiles]


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

"""Plans of a transformer of three small blocks with random weights, and one of the house model; each built once."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from inference.backends.planned import PlannedBackend
from inference.backends.pytorch import TorchBackend
from inference.card import ModelCard
from inference.models import catalog
from inference.plans import building, plan, profiles
from inference.plans.building import Wanted
from inference.plans.plan import Plan
from inference.plans.profiles import Profile, Range

pytest.importorskip("onnxruntime", reason="kiln[plans] is not installed")
pytest.importorskip("onnxscript", reason="kiln[plans] is not installed")

BLOCKS, CHANNELS, TEXT_WIDTH = 3, 16, 24
SMALL = Profile("small", Range(1, 2, 3), Range(4, 24, 64), Range(8, 8, 16), Range(0, 0, 32))


def transformer(**changes: bool) -> QwenImageTransformer2DModel:
    """Make the small transformer, the same each time; it sees condition pictures at another time."""
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        in_channels=CHANNELS, out_channels=4, num_layers=BLOCKS, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH, axes_dims_rope=(8, 12, 12), **{"zero_cond_t": True} | changes,
    )  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An export takes torch most of a minute, however small the model: whoever needs one runs at the full depth."""
    for item in items:
        if {"small_plan", "house_plans", "graphs"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("deep")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder by its name once for all processes of a run."""

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        base = tmp_path_factory.getbasetemp()
        folder = (base.parent if base.name.startswith("popen-") else base) / name
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "done").exists():
                folder.mkdir(exist_ok=True)
                fill(folder)
                (folder / "done").touch()
        return folder

    return make


@pytest.fixture(scope="session")
def small_card(once) -> ModelCard:
    def fill(folder: Path) -> None:
        transformer().save_pretrained(folder / "transformer")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline"}))

    return catalog.card(once("small-model", fill))


@pytest.fixture(scope="session")
def small_plan(once, small_card) -> Plan:
    root = once(
        "small-plans", lambda folder: building.build(small_card, folder, Wanted("onnxruntime", "fp32", (SMALL,)))
    )
    return plan.read(plan.place(root, small_card, "onnxruntime", "fp32"))


@pytest.fixture
def backends(small_plan) -> tuple[TorchBackend, PlannedBackend]:
    """The small transformer in torch, and by its plan."""
    from inference.plans.onnx import OnnxExecutor

    in_torch = TorchBackend(transformer())
    return in_torch, PlannedBackend(OnnxExecutor(small_plan), TorchBackend(transformer()))


@pytest.fixture(scope="session")
def house_plans(once) -> Path:
    """The root of plans with one of the house model."""
    wanted = Wanted("onnxruntime", "fp32", profiles.read())
    return once("house-plans", lambda folder: building.build(catalog.card(), folder, wanted))

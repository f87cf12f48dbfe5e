"""TensorRT compiles the graphs: all of them, with profiles and fused attention; what it cannot do is said."""

import pytest

from inference.backends.choice import Choice, executor
from inference.errors import ModelUnavailable, PlanUnavailable
from inference.plans import building, export, plan, tensorrt
from inference.plans.building import Wanted
from inference.plans.profiles import Profile, Range
from tests.inference.plans.conftest import BLOCKS, SMALL, transformer

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
pytestmark = pytest.mark.timeout(900)

LARGE = Profile("large", Range(1, 4, 16), Range(16, 1024, 1024), Range(8, 32, 256), Range(0, 0, 64))
GPUS = ("8.9",)
MEGABYTE = 1e6


@pytest.fixture(scope="session", params=["bf16", "fp16"])
def graphs(request, once):
    def fill(folder):
        export.export(transformer().to(tensorrt.TYPES[request.param]), folder, lambda _: None)

    return once(f"graphs-{request.param}", fill)


def test_graphs_compile_with_profiles_and_one_kernel_for_each_attention(graphs):
    made = {
        part: tensorrt.compile_graph("tensorrt_rtx", graphs / f"{part}.onnx", (SMALL, LARGE), GPUS)
        for part in ("first", "others", "last")
    }
    assert [each.fused_attentions for each in made.values()] == [2 * 1, 2 * (BLOCKS - 1), 0]
    assert all(each.content for each in made.values())
    # scores of the largest batch would take 16 rows · 2 heads · 1,280² · 2 bytes = 105 MB a block
    assert made["others"].scratch_bytes < 105 * MEGABYTE


@pytest.mark.deep
def test_a_plan_for_a_gpu_says_so_and_is_refused_without_one(tmp_path, small_card):
    told = []
    wanted = Wanted("tensorrt_rtx", "bf16", (SMALL,), GPUS)
    made = building.build(small_card, tmp_path, wanted, told.append)
    assert (made.about.gpus, made.about.library, made.about.precision) == (GPUS, "tensorrt_rtx", "bf16")
    assert [made.file(part).suffix for part in ("first", "others", "last")] == [".plan"] * 3
    assert any("attentions in one kernel each" in each for each in told)
    assert not list(tmp_path.glob(".*")), "the graphs are gone"
    with pytest.raises(PlanUnavailable, match="there is no GPU here"):
        executor(Choice("tensorrt", tmp_path), small_card, device=None)
    for gpu in (None, "9.0"):
        with pytest.raises(PlanUnavailable, match=r"is for GPUs of 8\.9"):
            plan.check(made, small_card, "tensorrt_rtx", tensorrt.version("tensorrt_rtx"), gpu)
    plan.check(made, small_card, "tensorrt_rtx", tensorrt.version("tensorrt_rtx"), "8.9")


def test_what_cannot_be_compiled_is_said_in_the_librarys_words(tmp_path):
    junk = tmp_path / "first.onnx"
    junk.write_bytes(b"junk" * 100)
    with pytest.raises(PlanUnavailable, match=r"tensorrt_rtx cannot read .*first\.onnx.*parse"):
        tensorrt.compile_graph("tensorrt_rtx", junk, (SMALL,), GPUS)


def test_gpus_that_a_library_does_not_know_are_refused_by_name(graphs):
    with pytest.raises(PlanUnavailable, match=r"compute capabilities 7\.5, .*, not 9\.0"):
        tensorrt.compile_graph("tensorrt_rtx", graphs / "last.onnx", (SMALL,), ("9.0",))


def test_a_plan_for_the_gpu_at_hand_needs_one(tmp_path, small_card):
    with pytest.raises(PlanUnavailable, match="name the compute capabilities"):
        building.build(small_card, tmp_path, Wanted("tensorrt_rtx", "bf16", (SMALL,)))
    assert not list(tmp_path.iterdir())


def test_a_library_that_is_not_there_is_named(tmp_path, small_card):
    with pytest.raises(ModelUnavailable, match="tensorrt cannot be loaded"):
        building.build(small_card, tmp_path, Wanted("tensorrt", "bf16", (SMALL,), GPUS))

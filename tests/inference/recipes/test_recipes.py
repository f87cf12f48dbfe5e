"""The steps, guidance and noise schedule that an adapter was made for travel with it and apply."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

from inference.adapters import recipes
from inference.adapters.recipes import Recipe
from inference.engine import Engine
from inference.errors import InvalidRequest
from inference.latent_cache.cache import LatentCache
from inference.latent_cache.mapping import Mapping, Point
from inference.latent_cache.stores import open_store
from inference.models import catalog
from tests.inference.conftest import difference, order

# generate_with_diffusers.py of ModelTC/Qwen-Image-Lightning
LIGHTNING = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
SAMPLERS = {
    "Lightning's": LIGHTNING,
    "a static shift": {"use_dynamic_shifting": False, "shift": 3.0},
    "a shift that grows with the size": {**LIGHTNING, "base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 16},
    "a shift counted linearly": {**LIGHTNING, "base_shift": 2, "max_shift": 5, "time_shift_type": "linear"},
    "a terminal sigma": {"shift": 3.0, "shift_terminal": 0.1},
    "Karras' sigmas": {"shift": 2.0, "use_karras_sigmas": True},
    "exponential sigmas": {"shift": 2.0, "use_exponential_sigmas": True},
    "none of its own": {},
}
NAMES = [
    "Qwen-Image-Lightning-8steps-V1.1",
    "Qwen-Image-Lightning-4steps-V1.0-bf16",
    "Qwen-Image-Edit-Lightning-8steps-V1.0",
    "Qwen-Image-Edit-2509-Lightning-4steps-V1.0-fp32",
    "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16",
    "Qwen-Image-2512-Lightning-4steps-V1.0-fp32",
    "Qwen-Image-fp8-e4m3fn-Lightning-4steps-V1.0-bf16",
]

Give = Callable[..., str]


@pytest.fixture
def give(adapter, tmp_path) -> Give:
    """Return the path of an adapter of that name, with a recipe beside it or in its metadata."""

    def copy(name: str = "adapter", beside: object = None, inside: object = None) -> str:
        path = tmp_path / f"{name}.safetensors"
        if inside is None:
            copyfile(adapter, path)
        else:
            save_file(load_file(adapter), path, {"kiln_recipe": json.dumps(inside)})
        if beside is not None:
            (tmp_path / f"{name}.recipe.json").write_text(json.dumps(beside))
        return str(path)

    return copy


def expected(pipeline, request, sampler) -> Image.Image:
    """Draw a request with diffusers' own pipeline, the sampler and adapter in their places."""
    before = pipeline.scheduler
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(sampler)
    ((path, scale),) = request.adapters
    pipeline.load_lora_weights(load_file(path), adapter_name="adapter")
    try:
        pipeline.set_adapters(["adapter"], [scale])
        return pipeline(
            request.prompt,
            negative_prompt="" if request.guided else None,
            true_cfg_scale=request.guidance_scale,
            num_inference_steps=request.steps,
            width=request.width,
            height=request.height,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
    finally:
        pipeline.unload_lora_weights()
        pipeline.scheduler = before


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_a_picture_is_diffusers_with_the_recipes_sampler(engine, pipeline, give, sampler, full):
    adapters = ((give(beside={"sampler": sampler}), 0.4),)
    for guidance_scale in (1.0, 3.0) if full else (3.0,):
        request = order(guidance_scale=guidance_scale, adapters=adapters, width=160)
        picture = engine.submit(request).result()
        assert np.abs(levels(picture.image) - levels(expected(pipeline, request, sampler))).max() <= 1


def test_a_recipe_is_found_in_the_metadata_beside_the_file_and_by_a_well_known_name(engine, pipeline, give):
    said = {"steps": 4, "guidance_scale": 1.0, "sampler": LIGHTNING}
    bare, beside, inside, known = give("bare"), give("beside", said), give("inside", None, said), give(NAMES[1])
    pictures = {}
    for path in (bare, beside, inside, known):
        steps, guidance_scale = (4, 1.0) if path == bare else catalog.defaults(catalog.card(), [(path, 0.4)])
        assert (steps, guidance_scale) == (4, 1.0)
        request = order(steps=steps, guidance_scale=guidance_scale, adapters=((path, 0.4),))
        pictures[path] = engine.submit(request).result()
    right = levels(expected(pipeline, request, LIGHTNING))
    assert all(np.abs(levels(pictures[path].image) - right).max() <= 1 for path in (beside, inside, known))
    assert np.abs(levels(pictures[bare].image) - right).max() > 5


@pytest.mark.parametrize("name", NAMES)
def test_lightnings_adapters_are_known_as_they_are_published(give, name):
    recipe = recipes.read(Path(give(name)))
    assert (recipe.steps, recipe.guidance_scale) == (4 if "4steps" in name else 8, 1.0)
    ours, right = (FlowMatchEulerDiscreteScheduler.from_config(each).config for each in (recipe.sampler, LIGHTNING))
    assert {**ours, "_use_default_values": None} == {**right, "_use_default_values": None}


def test_the_page_on_recipes_shows_a_valid_one(give):
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text()
    shown = page.partition("```json")[2].partition("```")[0]
    assert recipes.parse(shown) == recipes.read(Path(give(NAMES[1])))


def test_the_recipe_beside_a_file_goes_before_the_one_in_it_and_that_before_its_names(give):
    name = NAMES[0]
    assert recipes.read(Path(give(name, {"steps": 5}, {"steps": 6}))) == Recipe(steps=5)
    assert recipes.read(Path(give(name, {}, {"steps": 6}))) == Recipe()
    Path(give(name)).with_suffix(".recipe.json").unlink()
    assert recipes.read(Path(give(name, None, {"steps": 6}))) == Recipe(steps=6)


def test_who_names_steps_and_guidance_gets_them_on_the_recipes_schedule(engine, pipeline, give):
    request = order(steps=6, guidance_scale=2.5, adapters=((give(NAMES[1]), 0.4),))
    picture = engine.submit(request).result()
    assert picture.steps_run == 6
    assert np.abs(levels(picture.image) - levels(expected(pipeline, request, LIGHTNING))).max() <= 1


def test_without_adapters_or_a_recipe_the_models_defaults_apply(give):
    card = catalog.card()
    usual = (card.default_steps, card.default_guidance_scale)
    assert catalog.defaults(card) == catalog.defaults(card, [(give(), 1.0)]) == usual
    assert catalog.defaults(card, [("/nowhere/x.safetensors", 1.0)]) == usual
    assert catalog.defaults(card, [(give("half", {"steps": 6}), 1.0)]) == (6, card.default_guidance_scale)
    assert catalog.defaults(card, [(give("other", {"guidance_scale": 0}), 1.0)]) == (card.default_steps, 0)


def test_a_style_beside_a_distilled_adapter_is_drawn_by_its_recipe(engine, give):
    fast, style = give(NAMES[1]), give("style", {})
    for adapters in (((fast, 1.0), (style, 0.3)), ((style, 0.3), (fast, 1.0))):
        assert catalog.defaults(catalog.card(), adapters) == (4, 1.0)
        request = order(steps=4, guidance_scale=1.0, adapters=adapters)
        engine.submit(request).result()
        assert request.state.sigmas == pytest.approx((1, 0.9, 0.75, 0.5, 0))


@pytest.mark.parametrize(
    ("one", "other", "field"),
    [
        ({"steps": 4}, {"steps": 8}, "steps"),
        ({"guidance_scale": 1.0}, {"guidance_scale": 3.5}, "guidance_scale"),
        ({"sampler": LIGHTNING}, {"sampler": {"shift": 2.0}}, "sampler"),
    ],
    ids=["steps", "guidance", "sampler"],
)
def test_two_adapters_with_different_recipes_are_refused_by_name(engine, watch, give, one, other, field):
    adapters = ((give("one", one), 1.0), (give("plain"), 1.0), (give("other", other), 0.5))
    request = order(adapters=adapters)
    for refused in (lambda: engine.submit(request), lambda: catalog.defaults(catalog.card(), adapters)):
        with pytest.raises(InvalidRequest, match=f"one.*other.*differ in {field}") as refusal:
            refused()
        assert refusal.value.param == "adapters"
    assert not engine._fetching
    assert not watch.reports


def test_adapters_whose_recipes_agree_or_complete_each_other_go_together(give):
    adapters = [(give("one", {"steps": 4, "sampler": LIGHTNING}), 1.0), (give("two", {"steps": 4}), 1.0)]
    three = (give("three", {"guidance_scale": 1, "sampler": {**LIGHTNING, "shift_terminal": None}}), 1.0)
    recipe = recipes.combine([*adapters, three])
    assert (recipe.steps, recipe.guidance_scale, recipe.sampler["shift_terminal"]) == (4, 1, None)


def test_rows_of_different_schedules_share_a_forward_and_change_nothing(engine, watch, give):
    paths = [
        give("a", {"sampler": LIGHTNING}),
        give("b", {"sampler": {"shift": 6.0}}),
        give("c", {"sampler": {"shift": 0.5, "shift_terminal": 0.3}}),
        give("d"),
    ]
    given = [*(((path, 0.4),) for path in paths), ()]
    alone = [engine.submit(order(seed=seed, adapters=adapters)).result() for seed, adapters in enumerate(given)]
    watch.reset()
    requests = [order(seed=seed, adapters=adapters) for seed, adapters in enumerate(given)]
    watch.at(1, lambda: [engine.submit(request) for request in requests])
    engine.submit(order(steps=1)).result()
    together = [request.ticket.future.result() for request in requests]
    assert max(watch.rows("denoise")) >= 5
    assert len({request.state.sigmas for request in requests}) == 4
    assert all(difference(*pair) <= 1 for pair in zip(alone, together, strict=True))


@pytest.mark.parametrize("operation", ["img2img", "edit"])
def test_a_recipe_applies_to_every_operation(engine, give, operation):
    image = engine.submit(order(seed=3)).result().image
    request = order(operation=operation, images=(image,), adapters=((give(NAMES[1]), 0.4),))
    engine.submit(request).result()
    assert request.state.sigmas == pytest.approx((1, 0.9, 0.75, 0.5, 0))


def test_latents_of_one_schedule_are_nobodys_of_another(give, tmp_path):
    path = give(beside={"sampler": {"shift": 3.0}})
    cache = LatentCache(
        open_store(str(tmp_path / "latents.sqlite3")),
        Mapping(catalog.card().revision, (Point(0.9, 0.85), Point(0.95, 0.7)), drift=0.05),
    )
    wanted = {"steps": 8, "width": 64, "height": 64, "use_cache": True, "adapters": ((path, 0.2),)}
    skipped = []
    with Engine(device="cpu", latent_cache=cache) as engine:
        for sampler in ({"shift": 3.0}, {"shift": 3.0}, {"shift": 2.0}, {}):
            Path(path).with_suffix(".recipe.json").write_text(json.dumps({"sampler": sampler}))
            skipped.append(engine.submit(order(**wanted)).result().steps_skipped)
            cache.flush()
    cache.close()
    assert skipped[0] == 0 < skipped[1]
    assert skipped[2:] == [0, 0]


WRONG = {
    "no JSON": "{",
    "no object": "[4]",
    "nested without end": "[" * 100_000,
    "too long": json.dumps({"steps": 4}) + " " * recipes.MAX_RECIPE_BYTES,
    "no text": b"\xff\xfe",
    "an unknown field": '{"stpes": 4}',
    "an unknown field of the schedule": '{"sampler": {"sigma_max": 3}}',
    "no steps": '{"steps": 0}',
    "steps said twice": '{"steps": 4, "steps": 8}',
    "a shift said twice": '{"sampler": {"shift": 3, "shift": 1}}',
    "steps that are no number": '{"steps": "4"}',
    "half a step": '{"steps": 4.5}',
    "true steps": '{"steps": true}',
    "steps without end": '{"steps": 1e999}',
    "more digits than fit": f'{{"steps": {"9" * 5000}}}',
    "guidance that is no number": '{"guidance_scale": NaN}',
    "endless guidance": '{"guidance_scale": Infinity}',
    "guidance below zero": '{"guidance_scale": -1}',
    "no schedule": '{"sampler": "euler"}',
    "another sampler": '{"sampler": {"_class_name": "FlowMatchLCMScheduler"}}',
    "noise between the steps": '{"sampler": {"stochastic_sampling": true}}',
    "inverted sigmas": '{"sampler": {"invert_sigmas": true}}',
    "beta sigmas": '{"sampler": {"use_beta_sigmas": true}}',
    "sigmas of two kinds": '{"sampler": {"use_karras_sigmas": true, "use_exponential_sigmas": true}}',
    "another sense of time": '{"sampler": {"num_train_timesteps": 500}}',
    "a shift of nothing": '{"sampler": {"shift": 0}}',
    "a shift that is no number": '{"sampler": {"shift": NaN}}',
    "a huge shift": '{"sampler": {"use_dynamic_shifting": true, "max_shift": 1000}}',
    "a shift of another kind": '{"sampler": {"time_shift_type": "cubic"}}',
    "a terminal sigma of one": '{"sampler": {"shift_terminal": 1}}',
    "sizes the wrong way round": '{"sampler": {"base_image_seq_len": 4096, "max_image_seq_len": 256}}',
    "one size twice": '{"sampler": {"base_image_seq_len": 256, "max_image_seq_len": 256}}',
}


@pytest.mark.parametrize("said", WRONG.values(), ids=WRONG.keys())
def test_a_recipe_that_is_not_understood_is_refused_at_once_and_by_name(engine, give, said):
    path = Path(give("odd"))
    path.with_suffix(".recipe.json").write_bytes(said if isinstance(said, bytes) else said.encode())
    with pytest.raises(InvalidRequest, match=r"the recipe of adapter odd\.safetensors: ") as refusal:
        engine.submit(order(adapters=((str(path), 1.0),)))
    assert refusal.value.param == "adapters"
    assert len(str(refusal.value)) < 300


def test_one_in_the_metadata_is_refused_too(give):
    with pytest.raises(InvalidRequest, match="stpes"):
        recipes.read(Path(give("odd", None, {"stpes": 4})))


def test_a_schedule_that_does_not_reach_a_size_is_the_requests_fault(engine, give):
    growing = {"use_dynamic_shifting": True, "base_image_seq_len": 1, "max_image_seq_len": 2, "max_shift": 4.6}
    error = engine.submit(order(adapters=((give(beside={"sampler": growing}), 1.0),))).exception()
    assert isinstance(error, InvalidRequest)
    assert engine.warm


def test_more_steps_than_the_model_allows_are_refused_even_by_recipe(engine, give):
    path = give(beside={"steps": 500})
    steps, _ = catalog.defaults(catalog.card(), [(path, 1.0)])
    with pytest.raises(InvalidRequest, match="steps must be"):
        engine.submit(order(steps=steps, adapters=((path, 1.0),)))

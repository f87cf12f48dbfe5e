"""What a model takes is computed to a few per cent; other forms of weights draw nearly the same in less memory."""

import logging

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import nn
from torch.profiler import ProfilerActivity, profile

from inference import footprint, memory_profiles
from inference.adapters.layers import Layers
from inference.adapters.weights import Adapter, Shape
from inference.backends.choice import Choice
from inference.backends.pytorch import predict
from inference.engine import Engine
from inference.errors import ModelUnavailable
from inference.memory_profiles import AUTOMATIC, PROFILES, QWEN_IMAGE, USABLE
from inference.models import autoencoder, catalog, forms, qwen_image
from inference.models.forms import FORMS, UNCHANGED
from inference.models.transformer import make_rows_independent
from inference.request import Request

pytest.importorskip("torchao", reason="kiln[forms] is not installed")

GIB = 1024**3
HOUSE = catalog.HOUSE_MODEL
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def house():
    return memory_profiles.shape(catalog.card())


def measured(work):
    """Return the most bytes that torch's allocator gave out at once, as its profiler says."""
    work()  # what is made once is there
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = work()
        del result
    now = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(("rows", "grid", "text"), [(1, (8, 8), 12), (8, (16, 16), 20), (2, (32, 32), 40)])
def test_the_memory_of_a_step_is_computed_to_five_per_cent(house, rows, grid, text):
    real = make_rows_independent(QwenImageTransformer2DModel.from_pretrained(HOUSE, subfolder="transformer"))
    config = real.config
    latents, sigmas = torch.randn(rows, grid[0] * grid[1], config.in_channels), torch.rand(rows)
    texts = torch.randn(rows, text, config.joint_attention_dim)
    meta = house.two_blocks(forms.PLAIN, torch.float32)
    computed = footprint.step(meta, rows, [grid], text)
    assert computed == pytest.approx(
        measured(lambda: predict(real, latents, sigmas, texts, [text] * rows, [grid])), rel=0.05
    )


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("grid", [(8, 8), (12, 24), (32, 32)])
def test_the_memory_of_a_decode_is_computed_to_five_per_cent(house, grid, in_pieces):
    real = autoencoder.flatten_time(AutoencoderKLQwenImage.from_pretrained(HOUSE, subfolder="vae"))
    latents = torch.randn(grid[0] * grid[1], real.config.z_dim * 4)
    computed = footprint.decode(house.parts[1].float(), grid, in_pieces=in_pieces)
    assert computed == pytest.approx(
        measured(lambda: autoencoder.decode(real, latents, grid, in_pieces=in_pieces)), rel=0.05
    )


@pytest.mark.parametrize("form", FORMS)
def test_the_memory_of_weights_is_what_they_take(house, form):
    real = QwenImageTransformer2DModel.from_pretrained(HOUSE, subfolder="transformer", dtype=torch.bfloat16)
    forms.keep(real, form)
    taken = sum(part.nbytes for each in (*real.parameters(), *real.buffers()) for part in forms.parts(each))
    assert forms.size(house.parts[0], form) == taken


def test_qwen_image_has_twenty_billion_weights_and_a_text_encoder_of_eight():
    transformer, _, text_encoder = (forms.size(part, forms.PLAIN) / 2e9 for part in QWEN_IMAGE.parts)
    assert (round(transformer, 2), round(text_encoder, 2)) == (20.43, 8.29)


@pytest.mark.parametrize("form", FORMS[1:])
def test_adapters_change_each_layer_as_they_do_without(form):
    torch.manual_seed(0)
    layer = nn.Linear(256, 512)
    model = nn.ModuleDict({"blocks": nn.ModuleList([layer])})
    forms.keep(model, form)
    layers = Layers(model)
    adapter = Adapter(torch.randn(4 * (256 + 512)), {"blocks.0": Shape(4, 256, 512, 0.5)})
    factors = adapter.factors["blocks.0"]
    x = torch.randn(2, 8, 256)
    plain = layer(x)
    with layers.given([((adapter, 2.0),), ()]):
        adapted = layer(x)
    assert torch.allclose(adapted[0] - plain[0], x[0] @ factors.down.T @ factors.up * 0.5 * 2.0, rtol=1e-4, atol=1e-3)
    assert torch.equal(adapted[1], plain[1])


def drawn(profile_name):
    orders = [
        Request(prompt, width=128, height=128, steps=10, guidance_scale=4.0, seed=seed)
        for seed, prompt in enumerate(["a red circle on a blue background", "a large green star on a white background"])
    ]
    with Engine(device="cpu", profile=profile_name, max_batch_tokens=1024) as engine:
        futures = [engine.submit(order) for order in orders]
        return [np.asarray(future.result().image).astype(int) for future in futures]


@pytest.fixture(scope="module")
def plain():
    return drawn("plain")


@pytest.mark.parametrize(("name", "most"), [("int8", 1), ("fp8", 2), ("nf4-offload", 4)])
def test_other_forms_draw_nearly_the_same(plain, name, most):
    differences = [abs(one - other).mean() for one, other in zip(plain, drawn(name), strict=True)]
    assert 0 < max(differences) < most


def test_a_text_encoder_that_is_offloaded_says_the_same_and_stays_off_the_device():
    models = [qwen_image.load(catalog.card(), CPU, PROFILES[name]) for name in ("plain", "offload")]
    told = [model.encode("a red circle on a blue background") for model in models]
    assert torch.equal(*told)
    assert {each.device.type for each in models[1]._text_encoder.parameters()} == {"meta"}


def test_the_best_profile_that_fits_is_chosen_and_said(house, caplog):
    size = 256, 256
    totals = {name: memory_profiles.needs(house, PROFILES[name], size)[0].total for name in AUTOMATIC}
    caplog.set_level(logging.INFO, "inference.memory_profiles")
    for name in ("plain", "int8", "nf4"):
        assert memory_profiles.fitting(house, size, int(totals[name] / USABLE) + 1).name == name
        assert f"memory profile {name}" in caplog.records[-1].message
    assert memory_profiles.fitting(house, size, 1).name == AUTOMATIC[-1]
    assert memory_profiles.fitting(house, size, 1, ["plain", "offload"]).name == "offload"
    assert "no memory profile fits" in caplog.records[-1].message


def test_a_cpu_keeps_the_model_as_it_is(monkeypatch):
    monkeypatch.delenv("KILN_PROFILE", raising=False)
    assert memory_profiles.choose(None, catalog.card(), CPU) == UNCHANGED
    monkeypatch.setenv("KILN_PROFILE", "int8")
    assert memory_profiles.choose(None, catalog.card(), CPU).form == "int8"


def test_what_is_no_profile_is_told():
    with pytest.raises(ModelUnavailable, match="KILN_PROFILE must be auto or one of plain, offload, int8"):
        Engine(device="cpu", profile="tiny").start()
    with pytest.raises(ModelUnavailable, match="a plan has a precision of its own"):
        Engine(device="cpu", profile="int8", backend=Choice("onnx")).start()


@pytest.mark.deep
def test_the_command_says_which_cards_a_profile_fits(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["memory_profiles", "--qwen-image", "--rows", "2"])
    memory_profiles.main()
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["plain"].endswith(" 80 GB")
    assert "48 GB" not in rows["plain"]
    assert rows["int8"].endswith("48 GB, 80 GB")
    assert rows["nf4"].endswith("24 GB, 48 GB, 80 GB")

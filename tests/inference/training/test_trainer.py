"""A training learns, goes on as if it had never stopped, stops where its numbers break, and gives an adapter that the
engine and diffusers read."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from inference.adapters import files
from inference.adapters.layers import Layers
from inference.errors import InvalidTraining, TrainingDiverged
from inference.models import catalog, qwen_image
from inference.models.transformer import make_rows_independent
from inference.training import batches
from inference.training import trainer as training
from inference.training.hyperparameters import LAYERS, QWEN_IMAGE, SMALL, TEXT, Hyperparameters, suited
from inference.training.samples import Sample
from tests.inference.conftest import difference, order
from tests.inference.training.lessons import SIDE, edits, few, finish, framed, house, trainer

PROMPT = "a red circle on a white background"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a training that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finish(trainer(), folder)
    return folder


@pytest.mark.deep
def test_a_training_lowers_the_loss_on_pictures_it_never_learnt_from(tmp_path):
    one = trainer(framed(16), steps=40, held_out=0.25)
    before = one.evaluate().loss
    finish(one, tmp_path)
    assert one.best.score > -0.9 * before


def test_an_interrupted_training_gives_the_same_bits_as_one_that_was_not(tmp_path, whole):
    running = trainer().run(tmp_path)
    while next(running).step < 3:
        pass
    running.close()
    second = trainer()
    running = second.run(tmp_path)
    assert next(running).step == 4
    running.close()
    assert finish(trainer(), tmp_path) == (whole / "adapter.safetensors").read_bytes()
    for step in (2, 4, 6):
        name = f"adapter-{step:06d}.safetensors"
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path, whole):
    killed = trainer().run(tmp_path / "killed", 0)
    (tmp_path / "killed").mkdir()
    while next(killed).step < 3:
        pass
    # what is on the disk at this moment is all that a kill would leave
    shutil.copytree(tmp_path / "killed", tmp_path / "left")
    resumed = trainer()
    resumed.resume(tmp_path / "left" / training.CHECKPOINT)
    assert resumed.step_index == 3
    assert finish(trainer(), tmp_path / "left") == (whole / "adapter.safetensors").read_bytes()


def test_another_seed_gives_another_adapter(tmp_path, whole):
    assert finish(trainer(seed=1), tmp_path) != (whole / "adapter.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: trainer(rank=8), "hyperparameters"),
        (lambda: trainer(framed(7)), "examples"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, whole, change, named):
    shutil.copy(whole / training.CHECKPOINT, tmp_path)
    other = change()
    with pytest.raises(InvalidTraining, match=named):
        next(other.run(tmp_path))
    assert other.step_index == 0


@pytest.mark.parametrize("content", [b"", b"\x80\x04not safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / training.CHECKPOINT).write_bytes(content)
    with pytest.raises(InvalidTraining, match="not the checkpoint"):
        next(trainer().run(tmp_path))
    assert (tmp_path / training.CHECKPOINT).read_bytes() == content


def test_numbers_that_break_stop_the_training_with_its_last_good_checkpoint(tmp_path):
    model = house()
    one = trainer(model=model)
    running = one.run(tmp_path, 0)
    while next(running).step < 3:
        pass
    good = (tmp_path / training.CHECKPOINT).read_bytes()
    with torch.no_grad():
        model.transformer.proj_out.weight[0, 0] = torch.nan
    with pytest.raises(TrainingDiverged, match="step 4"):
        next(running)
    assert (one.step_index, one.best.step) == (3, 2)
    assert (tmp_path / training.CHECKPOINT).read_bytes() == good
    one.write(tmp_path / "adapter.safetensors")
    assert (tmp_path / "adapter.safetensors").read_bytes() == (tmp_path / "adapter-000002.safetensors").read_bytes()
    again = trainer()
    again.resume(tmp_path / training.CHECKPOINT)
    assert np.isfinite(again.step())


def test_the_loss_is_that_of_diffusers_own_transformer():
    one = trainer(framed())
    batch = batches.draw(one.learnt, one.chosen, 0)
    lengths = torch.tensor([[len(text)] for text in batch.texts])
    assert len(set(lengths.flatten().tolist())) > 1
    sigmas, (rows, columns) = batch.sigmas[:, None, None], batch.grids[0]
    transformer = QwenImageTransformer2DModel.from_pretrained(catalog.HOUSE_MODEL, subfolder="transformer")
    with torch.no_grad():
        predicted = transformer(
            hidden_states=(1 - sigmas) * batch.latents + sigmas * batch.noise,
            encoder_hidden_states=torch.nn.utils.rnn.pad_sequence(batch.texts, batch_first=True),
            encoder_hidden_states_mask=torch.arange(int(lengths.max()))[None] < lengths,
            timestep=batch.sigmas,
            img_shapes=[[(1, rows, columns)]] * len(batch.texts),
        ).sample
    theirs = (predicted - (batch.noise - batch.latents)).square().mean()
    ours = one.loss(batch)
    assert ours.requires_grad
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=0)
    with torch.no_grad():  # row by row, without a mask
        torch.testing.assert_close(one.loss(batch), theirs, rtol=1e-5, atol=0)


def test_a_large_model_keeps_fewer_activations_and_learns_the_same(monkeypatch):
    one = trainer()
    plain = [one.step() for _ in range(3)]
    monkeypatch.setattr(training, "LARGE", 1)
    model = house()
    other = trainer(model=model)
    assert model.transformer.gradient_checkpointing
    assert [other.step() for _ in range(3)] == pytest.approx(plain, rel=1e-4)


def test_a_model_in_16_bits_is_trained_with_factors_in_32(tmp_path, engine):
    model = qwen_image.load(catalog.card(), torch.device("cpu"), dtype=torch.bfloat16)
    one = trainer(model=model, steps=2)
    losses = [progress.loss for progress in one.run(tmp_path)]
    assert {factor.dtype for factor in one.factors.values()} == {torch.float32}
    exact = trainer(steps=2)
    assert losses == pytest.approx([exact.step(), exact.step()], rel=0.05)
    path = tmp_path / "adapter-000002.safetensors"
    assert {value.dtype for value in load_file(path).values()} == {torch.bfloat16}
    engine.submit(order(PROMPT, adapters=((str(path), 1.0),))).result()
    resumed = trainer(model=qwen_image.load(catalog.card(), torch.device("cpu"), dtype=torch.bfloat16), steps=2)
    resumed.resume(tmp_path / training.CHECKPOINT)
    assert resumed.done


def test_the_engine_reads_the_adapter_and_draws_otherwise(whole, engine):
    path = whole / "adapter.safetensors"
    layers = Layers(make_rows_independent(house().transformer))
    adapter = files.read(path, layers.sizes, torch.float32)
    assert adapter.rank == 4
    assert len(adapter.shapes) == 6 * len(LAYERS["all"]) - len(TEXT)
    plain, adapted = (
        engine.submit(order(PROMPT, adapters=adapters)).result() for adapters in ((), ((str(path), 1.0),))
    )
    assert difference(plain, adapted) > 20


def test_diffusers_draws_what_the_engine_draws_with_the_adapter(whole, engine, pipeline):
    path = whole / "adapter.safetensors"
    request = order(PROMPT, adapters=((str(path), 1.0),))
    drawn = np.asarray(engine.submit(request).result().image).astype(int)
    pipeline.load_lora_weights(whole, weight_name=path.name)
    try:
        size = {"width": request.width, "height": request.height, "num_inference_steps": request.steps}
        theirs = pipeline(
            PROMPT,
            negative_prompt="",
            true_cfg_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
            **size,
        ).images[0]
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(drawn - np.asarray(theirs)).max() <= 2


def test_the_file_says_what_it_was_made_from_and_how(whole):
    with safe_open(whole / "adapter.safetensors", framework="pt") as file:
        made = json.loads(file.metadata()["kiln_training"])
    assert made["model"] == catalog.card().revision
    assert made["hyperparameters"]["rank"] == 4
    assert made["step"] in (2, 4, 6)


def test_a_tier_decides_rank_and_layers(tmp_path):
    finish(trainer(rank=2, alpha=1.0, layers="attention", steps=2), tmp_path)
    layers = Layers(make_rows_independent(house().transformer))
    adapter = files.read(tmp_path / "adapter.safetensors", layers.sizes, torch.float32)
    assert len(adapter.shapes) == 6 * len(LAYERS["attention"]) - 2
    assert {(shape.rank, shape.scale) for shape in adapter.shapes.values()} == {(2, 0.5)}


def test_samples_are_what_the_engine_draws(engine, tmp_path):
    (example,) = edits(1)
    one = trainer(shown=[Sample(PROMPT)], steps=2)
    finish(one, tmp_path)
    assert (tmp_path / "samples-000002.png").exists()
    drawn = one.evaluate().images
    drawn += trainer(edits(), [Sample(example.captions[0], example.before)]).evaluate().images
    card = catalog.card()
    values = {"steps": card.default_steps, "guidance_scale": card.default_guidance_scale, "seed": 0}
    values |= {"width": SIDE, "height": SIDE}
    adapters = ((str(tmp_path / "adapter-000002.safetensors"), 1.0),)
    requests = [
        order(PROMPT, adapters=adapters, **values),
        order(example.captions[0], operation="edit", images=(example.before,), **values),
    ]
    for image, request in zip(drawn, requests, strict=True):
        theirs = engine.submit(request).result().image
        assert np.abs(np.asarray(image).astype(int) - np.asarray(theirs)).max() <= 2


@pytest.mark.deep
def test_edits_are_learnt_from_pairs(tmp_path):
    one = trainer(edits(8), steps=40, held_out=0.25, batch=6)
    before = one.evaluate().loss
    finish(one, tmp_path)
    assert one.best.score > -0.9 * before


def test_a_judge_may_decide_which_average_is_the_best(tmp_path):
    scores = iter([0.5, 0.9, 0.7])
    one = trainer(shown=[Sample(PROMPT)], judge=lambda images: next(scores))
    adapter = finish(one, tmp_path)
    assert (one.best.step, one.best.score) == (4, 0.9)
    assert adapter == (tmp_path / "adapter-000004.safetensors").read_bytes()
    with pytest.raises(InvalidTraining, match="samples"):
        trainer(judge=lambda images: 0.0)


def test_a_training_gives_back_all_memory_at_its_end(tmp_path):
    model = house()
    kept = [weakref.ref(model.transformer), weakref.ref(model)]
    one = trainer(model=model, steps=2)
    del model
    finish(one, tmp_path)
    one.close()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_the_text_encoder_is_gone_while_training():
    model = house()
    encoder = weakref.ref(model._text_encoder)
    one = trainer(model=model)
    gc.collect()
    assert encoder() is None
    assert np.isfinite(one.step())


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"rank": 257},
        {"rank": 0},
        {"batch": 0},
        {"resolution": 100},
        {"resolution": 16},
        {"learning_rate": float("nan")},
        {"learning_rate": 2.0},
        {"dropout": -0.1},
        {"layers": "everything"},
        {"held_out": 0.9},
        {"seed": -1},
    ],
)
def test_hyperparameters_out_of_bounds_are_refused_by_name(changes):
    with pytest.raises(InvalidTraining, match=next(iter(changes))):
        few(**changes)


def test_a_large_model_is_trained_otherwise_than_a_small_one():
    assert suited(8_000_000) == SMALL
    assert suited(20_000_000_000) == QWEN_IMAGE
    assert suited(20_000_000_000, rank=32, steps=None).alpha == 32.0
    with pytest.raises(InvalidTraining, match="lr"):
        suited(8_000_000, lr=1e-4)


def test_the_learning_rate_rises_and_falls():
    chosen = Hyperparameters(steps=100, warm_up=10, learning_rate=1e-3)
    rates = [chosen.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(5e-5, rel=0.03)

"""Every operation, from an order over HTTP to the picture that the real engine makes of it."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from django.db import connection
from PIL import Image, ImageDraw

from inference.engine import Engine
from inference.house_model.evaluate import Sampling, edit
from inference.models import catalog
from inference.state import Picture
from marketplace.jobs.worker import Worker
from tests.marketplace.api.test_order_pictures import data_url, terms
from tests.marketplace.files.test_uploads import send

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
SIZE = (120, 104)


@pytest.fixture(scope="module")
def engine():
    with Engine(catalog.card()) as engine:
        yield engine


@pytest.fixture
def made(alice, engine):
    """Buys and makes; returns the job and its first picture's pixels."""
    worker = Worker(engine)

    def make(operation, **changes):
        bought = alice.post("/v1/jobs", terms(operation, steps=4, **changes)).json()
        worker.fire(bought["id"])
        job = alice.get(f"/v1/jobs/{bought['id']}").json()
        assert job["status"] == "succeeded", job["error"]
        link = alice.get(job["images"][0]["url"])
        return job, np.asarray(Image.open(io.BytesIO(b"".join(link.streaming_content))).convert("RGB"))

    return make


@pytest.fixture(scope="module")
def original():
    """Noise beside a circle, so that a pixel which moved or was drawn again shows."""
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    ImageDraw.Draw(picture).ellipse((10, 10, 60, 60), fill=(220, 40, 40))
    return picture


def encoded(picture):
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize("holes", [False, True])
def test_an_inpaint_leaves_every_pixel_outside_the_mask(made, original, holes):
    mask = Image.new("RGBA" if holes else "L", SIZE, (0, 0, 0, 255) if holes else 0)
    mask.paste((0, 0, 0, 0) if holes else 255, (16, 16, 56, 72))
    job, pixels = made("inpaint", images=[data_url(encoded(original))], mask=data_url(encoded(mask)))
    outside = np.ones(pixels.shape[:2], bool)
    outside[16:72, 16:56] = False
    assert (pixels[outside] == np.asarray(original)[outside]).all()
    assert (pixels[~outside] != np.asarray(original)[~outside]).any()
    assert job["receipt"]["images"][0]["steps_run"] == job["progress"]["steps"] == 3


def test_an_edit_with_a_mask_changes_its_first_picture_there_alone(made, original):
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, (16, 16, 56, 72))
    second = encoded(Image.new("RGB", (64, 64), (0, 0, 255)))
    _, pixels = made("edit", images=[data_url(encoded(original)), data_url(second)], mask=data_url(encoded(mask)))
    changed = (pixels != np.asarray(original)).any(-1)
    assert changed[16:72, 16:56].any()
    changed[16:72, 16:56] = False
    assert not changed.any()


def test_an_outpaint_keeps_the_picture_at_its_place(made, original):
    _, pixels = made("outpaint", images=[data_url(encoded(original))], extend=[16, 32, 16, 0])
    assert pixels.shape[:2] == (SIZE[1] + 32, SIZE[0] + 32)
    assert (pixels[32:, 16 : 16 + SIZE[0]] == np.asarray(original)).all()


def test_a_redraw_leaves_every_pixel_outside_the_box(made, original):
    _, pixels = made("redraw", images=[data_url(encoded(original))], box=[40, 24, 80, 64])
    outside = np.ones(pixels.shape[:2], bool)
    outside[24:64, 40:80] = False
    assert (pixels[outside] == np.asarray(original)[outside]).all()


def test_an_img2img_with_little_strength_resembles_its_picture(made):
    red = Image.new("RGB", SIZE, (220, 40, 40))
    job, pixels = made("img2img", images=[data_url(encoded(red))], strength=0.25, prompt="a red background")
    assert np.abs(pixels.reshape(-1, 3).mean(0) - (220, 40, 40)).max() < 60
    assert job["receipt"]["images"][0]["steps_run"] == 1


class OverHttp:
    """Takes requests as an engine does, and orders their pictures."""

    def __init__(self, customer, worker):
        self.customer, self.worker = customer, worker
        self.pool = ThreadPoolExecutor(8)

    def submit(self, request):
        return self.pool.submit(self._make, request)

    def _make(self, request):
        names = ("prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "operation")
        images = [data_url(encoded(image)) for image in request.images]
        body = {name: getattr(request, name) for name in names} | {"images": images}
        try:
            bought = self.customer.post("/v1/jobs", body).json()
            self.worker.fire(bought["id"])
            link = self.customer.get(self.customer.get(f"/v1/jobs/{bought['id']}").json()["images"][0]["url"])
            picture = Image.open(io.BytesIO(b"".join(link.streaming_content)))
            return Picture(picture, steps_run=20, steps_skipped=0, seconds=1.0, seconds_waited=0.0)
        finally:
            connection.close()


@pytest.mark.timeout(1800)
@pytest.mark.deep
def test_edits_over_http_are_right_as_often_as_the_engines_own(alice, engine, full):
    count, sampling = 40 if full else 4, Sampling(20, 3.0)
    own = edit(engine, count, sampling)
    bought = edit(OverHttp(alice, Worker(engine)), count, sampling)
    assert bought["both"] >= own["both"], (own, bought)
    assert full is False or own["both"] > 0.7


def test_the_same_edit_of_the_same_content_is_not_made_again(made, alice, original):
    content = encoded(original)
    first, pixels = made("edit", images=[data_url(content)], width=128, height=128)
    file = send(alice, content).json()["id"]
    again, same = made("edit", images=[file], width=128, height=128)
    assert (first["cache"]["tier"], again["cache"]["tier"]) == ("none", "exact")
    assert (pixels == same).all()
    assert float(again["cost"]["captured"]) < float(first["cost"]["captured"])
    other = encoded(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert made("edit", images=[data_url(other)], width=128, height=128)[0]["cache"]["tier"] == "none"

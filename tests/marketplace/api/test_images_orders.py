"""OpenAI's words for orders: which order is meant by which body or form, and what is refused."""

import io
import json
import random

import PIL.Image
import pytest
from django.test.client import BOUNDARY, encode_multipart

from marketplace.api.later import Stream
from marketplace.jobs.models import Job
from tests.marketplace.api.asking import deliver, error
from tests.marketplace.api.test_order_pictures import RED, SIZE, data_url, drawn
from tests.marketplace.files.test_uploads import FORM, encoded, send

pytestmark = pytest.mark.django_db(transaction=True)


def bought(answer):
    """The job, and how its pictures are to be handed over: what the server that waits is told."""
    streamed = isinstance(answer.later, Stream)
    if not streamed:
        assert error(answer, 503)["code"] == "in_progress"
    wish = answer.later.write.__self__.wish if streamed else answer.later.answer.args[1]
    return Job.objects.get(id=answer.later.job_id), wish


def generate(customer, **body):
    headers = {name: body.pop(name) for name in list(body) if name[0].isupper()}
    return customer.post("/v1/images/generations", {"prompt": "a red circle", **body}, **headers)


def edit(customer, **body):
    return customer.post("/v1/images/edits", {"prompt": "make it blue", "images": [{"image_url": RED}], **body})


def form(customer, fields):
    return customer.post("/v1/images/edits", encode_multipart(BOUNDARY, fields), Content_Type=FORM)


def file(content, name="upload"):
    opened = io.BytesIO(content)
    opened.name = name
    return opened


@pytest.mark.parametrize(
    ("said", "order"),
    [
        ({}, {"width": 128, "height": 128, "steps": 20, "guidance_scale": 3.0}),
        ({"size": "auto", "quality": "auto", "n": None, "model": None}, {"width": 128, "height": 128, "steps": 20}),
        ({"size": "256x128"}, {"width": 256, "height": 128}),
        ({"quality": "low"}, {"steps": 10}),
        ({"quality": "hd"}, {"steps": 30}),
        ({"quality": "max", "steps": 12}, {"steps": 12}),
        ({"num_inference_steps": 8, "true_cfg_scale": 1.0}, {"steps": 8, "guidance_scale": 1.0}),
        ({"negative_prompt": "blue", "seed": 5}, {"negative_prompt": "blue", "cache": "exact"}),
        ({"output_format": "jpeg", "output_compression": 80}, {"output_format": "jpeg", "output_compression": 80}),
        ({"user": "u-1", "moderation": "low", "background": "opaque", "style": "vivid"}, {}),
    ],
)
def test_a_generation_in_their_words_is_an_order_in_ours(alice, said, order):
    job, _ = bought(generate(alice, **said))
    assert job.operation == "generate"
    assert {name: job.order.get(name) for name in order} == order


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        ({}, ("medium", False, False, 0)),
        ({"response_format": "url", "quality": "hd"}, ("high", True, False, 0)),
        ({"stream": True, "partial_images": 3, "quality": "low"}, ("low", False, True, 3)),
    ],
)
def test_how_the_pictures_are_handed_over_is_said_beside_the_order(alice, said, wish):
    _, told = bought(generate(alice, **said))
    assert (told.quality, told.in_urls, told.streamed, told.partial_images) == wish


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"size": "100x128"}, "size"),
        ({"size": "4096x4096"}, "size"),
        ({"size": "large"}, "size"),
        ({"size": "128x128", "width": 128}, "size"),
        ({"n": 11}, "n"),
        ({"partial_images": 4}, "partial_images"),
        ({"background": "transparent"}, "background"),
        ({"output_format": "svg"}, "output_format"),
        ({"output_compression": 80}, "output_compression"),
        ({"model": "gpt-image-2"}, "model"),
        ({"steps": 5, "num_inference_steps": 5}, "num_inference_steps"),
        ({"frame_count": 4}, "frame_count"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(alice, said, param):
    assert error(generate(alice, **said), 422)["param"] == param
    assert not Job.objects.exists()


def test_a_size_that_the_model_does_not_have_is_told_what_it_has(alice):
    told = error(generate(alice, size="100x128"), 422)["message"]
    assert told == "kiln-house has sides of 64 to 1024 pixels, multiples of 16."


def test_an_edit_takes_pictures_and_a_mask_in_json_and_in_a_form(alice):
    red, mask = encoded(size=SIZE), drawn("LA", colour=(255, 0))
    named = send(alice, red).json()["id"]
    in_json = edit(alice, images=[{"file_id": named}, {"image_url": RED}], mask={"image_url": data_url(mask)}, n=2)
    fields = {"prompt": "make it blue", "image[]": [file(red), file(encoded(size=SIZE))], "mask": file(mask), "n": "2"}
    both = [bought(answer)[0] for answer in (in_json, form(alice, fields))]
    assert both[0].order_digest == both[1].order_digest
    order = both[0].order
    assert (both[0].operation, both[0].n, len(order["images"]), order["mask"]["width"]) == ("edit", 2, 2, 128)
    assert (order["width"], order["height"]) == (160, 96)


def test_a_form_says_everything_as_text(alice):
    job, wish = bought(
        form(
            alice,
            {
                "prompt": "make it blue",
                "image": file(encoded(size=SIZE)),
                "stream": "true",
                "partial_images": "2",
                "seed": "7",
                "true_cfg_scale": "2.5",
                "deterministic": "false",
                "metadata[order]": "17",
                "metadata[b]": "true",
                "size": "128x128",
            },
        )
    )
    assert (wish.streamed, wish.partial_images, wish.event) == (True, 2, "image_edit")
    assert (job.seed, job.order["guidance_scale"], job.order["width"]) == (7, 2.5, 128)
    assert (job.metadata, job.order["deterministic"]) == ({"order": "17", "b": "true"}, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": "text"}, "images.0"),
        ({}, "images"),
        ({"image": file(b"hello")}, "images.0"),
        ({"image": file(encoded()), "markup": file(encoded())}, "markup"),
        ({"image": file(encoded()), "n": "two"}, "n"),
        ({"image": file(encoded()), "n": ["1", "2"]}, "n"),
        ({"image": file(encoded()), "a b": "x"}, "a b"),
        ({"image": file(encoded()), "image[]": file(encoded())}, "image"),
        ({"image": file(encoded()), "metadata[a][b]": "x"}, "metadata.a"),
        ({"images[]": "x", "images[][file_id]": "y"}, "images.0"),
        ({"image": file(encoded()), "adapters[]": "x", "adapters[][id]": "y"}, "adapters.0"),
        ({"image": file(encoded()), "adapters[][id]": "x", "adapters[][scale]": "0.5"}, "adapters.0"),
        ({"image": file(encoded()), "mask": file(drawn("LA", (16, 16), (0, 0)))}, "mask"),
    ],
)
def test_a_form_that_says_something_else_is_refused_by_name(alice, fields, param):
    for each in fields.values():
        if isinstance(each, io.BytesIO):
            each.seek(0)
    refused = error(form(alice, {"prompt": "make it blue", **fields}), 422)
    assert refused["param"] == param, refused


def test_other_bodies_and_what_is_retired_are_refused(alice):
    assert error(alice.post("/v1/images/edits", b"x", Content_Type="text/plain"), 415)["code"] == "not_json"
    refused = error(alice.post("/v1/images/variations", {}), 400)
    assert refused["code"] == "retired"
    assert error(edit(alice, images=[{"image_url": RED, "file_id": "x"}]), 422)["param"] == "images.0"
    assert error(edit(alice, images="x"), 422)["param"] == "images"
    assert error(edit(alice, mask={"image_url": None}), 422)["param"] == "mask"


def test_a_client_that_says_it_tries_again_buys_nothing_more(alice, bob):
    first, _ = bought(generate(alice, n=2))
    again, _ = bought(generate(alice, n=2, X_Stainless_Retry_Count="1"))
    assert again == first
    assert bought(generate(alice, n=2, X_Stainless_Retry_Count="9" * 5000))[0] == first
    assert bought(generate(alice, n=2))[0] != first, "the same order once more is another one"
    assert bought(generate(alice, n=3, X_Stainless_Retry_Count="1"))[0].n == 3
    assert error(generate(bob, n=2, X_Stainless_Retry_Count="2"), 402)["code"] == "insufficient_tokens"


def test_an_idempotency_key_goes_before(alice):
    first, _ = bought(generate(alice, Idempotency_Key="k"))
    assert bought(generate(alice, Idempotency_Key='"k"', X_Stainless_Retry_Count="1"))[0] == first
    assert bought(generate(alice, Idempotency_Key="other", X_Stainless_Retry_Count="1"))[0] != first


@pytest.mark.parametrize("streamed", [False, True])
def test_a_retry_of_what_was_forgotten_is_told_so(alice, picture, streamed):
    said = {"Idempotency_Key": "k", "stream": streamed}
    job, _ = bought(generate(alice, **said))
    deliver(job.id, picture)
    assert alice.delete(f"/v1/jobs/{job.id}").status_code == 204
    again = generate(alice, **said)
    if streamed:
        told = json.loads(again.content.removeprefix(b"data: "))["error"]
    else:
        told = error(again, 409)
        assert again["x-should-retry"] == "false"
    assert told["code"] == "forgotten"
    assert alice.balance[1] == 0


def test_pictures_as_text_may_be_as_large_in_json_and_in_a_form_as_a_file(alice):
    """Beside them there may be no more than in any body."""
    content = io.BytesIO()
    PIL.Image.frombytes("RGB", (1200, 1200), random.Random(5).randbytes(1200 * 1200 * 3)).save(content, "PNG")
    large = data_url(content.getvalue())
    assert len(large) > 5 * 1024**2
    body = {"prompt": "make it blue", "images": [large], "size": "128x128"}
    escaped = json.dumps(body).replace("/", "\\/").encode()
    assert bought(alice.post("/v1/images/edits", escaped))[0].operation == "edit"
    fields = {"prompt": "make it blue", "image": large, "size": "128x128"}
    assert bought(form(alice, fields))[0].operation == "edit"
    assert alice.post("/v1/quotes", {"operation": "edit", "prompt": "x", "images": [large]}).status_code == 200
    for words in ("é" * 70_000, ["x"] * 30_000):
        assert error(edit(alice, images=[large], prompt=words), 413)["code"] == "body_too_large"
    assert error(form(alice, fields | {"prompt": "x" * 70_000}), 413)["code"] == "body_too_large"
    unended = b'{"prompt": "x", "images": ["data:' + b'\\"data:' * 20_000
    assert error(alice.post("/v1/images/edits", unended), 400)["code"] == "malformed"

"""OpenAI's own client, unmodified, against a whole site: all that docs/openai.md says it can do."""

import asyncio
import base64
import io
import json
import signal

import httpx2 as httpx
import numpy as np
import openai
import pytest
from PIL import Image

from devstack import processes
from marketplace.accounts import keys
from marketplace.jobs import lifecycle
from marketplace.jobs.models import Job
from tests.marketplace.api.test_order_pictures import drawn
from tests.marketplace.files.test_uploads import encoded

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
PROMPT = "a red circle on a white background"
QUICK = {"steps": 3, "guidance_scale": 1.0}


@pytest.fixture
def client(site, alice):
    base = f"http://127.0.0.1:{site.ports.front}/v1"
    return openai.OpenAI(base_url=base, api_key=alice.key, max_retries=0, timeout=60)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_models_are_listed_and_found(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("kiln-house", "model", "kiln")
    assert client.models.retrieve("kiln-house") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-image-2")


def test_pictures_are_generated(client, alice):
    answer = client.images.generate(
        model="kiln-house", prompt=PROMPT, n=2, size="128x64", output_format="webp", output_compression=90,
        user="u-1", extra_body=QUICK | {"seed": 7},
    )  # fmt: skip
    assert [pixels(each.b64_json).shape for each in answer.data] == [(64, 128, 3)] * 2
    assert [each.model_extra["seed"] for each in answer.data] == [7, 8]
    assert (answer.size, answer.output_format, answer.background) == ("128x64", "webp", "opaque")
    usage = answer.usage
    assert (usage.input_tokens_details.text_tokens, usage.output_tokens) == (len(PROMPT), 2 * 8 * 4)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    job = alice.get(f"/v1/jobs/{answer.model_extra['id']}").json()
    assert job["cost"]["captured"] == answer.model_extra["cost"]
    assert answer._request_id


def test_pictures_may_be_links(client, site):
    answer = client.images.generate(prompt=PROMPT, response_format="url", extra_body=QUICK)
    (made,) = answer.data
    assert made.b64_json is None
    assert httpx.get(made.url).status_code == 200
    assert f":{site.ports.front}/" in made.url


@pytest.mark.parametrize("holes", [True, False])
def test_an_edit_takes_several_pictures_and_a_mask(client, holes):
    red, blue = encoded(size=(128, 128)), drawn("RGB", (128, 128), (40, 60, 220))
    mask = Image.new("RGBA" if holes else "L", (128, 128), (0, 0, 0, 255) if holes else 0)
    mask.paste((0, 0, 0, 0) if holes else 255, (0, 0, 64, 128))
    content = io.BytesIO()
    mask.save(content, "PNG")
    answer = client.images.edit(
        image=[red, ("blue.png", blue, "image/png")], mask=content.getvalue(), prompt="make it green",
        extra_body=QUICK,
    )  # fmt: skip
    made = pixels(answer.data[0].b64_json)
    assert (made[:, 64:] == (220, 40, 40)).all()
    assert (made[:, :64] != (220, 40, 40)).any()


def test_one_picture_is_edited(client):
    answer = client.images.edit(image=io.BytesIO(encoded(size=(96, 128))), prompt="make it blue", extra_body=QUICK)
    assert answer.usage.input_tokens_details.image_tokens == 6 * 8
    assert answer.size == "96x160"


def test_pictures_are_streamed_piece_by_piece(client):
    events = list(client.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body={"steps": 12}))
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert (events[0].output_format, pixels(events[0].b64_json).shape) == ("jpeg", (16, 16, 3))
    assert pixels(events[2].b64_json).shape == (128, 128, 3)
    assert events[2].usage.output_tokens == 64


def test_edits_are_streamed(client):
    picture = encoded(size=(128, 128))
    events = list(client.images.edit(image=picture, prompt="make it blue", stream=True, n=2, extra_body=QUICK))
    assert [event.type for event in events] == ["image_edit.completed"] * 2


def test_the_asynchronous_client_does_the_same(site, alice):
    async def make():
        base = f"http://127.0.0.1:{site.ports.front}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=alice.key, max_retries=0) as client:
            both = [client.images.generate(prompt=PROMPT, extra_body=QUICK) for _ in range(2)]
            edit = client.images.edit(image=encoded(size=(128, 128)), prompt="make it blue", extra_body=QUICK)
            made = await asyncio.gather(*both, edit)
            stream = await client.images.generate(prompt=PROMPT, stream=True, extra_body=QUICK)
            return made, [event.type async for event in stream]

    made, kinds = asyncio.run(make())
    assert all(each.data[0].b64_json for each in made)
    assert kinds == ["image_generation.completed"]


# --- errors ---


@pytest.mark.parametrize(
    ("said", "kind", "param", "code"),
    [
        ({"size": "100x100"}, openai.UnprocessableEntityError, "size", "invalid_value"),
        ({"n": 11}, openai.UnprocessableEntityError, "n", "max_value"),
        ({"model": "gpt-image-2"}, openai.UnprocessableEntityError, "model", "unknown_model"),
        ({"background": "transparent"}, openai.UnprocessableEntityError, "background", "invalid_choice"),
        ({"extra_body": {"max_cost": "0.001"}}, openai.UnprocessableEntityError, "max_cost", "cost_above_maximum"),
        ({"prompt": "x" * 4001}, openai.UnprocessableEntityError, "prompt", "max_length"),
    ],
)
def test_what_is_wrong_is_named(client, said, kind, param, code):
    with pytest.raises(kind) as caught:
        client.images.generate(**{"prompt": PROMPT, **said})
    assert (caught.value.param, caught.value.code) == (param, code)
    assert caught.value.request_id
    assert not Job.objects.exists()


def test_a_bad_key_and_an_empty_wallet_are_told_and_not_tried_again(client, bob):
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="kiln_wrong").images.generate(prompt=PROMPT)
    with pytest.raises(openai.APIStatusError) as caught:
        client.with_options(api_key=bob.key, max_retries=2).images.generate(prompt=PROMPT)
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_tokens")
    key, _ = keys.issue(bob.account.id, "another")
    assert key
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.images.edit(image=b"hello", prompt="make it blue")
    assert caught.value.code == "invalid_picture"
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/images/variations", cast_to=object, body={})
    assert caught.value.code == "retired"


def test_a_job_that_fails_or_is_canceled_is_an_error_in_both_forms(client, alice, site):
    """The worker is stopped meanwhile, so that the jobs stay in the queue and can be ended by hand."""
    site.kill("worker")
    try:
        for stream in (False, True):
            with pytest.raises(openai.APIError) as caught:
                _canceled_meanwhile(client, alice, stream)
            assert caught.value.code == "canceled"
    finally:
        site.start("worker")


def _canceled_meanwhile(client, alice, stream):
    async def make():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=alice.key, max_retries=2) as same:
            waits = asyncio.create_task(_whole(same, stream))
            while not await asyncio.to_thread(_cancel_all, alice):
                await asyncio.sleep(0.05)
            return await waits

    asyncio.run(make())


async def _whole(client, stream):
    answer = await client.images.generate(prompt=PROMPT, stream=stream, extra_body=QUICK)
    return [event async for event in answer] if stream else answer


def _cancel_all(alice):
    from django.db import connection

    try:
        waiting = list(Job.objects.filter(status="queued"))
        for job in waiting:
            lifecycle.cancel(alice.account.id, job.id)
        return waiting
    finally:
        connection.close()


# --- time-outs and retries ---


def test_a_client_that_gives_up_and_tries_again_buys_once(client):
    """The first tries end before the picture is there; the last one gets it."""
    hasty = client.with_options(max_retries=4, timeout=0.7)
    answer = hasty.images.generate(prompt=PROMPT, size="256x256", extra_body={"steps": 40})
    assert pixels(answer.data[0].b64_json).shape == (256, 256, 3)
    assert Job.objects.count() == 1


def test_without_retries_a_time_out_is_told(client):
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).images.generate(prompt=PROMPT, extra_body={"steps": 60})
    lifecycle_of = Job.objects.get()
    assert lifecycle_of.operation == "generate"


def test_where_nobody_can_wait_the_client_tries_until_the_picture_is_there(client, site):
    """The server that waits is away; the web server says that it takes a moment, and knows the order again."""
    site.kill("streams", signal.SIGTERM)
    try:
        answer = client.with_options(max_retries=8).images.generate(prompt=PROMPT, extra_body=QUICK)
        assert answer.data[0].b64_json
        assert Job.objects.count() == 1
    finally:
        site.start("streams")


def test_what_is_streamed_is_what_the_client_reads(site, alice):
    """Raw: events have data alone that the client takes for pictures; whatever keeps the line open is a comment."""
    body = {"prompt": PROMPT, "stream": True, **QUICK}
    headers = {"Authorization": f"Bearer {alice.key}"}
    url = f"http://127.0.0.1:{site.ports.front}/v1/images/generations"
    lines: list[str] = []

    def streamed():
        """Sends it again while the front does not know yet that the server which streams is there again."""
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
            if answer.status_code == 503:
                headers["x-stainless-retry-count"] = "1"
                return False
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            lines.extend(line for line in answer.iter_lines() if line)
            return True

    assert processes.wait_until(streamed, 20)
    assert lines[-2] == "event: image_generation.completed"
    assert json.loads(lines[-1].removeprefix("data: "))["type"] == "image_generation.completed"

"""Orders with input pictures: what each operation takes, from where, at what price, and what the books know of it."""

import base64
import io
import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from PIL import Image

from marketplace import keeping
from marketplace.files.models import File
from marketplace.files.remote import Downloader
from marketplace.jobs import inputs, lifecycle, reuse
from marketplace.jobs.models import Job
from marketplace.remote import Unreachable
from tests.marketplace.api.asking import balance, deliver, error
from tests.marketplace.files.test_uploads import encoded, send
from tests.marketplace.people import restrict

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
SIZE = (128, 96)


def data_url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def drawn(mode="L", size=SIZE, colour=255, kind="PNG"):
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, kind)
    return content.getvalue()


RED = data_url(encoded(size=SIZE))
MASK = data_url(drawn())
TERMS = {
    "edit": {"images": [RED], "prompt": "make it blue"},
    "img2img": {"images": [RED], "strength": 0.5},
    "inpaint": {"images": [RED], "mask": MASK},
    "outpaint": {"images": [RED], "extend": [16, 0, 32, 16]},
    "redraw": {"images": [RED], "box": [0, 0, 32, 32]},
}


def terms(operation, **changes):
    return {"operation": operation, "prompt": "a red circle", "steps": 20, "seed": 7} | TERMS[operation] | changes


def buy(customer, operation, status=202, **changes):
    answer = customer.post("/v1/jobs", terms(operation, **changes))
    assert answer.status_code == status, answer.content
    return answer.json()


def quoted(customer, operation, **changes):
    answer = customer.post("/v1/quotes", terms(operation, **changes))
    assert answer.status_code == 200, answer.content
    return answer.json()["factors"]


@pytest.mark.parametrize(
    ("operation", "size", "steps", "pixels"),
    [
        ("edit", (160, 96), 20, 160 * 96 + 128 * 96),
        ("img2img", (128, 96), 10, 128 * 96),
        ("inpaint", (128, 96), 12, 128 * 96),
        ("outpaint", (176, 112), 20, 176 * 112),
        ("redraw", (128, 128), 12, 128 * 128),
    ],
)
def test_every_operation_is_sold_at_the_picture_s_size_and_for_the_steps_that_run(
    alice, operation, size, steps, pixels
):
    factors = quoted(alice, operation)
    assert float(factors["resolution"]) == pytest.approx(pixels / 1024**2)
    assert float(factors["steps"]) == steps / 50
    assert not File.objects.exists()
    job = buy(alice, operation)
    assert (job["width"], job["height"]) == size
    assert (job["operation"], job["progress"]["steps"], job["steps"]) == (operation, steps, 20)
    assert [(each["width"], each["height"]) for each in job["inputs"]] == [SIZE]
    assert balance(alice)["held"] == job["quote"]["total"]
    assert alice.get(f"/v1/jobs/{job['id']}").json()["inputs"] == job["inputs"]


def test_a_picture_may_be_a_file_or_come_with_the_order_and_is_known_by_its_content(alice):
    content = encoded(size=SIZE)
    file = send(alice, content).json()
    job = buy(alice, "edit", images=[file["id"]])
    assert job["inputs"] == [{"file": file["id"], "sha256": file["sha256"], "width": 128, "height": 96}]
    assert buy(alice, "edit", images=[data_url(content)])["inputs"] == job["inputs"]
    assert buy(alice, "edit", images=[data_url(content, "application/octet-stream")])["inputs"] == job["inputs"]
    keys = {reuse.picture_key(job, "r1") for job in Job.objects.all()}
    assert len(keys) == 1
    assert reuse.picture_key(Job.objects.get(id=buy(alice, "edit", images=[MASK])["id"]), "r1") not in keys


def test_the_same_key_buys_once_whichever_way_the_picture_comes(alice):
    content = encoded(size=SIZE)
    first = alice.post("/v1/jobs", terms("edit", images=[data_url(content)]), Idempotency_Key="k")
    file = send(alice, content + b" ").json()["id"]
    again = alice.post("/v1/jobs", terms("edit", images=[data_url(content)]), Idempotency_Key="k")
    assert again.json()["id"] == first.json()["id"]
    assert again["Idempotent-Replayed"] == "true"
    other = alice.post("/v1/jobs", terms("edit", images=[file]), Idempotency_Key="k")
    assert error(other, 422)["code"] == "idempotency_key_reused"


def test_an_edit_sees_up_to_three_pictures_and_pays_for_each(alice):
    three = [data_url(drawn("RGB", SIZE, colour)) for colour in ("red", "green", "blue")]
    assert float(quoted(alice, "edit", images=three)["resolution"]) == pytest.approx(
        (160 * 96 + 3 * 128 * 96) / 1024**2
    )
    assert len(buy(alice, "edit", images=three)["inputs"]) == 3
    refused = error(alice.post("/v1/jobs", terms("edit", images=[*three, RED])), 422)
    assert (refused["param"], refused["message"]) == ("images", "Images must be 1 to 3 for edit, not 4.")


@pytest.mark.parametrize(
    ("operation", "changes", "param", "told"),
    [
        ("edit", {"images": []}, "images", "Images must be 1 to 3 for edit, not 0."),
        ("edit", {"prompt": " "}, "prompt", "Must not be blank."),
        ("edit", {"mask": data_url(drawn(size=(64, 64)))}, "mask", "Mask must have the size of its image"),
        ("outpaint", {"mask": MASK}, "mask", "Outpaint takes no mask."),
        ("edit", {"strength": 0.5}, "strength", "Edit takes no strength."),
        ("edit", {"images": ["red.png"]}, "images.0", "There is no such file."),
        ("edit", {"images": [RED, "0193a0a0-0000-7000-8000-000000000000"]}, "images.1", "There is no such file."),
        ("edit", {"images": ["data:image/png,x"]}, "images.0", "it is a data URL, and those must say"),
        ("edit", {"images": ["data:image/png;base64,???"]}, "images.0", "it is a data URL that is not base64"),
        ("edit", {"images": [data_url(b"hello")]}, "images.0", "it is not a PNG, JPEG or WebP file"),
        ("edit", {"images": [data_url(encoded(size=(4096, 16)))]}, "images.0", "not 4096 by 16"),
        ("edit", {"images": ["https://127.0.0.1/x.png"]}, "images.0", "its host is not on the public internet"),
        ("edit", {"images": ["http://example.com/x.png"]}, "images.0", "There is no such file."),
        ("img2img", {"strength": 0}, "strength", "Strength must be above 0"),
        ("img2img", {"strength": 1e-17}, "strength", "it leaves none to run"),
        ("inpaint", {"mask": None}, "mask", "Inpaint takes a mask"),
        ("inpaint", {"mask": data_url(drawn(size=(64, 64)))}, "mask", "Mask must have the size of its image"),
        ("inpaint", {"mask": data_url(drawn(colour=0))}, "mask", "Mask has no white"),
        ("inpaint", {"mask": data_url(drawn()[:60])}, "mask", "it is damaged"),
        ("outpaint", {"extend": [16, 0, 0, 8]}, "extend", "Extend must be multiples of 16"),
        ("outpaint", {"extend": [4096, 0, 0, 0]}, "width", "Must be a multiple of 16"),
        ("outpaint", {"extend": [0, 0, 0, 0]}, "extend", "not all of them 0"),
        ("redraw", {"box": [0, 0, 200, 32]}, "box", "Box must lie in its image"),
        ("redraw", {"box": None}, "box", "Redraw takes a box"),
        ("generate", {"images": [RED]}, "images", "Images must be 0 for generate, not 1."),
        ("generate", {"strength": 0.5}, "strength", "Generate takes no strength."),
    ],
)
def test_what_does_not_fit_is_refused_with_its_field_and_nothing_is_kept(alice, operation, changes, param, told):
    body = ({"operation": "generate", "prompt": "x"} if operation == "generate" else terms(operation)) | changes
    for path in ("/v1/quotes", "/v1/jobs"):
        refused = error(alice.post(path, body), 422)
        assert refused["param"] == param
        assert told in refused["message"]
    assert not Job.objects.exists()
    assert not File.objects.exists()


def test_a_file_of_another_account_is_not_there(alice, bob):
    file = send(bob, encoded()).json()["id"]
    refused = error(alice.post("/v1/quotes", terms("edit", images=[file])), 422)
    assert (refused["param"], refused["code"]) == ("images.0", "unknown_file")


def test_a_mask_with_holes_paints_the_holes(alice):
    """As OpenAI's clients send it; whatever is painted on the rest, and beneath the holes."""
    mask = Image.new("RGBA", SIZE, (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (0, 0, 64, 96))
    content = io.BytesIO()
    mask.save(content, "PNG")
    job = lifecycle.claim(buy(alice, "inpaint", mask=data_url(content.getvalue()))["id"], "w1")
    images, painted = inputs.load(job, _card())
    assert (images[0].size, painted.mode, painted.getpixel((0, 0)), painted.getpixel((64, 0))) == (SIZE, "L", 255, 0)
    opaque = buy(alice, "inpaint", mask=data_url(drawn("LA", colour=(255, 255))))
    assert inputs.load(Job.objects.get(id=opaque["id"]), _card())[1].getpixel((0, 0)) == 255


def test_a_deleted_or_expired_file_stays_for_the_jobs_that_need_it_and_goes_when_they_end(alice):
    file = send(alice, encoded(size=SIZE)).json()["id"]
    waits, other = (buy(alice, "edit", images=[file], seed=seed) for seed in (1, 2))
    assert alice.delete(f"/v1/files/{file}").status_code == 204
    assert alice.get(f"/v1/files/{file}").status_code == 404
    assert error(alice.post("/v1/jobs", terms("edit", images=[file])), 422)["code"] == "unknown_file"
    alice.post(f"/v1/jobs/{other['id']}/cancel")
    assert keeping.expire() == 0
    images, _ = inputs.load(Job.objects.get(id=waits["id"]), _card())
    assert images[0].size == SIZE
    alice.post(f"/v1/jobs/{waits['id']}/cancel")
    assert keeping.expire() == 1


def test_what_came_with_an_order_goes_an_hour_after_and_is_not_lost_before(alice, bob):
    job = buy(alice, "inpaint")
    assert {each["id"] for each in alice.get("/v1/files").json()["data"]} == {
        each["file"] for each in (job["mask"], job["inputs"][0])
    }
    File.objects.update(expires_at=Now() - timedelta(seconds=1))
    assert keeping.expire() == 0
    alice.post(f"/v1/jobs/{job['id']}/cancel")
    assert keeping.expire() == 2
    refused = error(bob.post("/v1/jobs", terms("edit")), 402)
    assert refused["code"] == "insufficient_tokens"
    assert set(File.objects.filter(account_id=bob.account.id).values_list("inline", flat=True)) == {True}


def test_what_orders_bring_counts_against_the_quota(alice):
    restrict(alice, files=1)
    buy(alice, "edit")
    assert buy(alice, "edit", seed=8)["inputs"]
    refused = error(alice.post("/v1/jobs", terms("inpaint")), 409)
    assert refused["code"] == "file_quota_reached"
    assert balance(alice)["held"] != "0"


def test_a_full_quota_does_not_hide_what_a_key_has_bought(alice, picture):
    key = {"Idempotency_Key": "once"}
    job = alice.post("/v1/jobs", terms("edit"), **key).json()
    deliver(job["id"], picture)
    File.objects.all().delete()
    restrict(alice, files=1)
    send(alice, drawn())
    again = alice.post("/v1/jobs", terms("edit"), **key)
    assert (again.status_code, again.json()["id"], again["Idempotent-Replayed"]) == (202, job["id"], "true")


def test_a_mask_that_is_deleted_while_it_is_ordered_with_is_not_there(alice, monkeypatch):
    mask = send(alice, drawn()).json()["id"]
    monkeypatch.setattr(inputs.uploads, "read", lambda _: (_ for _ in ()).throw(FileNotFoundError))
    refused = error(alice.post("/v1/jobs", terms("inpaint", mask=mask)), 422)
    assert (refused["param"], refused["code"]) == ("mask", "unknown_file")


def _card():
    from django.conf import settings

    from inference.models import catalog

    return catalog.card(settings.MODEL)


def test_an_account_whose_pictures_come_slowly_leaves_room_for_others(alice, bob, monkeypatch):
    """The third at once is told to come again, and another account's is fetched."""
    began, may_end = threading.Semaphore(0), threading.Event()

    def slow(*_):
        began.release()
        assert may_end.wait(20)
        raise Unreachable("it is slow")

    monkeypatch.setattr(Downloader, "get", slow)
    order = terms("edit", images=["https://slow.example.com/a.png"])

    def ask(customer, answers):
        try:
            answers.append(customer.post("/v1/quotes", order))
        finally:
            connection.close()

    slowly: list = []
    waiting = [threading.Thread(target=ask, args=(who, slowly)) for who in (alice, alice, bob)]
    for thread in waiting:
        thread.start()
        assert began.acquire(timeout=20)
    refused = alice.post("/v1/quotes", order)
    may_end.set()
    for thread in waiting:
        thread.join()
    assert error(refused, 503)["code"] == "busy"
    assert refused["Retry-After"] == "2"
    assert [error(answer, 422)["code"] for answer in slowly] == ["unreachable_picture"] * 3

"""Trainings over HTTP: quoted, bought, seen, watched, canceled; what is wrong is named."""

import gzip
import json

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

from billing.tokens import wallets
from lora import versions
from lora.models import Adapter, Version
from lora.versions import Facts
from marketplace import keeping
from marketplace.files.models import File
from marketplace.trainings import lifecycle, pictures
from marketplace.trainings.models import Training
from tests.marketplace.streams.servers import read
from tests.marketplace.trainings import making

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]


@pytest.fixture
def files(alice):
    return [str(making.file(alice, colour).id) for colour in making.COLOURS]


@pytest.fixture
def wanted(files):
    shown = zip(making.NAMES, files, strict=True)
    return {
        "tier": "craft",
        "pictures": [{"file": file, "caption": f"a {name} square on a white background"} for name, file in shown],
        "steps": 100,
        "seed": 1,
    }


NEW = {"slug": "glaze", "name": "Glaze", "trigger_words": ["glazed"]}


def test_tiers_are_for_anybody(client):
    found = client.get("/v1/tiers").json()["data"]
    assert [tier["name"] for tier in found] == ["sketch", "craft", "brand"]
    craft = found[1]
    assert (craft["base_cost"], craft["surcharge"], craft["resolution"]) == ("2500", "0.05", 1024)


def test_a_quote_says_what_a_training_costs_and_stores_nothing(alice, wanted):
    answer = alice.post("/v1/trainings/quotes", wanted)
    assert answer.status_code == 200
    assert answer.json() == {
        "total": "140.625",
        "steps": 100,
        "tier": "craft version 1",
        "factors": {"base_cost": "2500", "resolution": "0.5625", "steps": "0.1"},
    }
    assert not Training.objects.exists()


def test_a_new_adapter_is_bought_seen_and_listed(alice, wanted):
    answer = alice.post("/v1/adapters", {**wanted, **NEW}, Idempotency_Key="k")
    assert answer.status_code == 202, answer.content
    shown = answer.json()
    assert answer["Location"] == f"/v1/trainings/{shown['id']}"
    assert (shown["status"], shown["queue_position"], shown["pictures"]) == ("queued", 1, 6)
    assert shown["cost"] == {"quoted": "140.625", "held": "140.625", "captured": "0", "released": "0"}
    assert shown["progress"] == {"step": 0, "steps": 100, "loss": None, "seconds_left": None}
    assert (shown["adapter"]["slug"], shown["resolution"], shown["cancel_cost"]) == ("glaze", 128, "0")
    assert alice.get(answer["Location"]).json() == shown
    again = alice.post("/v1/adapters", {**wanted, **NEW}, Idempotency_Key="k")
    assert (again["Idempotent-Replayed"], again.json()["id"]) == ("true", shown["id"])
    assert alice.get("/v1/trainings").json()["data"] == [shown]
    further = alice.post(f"/v1/adapters/{shown['adapter']['id']}/trainings", wanted)
    assert further.json()["adapter"] == shown["adapter"]
    listed = alice.get(f"/v1/adapters/{shown['adapter']['id']}/trainings").json()["data"]
    assert [each["id"] for each in listed] == [further.json()["id"], shown["id"]]
    assert Adapter.objects.count() == 1


def test_an_order_sent_again_is_the_same_though_its_seed_was_drawn_and_its_files_are_gone(alice, wanted):
    del wanted["seed"]
    bought = alice.post("/v1/adapters", {**wanted, **NEW}, Idempotency_Key="k").json()
    assert alice.post("/v1/adapters", {**wanted, **NEW}, Idempotency_Key="k").json()["id"] == bought["id"]
    lifecycle.cancel(alice.account.id, Training.objects.get().id)
    assert pictures.clear() == 1
    assert not File.objects.exists()
    again = alice.post("/v1/adapters", {**wanted, **NEW}, Idempotency_Key="k")
    assert (again.status_code, again["Idempotent-Replayed"], again.json()["id"]) == (202, "true", bought["id"])
    other = alice.post("/v1/adapters", {**wanted, **NEW, "seed": 2}, Idempotency_Key="k")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    further = alice.post(f"/v1/adapters/{bought['adapter']['id']}/trainings", wanted, Idempotency_Key="k")
    assert further.json()["error"]["code"] == "idempotency_key_reused"
    assert Training.objects.count() == 1


def test_the_caption_of_all_names_each_file(alice, wanted, files):
    File.objects.filter(id=files[0]).update(name="my_old mug.png")
    for each in wanted["pictures"]:
        del each["caption"]
    answer = alice.post("/v1/adapters", {**wanted, **NEW, "caption": "glazed {name}"})
    assert answer.status_code == 202
    pictures = Training.objects.get().order["pictures"]
    assert [pictures[0]["captions"], pictures[1]["captions"]] == [["glazed my old mug"], ["glazed square"]]


def test_without_steps_a_training_takes_a_hundred_a_picture_within_the_tier(alice, wanted):
    del wanted["steps"]
    assert alice.post("/v1/trainings/quotes", wanted).json()["steps"] == 600
    assert alice.post("/v1/trainings/quotes", {**wanted, "pictures": wanted["pictures"][:4]}).json()["steps"] == 400


def without_captions(wanted):
    for each in wanted["pictures"]:
        del each["caption"]


def twice(wanted):
    wanted["pictures"][1]["file"] = wanted["pictures"][0]["file"]


def one_before(wanted):
    wanted["pictures"][0]["before"] = wanted["pictures"][1]["file"]


def unknown_file(wanted):
    wanted["pictures"][2]["file"] = "01a1fc35-d9b0-7c28-b357-b63e93188538"


def test_two_hundred_pictures_may_all_have_long_captions(alice, wanted):
    found = [making.file(alice, (number, 0, 0), side=32) for number in range(200)]
    said = "我们的釉：" + "a mug on a wooden table, " * 20
    wanted |= {"tier": "brand", "pictures": [{"file": str(each.id), "captions": [said, said[5:]]} for each in found]}
    assert len(json.dumps(wanted)) > 200_000
    assert alice.post("/v1/trainings/quotes", wanted).status_code == 200
    packed = gzip.compress(json.dumps({**wanted, **NEW}).encode())
    bought = alice.post("/v1/adapters", packed, Content_Encoding="gzip")
    assert (bought.status_code, bought.json()["pictures"]) == (202, 200)
    further = f"/v1/adapters/{bought.json()['adapter']['id']}/trainings"
    assert alice.post(further, wanted).status_code == 202
    for path in ("/v1/trainings/quotes", "/v1/adapters", further):
        answer = alice.post(path, {**wanted, "name": "x" * 1024**2})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), path


def only_the_files_names(wanted):
    without_captions(wanted)
    File.objects.update(name="__.png")
    wanted["caption"] = "{name}"


def no_instruction(wanted):
    files = [each["file"] for each in wanted["pictures"]]
    for each, before in zip(wanted["pictures"], files[1:] + files[:1], strict=True):
        each["before"] = before
    wanted["pictures"][1]["caption"] = "make <|video_pad|> red"


def no_instruction_to_show(wanted):
    no_instruction(wanted)
    wanted["pictures"][1]["caption"] = "make it red"
    wanted["samples"] = ["make it blue", "<|image_pad|>"]


@pytest.mark.parametrize(
    ("spoil", "param", "code"),
    [
        (lambda wanted: wanted.update(tier="golden"), "tier", "unknown_tier"),
        (lambda wanted: wanted.update(steps=2001), "steps", "outside_tier"),
        (lambda wanted: wanted.update(steps=0), "steps", "min_value"),
        (lambda wanted: wanted.update(resolution=130), "resolution", "invalid_value"),
        (lambda wanted: wanted.update(resolution=4096), "resolution", "invalid_value"),
        (lambda wanted: wanted.update(pictures=wanted["pictures"][:3]), "pictures", "min_length"),
        (lambda wanted: wanted.update(max_cost="140.624"), "max_cost", "cost_above_maximum"),
        (lambda wanted: wanted.update(colour="red"), "colour", "unknown_field"),
        (lambda wanted: wanted["pictures"][0].update(colour="red"), "pictures.0.colour", "unknown_field"),
        (lambda wanted: wanted["pictures"][0].update(caption="x" * 2001), "pictures.0.caption", "max_length"),
        (without_captions, "pictures.0", "no_caption"),
        (twice, "pictures", "picture_twice"),
        (one_before, "pictures", "invalid_value"),
        (unknown_file, "pictures.2.file", "unknown_file"),
        (only_the_files_names, "pictures.0", "invalid_value"),
        (no_instruction, "pictures.1", "invalid_value"),
        (no_instruction_to_show, "samples.1", "invalid_value"),
        (lambda wanted: wanted.update(slug="Glaze!"), "slug", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_bought(alice, wanted, spoil, param, code):
    spoil(wanted)
    answer = alice.post("/v1/adapters", {**NEW, **wanted})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (422, param, code), error
    assert not Training.objects.exists()
    assert not Adapter.objects.exists()
    assert wallets.balance(alice.account.id).held == 0


def test_anothers_file_is_none(alice, bob, wanted):
    wanted["pictures"][0]["file"] = str(making.file(bob, (1, 2, 3)).id)
    error = alice.post("/v1/trainings/quotes", wanted).json()["error"]
    assert (error["param"], error["code"]) == ("pictures.0.file", "unknown_file")


def test_a_slug_that_is_taken_is_refused(alice, wanted):
    assert alice.post("/v1/adapters", {**wanted, **NEW}).status_code == 202
    answer = alice.post("/v1/adapters", {**wanted, **NEW})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "slug_taken")
    assert Training.objects.count() == 1


def test_whoever_cannot_pay_is_told_the_price(bob):
    files = [str(making.file(bob, colour).id) for colour in making.COLOURS]
    wanted = {"tier": "craft", "caption": "a square", "steps": 100, "pictures": [{"file": file} for file in files]}
    answer = bob.post("/v1/adapters", {**wanted, **NEW})
    assert (answer.status_code, answer.json()["error"]["code"]) == (402, "insufficient_tokens")
    assert not Adapter.objects.exists()


def test_a_file_is_kept_while_a_training_needs_it(alice, wanted, files):
    alice.post("/v1/adapters", {**wanted, **NEW})
    assert alice.delete(f"/v1/files/{files[0]}").status_code == 204
    assert alice.get(f"/v1/files/{files[0]}").status_code == 404
    assert File.objects.filter(id=files[0]).exists()


def test_a_training_that_ends_takes_no_picture_from_a_job_and_forgets_what_was_said_of_them(alice, wanted, files):
    bought = alice.post("/v1/adapters", {**wanted, **NEW}).json()
    edit = {"operation": "img2img", "prompt": "a fox", "images": [files[0]], "strength": 0.5}
    job = alice.post("/v1/jobs", edit).json()
    alice.post(f"/v1/trainings/{bought['id']}/cancel")
    assert pictures.clear() == 1
    assert [str(each) for each in File.objects.values_list("id", flat=True)] == [files[0]]
    assert alice.get(f"/v1/files/{files[0]}").status_code == 404
    assert "square" not in json.dumps(Training.objects.get().order)
    shown = alice.get(f"/v1/trainings/{bought['id']}").json()
    assert (shown["pictures"], shown["seed"], shown["cost"]["captured"]) == (6, 1, "0")
    alice.post(f"/v1/jobs/{job['id']}/cancel")
    assert keeping.expire() == 1


def test_a_running_one_shows_loss_time_left_and_samples_and_is_canceled_for_its_steps(alice, wanted):
    bought = alice.post("/v1/adapters", {**wanted, **NEW}).json()
    training = lifecycle.claim("t1")
    path = storages["adapters"].save(f"trainings/{training.id}/1-samples.png", ContentFile(b"\x89PNG"))
    lifecycle.evaluated(training, {"step": 20, "loss": 0.2, "score": -0.2, "samples": path, "adapter": path})
    lifecycle.heartbeat(training, step=25, loss=0.25, seconds_left=75)
    shown = alice.get(f"/v1/trainings/{bought['id']}").json()
    assert shown["progress"] == {"step": 25, "steps": 100, "loss": 0.25, "seconds_left": 75}
    assert (shown["cancel_cost"], shown["queue_position"]) == ("35.156", None)
    (measured,) = shown["evaluations"]
    assert (measured["step"], measured["loss"], measured["kept"]) == (20, 0.2, True)
    samples = alice.get(measured["samples"])
    assert (samples["Content-Type"], b"".join(samples.streaming_content)) == ("image/png", b"\x89PNG")
    assert alice.get(f"/v1/trainings/{bought['id']}/samples/21").status_code == 404
    asked = alice.post(f"/v1/trainings/{bought['id']}/cancel").json()
    assert (asked["status"], asked["cancel_requested_at"] is not None) == ("running", True)
    lifecycle.stop(training, 25, None)
    shown = alice.get(f"/v1/trainings/{bought['id']}").json()
    assert shown["cost"] == {"quoted": "140.625", "held": "0", "captured": "35.156", "released": "105.469"}
    again = alice.post(f"/v1/trainings/{bought['id']}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "canceled")


def test_what_has_succeeded_is_not_canceled(alice, wanted):
    bought = alice.post("/v1/adapters", {**wanted, **NEW}).json()
    training = lifecycle.claim("t1")
    version = versions.begin(training.adapter, Version.Origin.TRAINED, 1000, most=9, mebibytes=9)
    versions.accept(version, Facts(sha256="ab" * 32, size=1000, rank=16, layers=3))
    lifecycle.complete(training, version)
    shown = alice.get(f"/v1/trainings/{bought['id']}").json()
    assert (shown["status"], shown["version"], shown["cost"]["captured"]) == ("succeeded", 1, "140.625")
    answer = alice.post(f"/v1/trainings/{bought['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_cancelable")


def test_events_tell_where_it_stands_and_the_end(alice, wanted):
    bought = alice.post("/v1/adapters", {**wanted, **NEW}).json()
    path = f"/v1/trainings/{bought['id']}/events"
    (queued,) = read(alice.get(path).content)
    assert (queued["event"], queued["data"]) == ("queued", {"status": "queued", "queue_position": 1})
    training = lifecycle.claim("t1")
    lifecycle.evaluated(training, {"step": 20, "loss": 0.2, "score": -0.2, "samples": "", "adapter": ""})
    lifecycle.heartbeat(training, step=25, loss=0.25, seconds_left=75)
    (running,) = read(alice.get(path).content)
    progress = {"step": 25, "steps": 100, "loss": 0.25, "seconds_left": 75}
    assert running["data"] == {"status": "running", "progress": progress, "measured": 20}
    lifecycle.fail(training, "diverged", "The loss is not finite.", retry=False)
    (ended,) = read(alice.get(path).content)
    shown = json.loads(json.dumps(ended["data"]))
    assert shown["error"] == {"code": "diverged", "message": "The loss is not finite."}
    assert alice.get(path, Last_Event_ID="ended").status_code == 204

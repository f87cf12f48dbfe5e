"""The customer's HTTP API as its contract says: quotes, jobs, pictures, and what is refused."""

import hashlib
import time
from datetime import datetime
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.test import Client

from billing.tokens import debts, wallets
from marketplace.api.catalogue.schemas import ModelBody
from marketplace.api.jobs import examples
from marketplace.api.jobs.bodies import ImageBody, JobBody, QuoteBody
from marketplace.api.keys.schemas import KeyBody
from marketplace.api.money import schemas
from marketplace.api.money.schemas import BalanceBody, LotBody, TransferBody
from marketplace.jobs import lifecycle, storage
from marketplace.jobs.models import Job
from marketplace.jobs.worker import request_for
from tests.marketplace import shops
from tests.marketplace.api.asking import COST, ORDER, balance, buy, deliver, error

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


# --- quotes ---


def test_a_quote_itemises_every_factor(alice):
    body = alice.post("/v1/quotes", {**ORDER, "n": 2, "service_class": "interactive"}).json()
    assert body["total"] == "3.75"
    assert body["price_list"] == 2
    assert body["factors"] == {
        "base_cost": "100",
        "resolution": "0.0625",
        "steps": "0.4",
        "prompt": "0.500000",
        "service_class": "1.5",
        "operation": "1",
        "n": "2",
    }


def test_a_quote_costs_nothing_and_needs_no_tokens(bob):
    assert bob.post("/v1/quotes", ORDER).json()["total"] == COST
    assert not Job.objects.exists()


# --- buying a picture ---


def test_a_job_from_order_to_receipt(alice, picture):
    answer = alice.post("/v1/jobs", {**ORDER, "n": 2, "metadata": {"shelf": "3"}})
    job = answer.json()
    assert answer.status_code == 202
    assert answer["Location"] == f"/v1/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert job["queue_position"] == 1
    assert job["cost"] == {"quoted": "2.5", "held": "2.5", "captured": "0", "released": "0"}
    assert balance(alice) == {"available": "997.5", "held": "2.5", "total": "1000"}

    deliver(job["id"], picture, n=2)
    done = alice.get(answer["Location"]).json()
    assert done["status"] == "succeeded"
    assert done["progress"] == {"step": 40, "steps": 40}
    assert done["cost"] == {"quoted": "2.5", "held": "0", "captured": "2.5", "released": "0"}
    assert done["metadata"] == {"shelf": "3"}
    assert done["error"] is None
    assert [image["seed"] for image in done["images"]] == [7, 8]
    assert done["receipt"]["captured"] == "2.5"
    assert balance(alice) == {"available": "997.5", "held": "0", "total": "997.5"}
    newest = alice.get("/v1/transfers").json()["data"][0]
    assert (newest["kind"], newest["amount"], newest["job"]) == ("capture", "-2.5", job["id"])


def test_only_a_prompt_is_needed(alice):
    job = alice.post("/v1/jobs", {"prompt": "a red circle"}).json()
    model = alice.get("/v1/models").json()["data"][0]
    assert (job["model"], job["steps"]) == (model["name"], model["default_steps"])
    assert (job["width"], job["height"]) == (model["default_width"], model["default_height"])
    assert 0 <= job["seed"] < 2**32


def test_too_few_tokens(bob):
    refused = error(bob.post("/v1/jobs", ORDER), 402)
    assert (refused["type"], refused["code"]) == ("payment", "insufficient_tokens")
    assert COST in refused["message"]
    assert not Job.objects.exists()


def test_a_frozen_account_buys_nothing(bob, picture):
    lot = wallets.purchase(bob.account.id, 1_250, 990, "eur", "payment 1")
    deliver(buy(bob)["id"], picture)
    debts.claw_back(lot, 990, "dispute", "dp_1")
    wallets.grant(bob.account.id, 100_000, "a gift")
    refused = error(bob.post("/v1/jobs", ORDER), 402)
    assert (refused["type"], refused["code"]) == ("payment", "account_frozen")
    assert Job.objects.count() == 1
    debts.waive(debts.of(bob.account.id)[0].id, "forgiven")
    buy(bob)


def test_max_cost(alice):
    refused = error(alice.post("/v1/jobs", {**ORDER, "max_cost": "1.249"}), 422)
    assert (refused["code"], refused["param"]) == ("cost_above_maximum", "max_cost")
    assert alice.post("/v1/jobs", {**ORDER, "max_cost": COST}).status_code == 202


def test_every_documented_field_is_in_the_answer_and_no_other(alice, picture):
    job = buy(alice)
    deliver(job["id"], picture)
    answer = alice.get(f"/v1/jobs/{job['id']}").json()
    assert answer.keys() == JobBody().fields.keys()
    assert answer["images"][0].keys() == ImageBody().fields.keys()
    assert answer["quote"].keys() == QuoteBody().fields.keys()
    for path, body in (
        ("/v1/balance", BalanceBody),
        ("/v1/transfers", TransferBody),
        ("/v1/keys", KeyBody),
        ("/v1/models", ModelBody),
    ):
        found = alice.get(path).json()
        if path == "/v1/balance":
            assert found["lots"][0].keys() == LotBody().fields.keys()
        assert (found["data"][0] if "data" in found else found).keys() == body().fields.keys(), path


def test_the_examples_are_what_is_answered(alice, picture):
    job = alice.post("/v1/jobs", examples.ORDER).json()
    assert alice.post("/v1/quotes", examples.ORDER).json() == examples.QUOTE
    deliver(job["id"], picture)
    for shown, answered in ((examples.QUEUED, job), (examples.SUCCEEDED, alice.get(f"/v1/jobs/{job['id']}").json())):
        assert shown.keys() == answered.keys()
        for name in shown.keys() - {"id", "images", "timings", "guidance_scale"}:
            assert shown[name] == answered[name], name
        assert len(shown["images"]) == len(answered["images"])


# --- what is refused, and by which name ---


@pytest.mark.parametrize("lost", [OperationalError, InterfaceError])
def test_a_lost_database_connection_asks_to_try_again(lost, alice, monkeypatch):
    def cut(account_id):
        raise lost("the connection is closed")

    monkeypatch.setattr(debts, "of", cut)
    answer = alice.get("/v1/balance")
    assert error(answer, 503)["code"] == "unavailable"
    assert answer["Retry-After"] == "2"


@pytest.mark.parametrize("lost", [OperationalError, InterfaceError])
def test_a_database_that_is_away_is_a_503_on_every_page(lost, alice, picture, settings):
    def away(*_):
        raise lost("the server closed the connection")

    job = lifecycle.claim(alice.post("/v1/jobs", ORDER).json()["id"], "w1")
    lifecycle.complete(job, [picture(job)], {})
    link = urlsplit(alice.get(f"/v1/jobs/{job.id}").json()["images"][0]["url"])
    settings.STRIPE_WEBHOOK_SECRETS = [shops.SECRET]
    client = Client(raise_request_exception=False)
    event = {"id": "evt_1", "object": "event", "type": "refund.created", "data": {"object": {}}}
    with connection.execute_wrapper(away):
        answers = [client.get(f"{link.path}?{link.query}"), shops.send(client, event), alice.get("/v1/jobs")]
    assert [error(answer, 503)["code"] for answer in answers] == ["unavailable"] * 3


def test_a_choice_that_is_none_is_told_what_there_is(alice):
    refused = error(alice.post("/v1/quotes", {**ORDER, "service_class": "gold"}), 422)
    assert "interactive, standard, batch" in refused["message"]


WRONG = {
    "prompt": [None, 5, ["a"], {}, "x" * 4001, "nul \0 byte", "half \ud800", "", " \n", "\u200b\u3164", "bell \7"],
    "negative_prompt": [5, "x" * 4001],
    "width": [0, -16, 100, 257, 100_000, "256", 256.0, True, None],
    "height": [72, "256", []],
    "steps": [0, 101, -1, 20.5, "20", True],
    "guidance_scale": [-1, 101, "3", True],
    "seed": [-1, 2**32, 1.5, "7", True],
    "n": [0, 11, "1", True],
    "deterministic": [0, 1, "true", None],
    "service_class": ["fast", 5, None],
    "output_format": ["gif", 1],
    "operation": ["upscale", "", 5],
    "model": ["gpt-5", 5],
    "max_cost": [5, 1.25, "-1", "1.2345", "1e3", " 1", "", "٣"],
    "metadata": [
        [],
        "x",
        {"a": 1},
        {"a": "x" * 501},
        {"k" * 41: "v"},
        {"": "v"},
        {" ": "v"},
        {" " * 50_000 + "a": "v"},
        {"a": " " * 501},
        {"two\nlines": "v"},
        {"\u202eevil": "v"},
        {"é": "v", "e\u0301": "v"},
        {"nul \0": "v"},
        {"half \ud800": "v"},
        {"a": "\ud800"},
        {str(i): "v" for i in range(17)},
    ],
    "adapters": ["x", [{"id": "a"}], {}],
    "webhook_url": ["http://127.0.0.1/"],
    "images": ["", [5], [None], ["x"] * 17],
    "mask": [5, []],
    "strength": ["1", [], True],
    "extend": [[], [0, 0, 0], [0, 0, 0, 0.5], [0, 0, 0, -16], "0,0,0,16"],
    "box": [[], [0, 0, 64], [0, 0, 64, "64"], {}],
    "colour": ["red"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=repr
)
def test_a_wrong_value_is_refused_and_its_field_named(name, value, alice):
    for path in ("/v1/jobs", "/v1/quotes"):
        refused = error(alice.post(path, {**ORDER, name: value}), 422)
        assert refused["type"] == "invalid_request"
        assert refused["param"].split(".")[0] == name
        assert refused["message"]
    assert not Job.objects.exists()


def test_a_missing_prompt_is_named(alice):
    refused = error(alice.post("/v1/jobs", {"steps": 20}), 422)
    assert refused["param"] == "prompt"


def test_a_prompt_of_4000_characters_is_taken(alice):
    assert buy(alice, prompt="圆" * 4000)["prompt"] == "圆" * 4000


@pytest.mark.parametrize(
    "body", [b"{", b'{"prompt": "x", "width": NaN}', b"prompt=x", b"\xff\xfe", b"[1]", b'"x"', b"null", b"[" * 30_000]
)
def test_a_body_that_is_no_json_object(body, alice):
    refused = error(alice.post("/v1/jobs", body), 400)
    assert refused["type"] == "invalid_request"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_of_another_type(kind, alice):
    assert error(alice.post("/v1/jobs", b"prompt=x", Content_Type=kind), 415)["code"] == "not_json"


def test_a_body_that_is_too_large(alice, settings):
    settings.FILE_MB = 0
    refused = error(alice.post("/v1/jobs", b'{"prompt": "' + b"x" * 70_000 + b'"}'), 413)
    assert refused["code"] == "body_too_large"


def test_a_body_without_a_length_is_refused_unread(client):
    assert error(client.generic("POST", "/v1/jobs", headers={"Transfer-Encoding": "chunked"}), 411)


def test_unknown_addresses_and_methods(alice):
    assert error(alice.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error(alice.delete("/v1/jobs"), 405)["code"] == "method_not_allowed"
    assert error(alice.get("/v1/jobs/not-an-id"), 404)
    assert error(alice.get(f"/v1/jobs/{uuid4()}"), 404)


# --- cancel and wait ---


def test_every_seed_that_a_job_reports_can_be_ordered_again(alice, picture):
    largest = 2**32 - 1
    job = buy(alice, seed=largest - 1, n=4)
    claimed = lifecycle.claim(job["id"], "w1")
    lifecycle.complete(claimed, [picture(claimed, index) for index in range(4)], {})
    seeds = [image["seed"] for image in alice.get(f"/v1/jobs/{job['id']}").json()["images"]]
    assert seeds == [largest - 1, largest, 0, 1] == [request_for(claimed, index).seed for index in range(4)]
    assert [buy(alice, seed=seed)["seed"] for seed in seeds] == seeds


def test_cancel(alice):
    job = buy(alice)
    assert (job["cancel_cost"], job["cancel_requested_at"]) == ("0", None)
    canceled = alice.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert canceled["status"] == "canceled"
    assert canceled["cancel_cost"] is None
    assert canceled["cancel_requested_at"] == canceled["timings"]["finished_at"]
    assert canceled["cost"] == {"quoted": COST, "held": "0", "captured": "0", "released": COST}
    assert alice.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200


def test_cancel_comes_too_late(alice, picture):
    job = buy(alice)
    deliver(job["id"], picture)
    assert error(alice.post(f"/v1/jobs/{job['id']}/cancel"), 409)["code"] == "not_cancelable"


def test_a_server_that_cannot_wait_answers_at_once(alice):
    answer = alice.post("/v1/jobs", ORDER, Prefer="respond-async, wait=60")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert "Preference-Applied" not in answer


@pytest.mark.parametrize("preference", ["wait=x", "return=minimal", "waitx=5", "wait=-1"])
def test_another_preference_is_ignored(preference, alice):
    answer = alice.post("/v1/jobs", ORDER, Prefer=preference)
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer


# --- pictures ---


def test_a_picture_is_fetched_by_its_link_alone(alice, picture, client):
    job = buy(alice)
    deliver(job["id"], picture)
    image = alice.get(f"/v1/jobs/{job['id']}").json()["images"][0]
    link = urlsplit(image["url"])
    answer = client.get(f"{link.path}?{link.query}")
    body = b"".join(answer.streaming_content)
    assert answer.status_code == 200
    assert answer["Content-Type"] == image["media_type"] == "image/png"
    assert hashlib.sha256(body).hexdigest() == image["sha256"]
    expires = datetime.fromisoformat(image["expires_at"]).timestamp()
    assert 3600 <= expires - time.time() <= 3661


def test_a_picture_that_is_gone_is_not_found(alice, picture, client):
    job = buy(alice)
    deliver(job["id"], picture)
    storage.discard_attempt(Job.objects.get(id=job["id"]))
    link = urlsplit(alice.get(f"/v1/jobs/{job['id']}").json()["images"][0]["url"])
    error(client.get(f"{link.path}?{link.query}"), 404)


def test_a_link_cannot_be_bent(alice, picture, client, settings):
    first, second = buy(alice), buy(alice, seed=8)
    for job in (first, second):
        deliver(job["id"], picture)
    one, other = (urlsplit(alice.get(f"/v1/jobs/{j['id']}").json()["images"][0]["url"]) for j in (first, second))
    expires, signature = (part.split("=")[1] for part in one.query.split("&"))
    for path, query in (
        (other.path, one.query),
        (one.path, ""),
        (one.path, f"expires={int(expires) + 60}&signature={signature}"),
        (one.path, f"expires={expires}&signature={signature[:-1]}"),
        (one.path, f"expires=x&signature={signature}"),
        (one.path, f"expires={'9' * 20}&signature={signature}"),
    ):
        error(client.get(f"{path}?{query}"), 404)


def test_a_link_expires(alice, picture, client, settings):
    settings.IMAGE_URL_SECONDS = -3600
    job = buy(alice)
    deliver(job["id"], picture)
    link = urlsplit(alice.get(f"/v1/jobs/{job['id']}").json()["images"][0]["url"])
    assert error(client.get(f"{link.path}?{link.query}"), 403)["code"] == "link_expired"


# --- every answer ---


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("a b", False), ("x" * 129, False), ("<x>", False)])
def test_a_request_id_is_kept_where_it_is_sound(given, kept, alice):
    answer = alice.get("/v1/balance", X_Request_Id=given)
    assert (answer["X-Request-Id"] == given) is kept


def test_an_error_of_ours_is_an_error_in_shape(alice, monkeypatch):
    def burst(*_):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(schemas, "show_balance", burst)
    answer = alice.get("/v1/balance")
    assert error(answer, 500)["code"] == "internal"
    assert b"secret" not in answer.content


def test_a_number_beyond_all_bounds(alice):
    refused = error(alice.post("/v1/jobs", b'{"prompt": "x", "width": 1e400}'), 422)
    assert refused["param"] == "width"

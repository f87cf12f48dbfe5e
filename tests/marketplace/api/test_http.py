"""The API as HTTP: methods, conditions, codings, and what a browser is shown instead of JSON."""

import base64
import gzip
import json
import logging
import re
import zlib
from urllib.parse import urlsplit

import pytest
from django.test import Client

from billing.prices import price_lists
from marketplace.jobs import lifecycle
from marketplace.jobs.models import Job
from marketplace.masking import Formatter
from tests.marketplace.files.test_uploads import encoded

pytestmark = pytest.mark.django_db

ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20, "seed": 7}
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
PUBLIC = ("/v1/models", "/v1/packs", "/v1/prices")
READ = ("/v1/balance", "/v1/transfers", "/v1/jobs", "/v1/keys", "/v1/invoices", "/v1/topups", *PUBLIC)
OURS = ("/", "/healthz", "/metrics", "/docs", "/api/schema")


def code(answer, status):
    assert answer.status_code == status, answer.content
    return answer.json()["error"]["code"]


# --- what is sold, for anybody ---


@pytest.mark.parametrize("path", PUBLIC)
def test_what_is_sold_needs_no_key_and_may_be_kept(path, client):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "public, max-age=60"
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert client.get(path, headers={"Authorization": "Bearer nonsense"}).status_code == 200
    again = client.get(path, headers={"If-None-Match": answer["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again["Cache-Control"] == "public, max-age=60"


def test_a_model_lists_what_is_sold_and_every_limit_is_the_one_that_holds(client, alice):
    (model,) = client.get("/v1/models").json()["data"]
    prices = client.get("/v1/prices").json()
    operations = ["generate", "edit", "img2img", "inpaint", "outpaint", "redraw"]
    assert sorted(model["operations"]) == sorted(prices["operations"]) == sorted(operations)
    assert model["service_classes"] == prices["service_classes"]
    for sold in model["service_classes"]:
        quote = alice.post("/v1/quotes", {**ORDER, "service_class": sold}).json()
        assert quote["factors"]["service_class"] == model["service_classes"][sold]
        assert quote["price_list"] == prices["version"]
    most = {
        "steps": model["max_steps"],
        "n": model["max_n"],
        "seed": model["max_seed"],
        "width": model["max_side"],
        "height": model["max_side"],
        "guidance_scale": model["max_guidance_scale"],
        "prompt": "x" * model["max_prompt_length"],
        "metadata": {str(number): "" for number in range(model["max_metadata"])},
    }
    assert alice.post("/v1/quotes", most).status_code == 200
    for name, value in most.items():
        more = {**value, "more": ""} if isinstance(value, dict) else value + ("x" if isinstance(value, str) else 1)
        answer = alice.post("/v1/quotes", {**most, name: more})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, name)


def test_what_is_not_priced_is_not_sold(client, alice):
    prices = price_lists.current()
    price_lists.publish(
        base_cost=prices.base_cost,
        prompt_floor=prices.prompt_floor,
        service_classes=prices.service_classes,
        operations={"generate": 1000},
        skipped_step=prices.skipped_step,
    )
    price_lists.forget()
    assert client.get("/v1/models").json()["data"][0]["operations"] == ["generate"]
    picture = "data:image/png;base64," + base64.b64encode(encoded(size=(64, 64))).decode()
    order = {"operation": "edit", "prompt": "make it blue", "images": [picture]}
    assert code(alice.post("/v1/jobs", order), 422) == "operation_not_sold"


def test_a_model_is_found_by_its_name_and_is_one_of_openais_too(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert client.get(f"/v1/models/{model['name']}").json() == model
    assert (model["id"], model["object"], model["owned_by"]) == (model["name"], "model", "kiln")
    assert code(client.get("/v1/models/gpt-image-2"), 404) == "not_found"


def test_a_model_that_is_not_there_is_no_riddle(client, settings, tmp_path):
    settings.MODEL = str(tmp_path)
    answer = client.get("/v1/models")
    assert code(answer, 503) == "model_unavailable"
    assert str(tmp_path) not in answer.content.decode()
    assert "Cache-Control" not in answer


def test_a_price_can_be_computed_from_the_price_list(client, alice):
    prices = client.get("/v1/prices").json()
    quote = alice.post("/v1/quotes", {**ORDER, "service_class": "batch"}).json()
    assert float(quote["total"]) == pytest.approx(
        float(prices["base_cost"]) / 16 * 20 / 50 * (prices["prompt_floor"] / 100) ** 0.5
        * float(prices["service_classes"]["batch"]) * float(prices["operations"]["generate"]), abs=0.001,
    )  # fmt: skip


# --- methods ---


@pytest.mark.parametrize("path", [*READ, *OURS])
def test_head_is_get_without_a_body(path, alice):
    get, head = alice.get(path), alice._http().head(path, headers=alice._headers({}))
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head["Content-Type"] == get["Content-Type"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/jobs", "GET HEAD OPTIONS POST"),
        ("/v1/quotes", "OPTIONS POST"),
        ("/v1/topups/automatic", "DELETE GET HEAD OPTIONS PUT"),
        ("/v1/models", "GET HEAD OPTIONS"),
        ("/", "GET HEAD OPTIONS"),
        ("/healthz", "GET HEAD OPTIONS"),
        ("/webhooks/stripe", "OPTIONS POST"),
    ],
)
def test_options_says_which_methods_there_are_to_anybody_and_nothing_else(path, methods, client, bob):
    for headers in ({}, {"Authorization": f"Bearer {bob.key}"}, {"Authorization": "Bearer nonsense"}):
        answer = client.options(path, headers={"Origin": "https://example.com", **headers})
        assert (answer.status_code, answer.content) == (200, b"")
        assert sorted(answer["Allow"].split(", ")) == methods.split()
        assert ("Access-Control-Allow-Origin" in answer) is (path in PUBLIC)
        assert "Access-Control-Allow-Headers" not in answer, "no browser may send a key from another site"


@pytest.mark.parametrize(("method", "path"), [("POST", "/healthz"), ("GET", "/webhooks/stripe"), ("PUT", "/v1/jobs")])
def test_another_method_is_refused_in_the_shape_of_all_errors(method, path, alice):
    answer = alice._http().generic(method, path, headers=alice._headers({}))
    assert code(answer, 405) == "method_not_allowed"
    assert "OPTIONS" in answer["Allow"]


# --- conditions ---


@pytest.mark.parametrize("path", ["/v1/balance", "/v1/jobs", "/v1/keys", "/v1/transfers"])
def test_who_has_it_already_is_not_sent_it_again(path, alice):
    etag = alice.get(path)["ETag"]
    for have in (etag, "*", f'"other", {etag}', f"W/{etag}"):
        answer = alice.get(path, If_None_Match=have)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer["ETag"] == etag
    assert alice.get(path, If_None_Match='"other"').status_code == 200
    head = alice._http().head(path, headers=alice._headers({"If-None-Match": etag}))
    assert head.status_code == 304


def test_what_has_changed_is_sent_again(alice):
    etag = alice.get("/v1/balance")["ETag"]
    alice.post("/v1/jobs", ORDER)
    answer = alice.get("/v1/balance", If_None_Match=etag)
    assert (answer.status_code, answer["ETag"] != etag) == (200, True)


def test_a_picture_is_not_sent_twice(alice, picture, client):
    job = alice.post("/v1/jobs", ORDER).json()
    claimed = lifecycle.claim(job["id"], "w1")
    lifecycle.complete(claimed, [picture(claimed)], {})
    link = urlsplit(alice.get(f"/v1/jobs/{job['id']}").json()["images"][0]["url"])
    first = client.get(f"{link.path}?{link.query}")
    again = client.get(f"{link.path}?{link.query}", headers={"If-None-Match": first["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(f"{link.path}?{link.query}")
    assert (head.status_code, head["ETag"]) == (200, first["ETag"])


def test_a_key_is_changed_only_as_it_was_seen(alice):
    path = f"/v1/keys/{alice.post('/v1/keys', {'name': 'laptop'}).json()['id']}"
    seen = alice.get(path)
    alice.headers = {"If-Match": seen["ETag"]}
    assert alice.patch(path, {"name": "desk"}).json()["name"] == "desk"
    refused = alice.patch(path, {"name": "shelf"})
    assert code(refused, 412) == "precondition_failed"
    assert code(alice.delete(path), 412) == "precondition_failed"
    alice.headers = {}
    assert (alice.get(path).json()["name"], alice.get(path).json()["revoked_at"]) == ("desk", None)
    alice.headers = {"If-Match": "*"}
    assert alice.patch(path, {"name": "any"}).status_code == 200
    assert code(alice.put("/v1/topups/automatic", {}), 412) == "precondition_failed"
    assert code(alice.post("/v1/quotes", ORDER), 412) == "precondition_failed"
    alice.headers = {"If-None-Match": "*"}
    assert code(alice.patch(path, {"name": "new"}), 412) == "precondition_failed"
    assert alice.post("/v1/quotes", ORDER).status_code == 200


def test_something_is_added_to_a_list_only_as_it_was_seen(alice):
    alice.headers = {"If-Match": alice.get("/v1/jobs")["ETag"]}
    assert alice.post("/v1/jobs", ORDER).status_code == 202
    assert code(alice.post("/v1/jobs", ORDER), 412) == "precondition_failed"


def test_whoever_may_not_see_what_is_there_is_told_that_and_not_that_it_changed(alice, client):
    for condition in ("If-Match", "If-None-Match"):
        for key, problem in ((None, "missing_api_key"), ("Bearer nonsense", "invalid_api_key")):
            headers = {condition: "*"} | ({"Authorization": key} if key else {})
            assert code(client.delete("/v1/topups/automatic", headers=headers), 401) == problem
    alice.account.is_active = False
    alice.account.save()
    alice.headers = {"If-Match": "*"}
    assert code(alice.patch("/v1/account", {"time_zone": "UTC"}), 403) == "account_switched_off"


# --- bodies ---


def test_a_gzipped_body_is_taken(alice):
    packed = gzip.compress(json.dumps(ORDER).encode())
    answer = alice.post("/v1/jobs", packed, Content_Encoding="gzip")
    assert (answer.status_code, answer.json()["prompt"]) == (202, ORDER["prompt"])
    assert alice.post("/v1/quotes", packed, Content_Encoding="GZIP ").status_code == 200
    assert alice.post("/v1/quotes", ORDER, Content_Encoding="").status_code == 200
    assert alice.get("/v1/balance", Content_Encoding="gzip").status_code == 200, "there is nothing to unpack"


def test_a_bomb_is_unpacked_no_further_than_its_limit(alice, settings):
    bomb = gzip.compress(b'{"prompt": "' + b" " * 50_000_000 + b'"}')
    assert len(bomb) < settings.MAX_BODY_BYTES
    assert code(alice.post("/v1/jobs", bomb, Content_Encoding="gzip"), 413) == "body_too_large"
    at_limit = gzip.compress(b" " * (settings.MAX_BODY_BYTES - 2) + b"{}")
    assert alice.post("/v1/jobs", at_limit, Content_Encoding="gzip").status_code == 422


WHOLE = gzip.compress(json.dumps(ORDER).encode())


@pytest.mark.parametrize(
    "packed", [b"{}", WHOLE[:-1], WHOLE[:20], WHOLE + b"x", WHOLE + WHOLE, zlib.compress(b"{}")], ids=range(6)
)
def test_what_is_not_one_whole_gzip_is_malformed(packed, alice):
    assert code(alice.post("/v1/jobs", packed, Content_Encoding="gzip"), 400) == "malformed"
    assert not Job.objects.exists()


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "compress"])
def test_another_coding_is_refused_and_told_which_are_taken(coding, alice):
    answer = alice.post("/v1/jobs", ORDER, Content_Encoding=coding)
    assert code(answer, 415) == "unsupported_coding"
    assert answer["Accept-Encoding"] == "gzip, identity"


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "zlib_codec", "idna", "base64", "nonsense"])
def test_another_charset_is_refused(charset, alice):
    bomb = zlib.compress(b'{"prompt": "' + b" " * 1_000_000 + b'"}')
    kind = f"application/json; charset={charset}"
    answer = alice._http().generic("POST", "/v1/jobs", bomb, kind, headers=alice._headers({}))
    assert code(answer, 415) == "unsupported_charset"
    assert alice.post("/v1/quotes", ORDER, Content_Type="application/json; charset=UTF-8").status_code == 200


@pytest.mark.parametrize(
    "body", [b"prompt=x", b"prompt=x&width=256", b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx']
)
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/keys", "/v1/topups"])
def test_a_form_is_told_to_be_json(path, kind, body, alice):
    assert code(alice.post(path, body, Content_Type=kind), 415) == "not_json"


def test_a_name_that_is_there_twice_is_refused(alice):
    assert code(alice.post("/v1/jobs", b'{"prompt": "a", "prompt": "b"}'), 400) == "malformed"
    assert code(alice.post("/v1/jobs", b'{"prompt": "a", "metadata": {"a": "1", "a": "2"}}'), 400) == "malformed"
    assert code(alice.post("/v1/jobs", b'{"prompt": "a", "steps": ' + b"9" * 5000 + b"}"), 400) == "malformed"


def test_text_is_given_back_as_it_was_sent_but_composed(alice):
    metadata = {" shelf ": " v ", "cafe\u0301": "a\nb", "empty": "", "blank": " "}
    job = alice.post("/v1/jobs", {**ORDER, "prompt": " cafe\u0301\n", "metadata": metadata}).json()
    assert job["prompt"] == " café\n"
    assert job["metadata"] == {" shelf ": " v ", "café": "a\nb", "empty": "", "blank": " "}
    same = alice.post("/v1/quotes", {**ORDER, "prompt": "e\u0301" * 4000})
    assert same.json() == alice.post("/v1/quotes", {**ORDER, "prompt": "é" * 4000}).json()


def test_the_same_order_in_another_normal_form_is_the_same_under_its_key(alice):
    first, again = (
        alice.post("/v1/jobs", {**ORDER, "prompt": prompt}, Idempotency_Key="k") for prompt in ("café", "cafe\u0301")
    )
    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize("value", [1, 0, "true", "on", None, [], 1.0])
def test_a_flag_is_true_or_false(value, alice):
    answer = alice.post("/v1/topups", {"pack": "small", "currency": "eur", "save_card": value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "save_card")


@pytest.mark.parametrize("value", ["٥.00", "05.00", "1e2", "5,00", "NaN", "0.00"])
def test_money_is_a_plain_decimal(value, alice):
    order = {"pack": "small", "currency": "eur", "threshold": "500", "daily_cap": value}
    answer = alice.put("/v1/topups/automatic", order)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "daily_cap")


# --- browsers ---


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nothing", 404), ("/v1/nothing", 404), ("/v1/balance", 401), ("/images/x.png", 404), ("/v1/quotes", 401)],
)
def test_a_browser_is_shown_a_page_and_a_client_json(path, status, client):
    page = client.get(path, headers={"Accept": BROWSER})
    assert (page.status_code, page["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert page["X-Request-Id"] in page.content.decode()
    assert "<h1>" in page.content.decode()
    assert "style-src 'self'" in page["Content-Security-Policy"]
    for accepted in ("*/*", "application/json", "application/json, text/html;q=0.5"):
        answer = client.get(path, headers={"Accept": accepted})
        assert (answer.status_code, answer["Content-Type"]) == (status, "application/json")
        assert "Accept" in answer["Vary"]


def test_a_page_shows_a_name_that_is_no_text(alice):
    page = alice.post("/v1/jobs", b'{"\\ud83d": 1}', Accept="text/html")
    assert (page.status_code, page["Content-Type"]) == (422, "text/html; charset=utf-8")
    assert "This field is unknown." in page.content.decode()


@pytest.mark.parametrize("accepted", [BROWSER, "text/html"])
def test_a_browser_can_read_what_is_sold(accepted, client):
    page = client.get("/v1/packs", headers={"Accept": accepted})
    assert page["Content-Type"] == "text/html; charset=utf-8"
    assert "&quot;tokens&quot;" in page.content.decode()
    assert "style-src 'self'" in page["Content-Security-Policy"]
    assert "Accept" in page["Vary"]
    assert client.get("/v1/packs")["Content-Type"] == "application/json"
    assert page["ETag"] != client.get("/v1/packs")["ETag"]


@pytest.mark.parametrize("accepted", ["text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", BROWSER])
def test_a_program_that_says_accept_as_browsers_do_gets_json(accepted, alice):
    for path, status in (("/v1/jobs", 200), (f"/v1/jobs/{'0' * 8}", 404), ("/v1/jobs?limit=x", 422)):
        answer = alice.get(path, Accept=accepted)
        assert (answer.status_code, answer["Content-Type"]) == (status, "application/json")


def test_weights_of_accept_count(client):
    for path in ("/v1/packs", "/v1/nothing"):
        page = client.get(path, headers={"Accept": "application/json;q=0.5, text/html"})
        assert page["Content-Type"] == "text/html; charset=utf-8"
        answer = client.get(path, headers={"Accept": "application/json, text/html;q=0.5"})
        assert answer["Content-Type"] == "application/json"


def test_a_browser_can_read_what_is_missing(client):
    page = client.get("/readyz", headers={"Accept": BROWSER})
    assert (page.status_code, page["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert "&quot;worker&quot;: &quot;missing&quot;" in page.content.decode()
    assert client.get("/readyz")["Content-Type"] == "application/json"
    assert client.post("/readyz").status_code == 405


def test_nothing_that_was_sent_becomes_markup(client, alice):
    page = client.get("/<script>alert(1)</script>", headers={"Accept": BROWSER}).content.decode()
    assert "<script>" not in page
    alice.post("/v1/jobs", {**ORDER, "metadata": {"a": "</pre><script>alert(1)</script>"}})
    page = alice.get("/v1/jobs", Accept="text/html").content.decode()
    assert "alert(1)" in page
    assert "<script>" not in page


def test_a_failure_of_ours_is_a_page_too(client, monkeypatch):
    def burst(*_):
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("billing.prices.packs.offered", burst)
    page = Client(raise_request_exception=False).get("/v1/packs", headers={"Accept": BROWSER})
    assert (page.status_code, page["Content-Type"]) == (500, "text/html; charset=utf-8")
    assert b"secret" not in page.content


def test_what_browsers_ask_for_by_themselves_is_there(client):
    icon = client.get("/favicon.ico")
    assert (icon.status_code, icon["Location"]) == (302, "/static/kiln/kiln.svg")
    assert client.get("/admin")["Location"] == "/admin/"
    assert "text/html" in client.get("/", headers={"Accept": BROWSER})["Content-Type"]


def test_a_form_from_another_site_is_told_why(client):
    strict = Client(enforce_csrf_checks=True)
    answer = strict.post("/admin/login/", {"username": "x", "password": "y"}, headers={"Accept": BROWSER})
    assert (answer.status_code, answer["Content-Type"]) == (403, "text/html; charset=utf-8")
    assert "load its page again" in answer.content.decode()


# --- secrets ---


@pytest.mark.parametrize(
    "where", ["/v1/nothing/{key}", "/{key}", "/v1/jobs/{key}", "/v1/jobs?cursor={key}", "/v1/jobs"]
)
def test_a_key_where_it_does_not_belong_is_not_logged(where, alice, client, caplog):
    formatter = Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    with caplog.at_level(logging.DEBUG):
        for customer in (client, alice._http()):
            answer = customer.get(where.format(key=alice.key), headers=alice._headers({"X-Request-Id": alice.key}))
            assert alice.key not in answer["X-Request-Id"]
            assert re.fullmatch("req_[0-9a-f]{24}", answer["X-Request-Id"])
    told = "\n".join(formatter.format(record) for record in caplog.records)
    assert alice.key.split("_", 2)[2] not in told

"""A whole site sells pictures with an adapter that a customer sent, by our own calls and by OpenAI's client."""

import io
import json
import urllib.request

import pytest
from django.test.client import encode_multipart
from openai import OpenAI

from devstack import processes
from lora.models import Version
from marketplace.jobs.models import Job
from tests.marketplace.adapters import goods

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
ORDER = {"prompt": "a red circle on a white background", "width": 64, "height": 64, "steps": 4, "seed": 5}


@pytest.fixture
def site(site):
    """With those who check what was sent."""
    for name in ("maintenance", "beat"):
        site.start(name)
    yield site
    for name in ("maintenance", "beat"):
        site.kill(name)


def ask(site, who, path, body=None, kind="application/json", **headers):
    address = f"http://127.0.0.1:{site.ports.front}{path}"
    named = {"Authorization": f"Bearer {who.key}", "Content-Type": kind, **headers}
    request = urllib.request.Request(address, body, {name.replace("_", "-"): each for name, each in named.items()})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def order(site, who, **changes):
    return ask(site, who, "/v1/jobs", json.dumps({**ORDER, **changes}).encode(), Prefer="wait=60")


@pytest.mark.timeout(300)
def test_an_adapter_is_sent_checked_and_drawn_with(site, alice, tmp_path):
    file = io.BytesIO(goods.weights(tmp_path / "glaze.safetensors").read_bytes())
    file.name = "glaze.safetensors"
    form = encode_multipart("edge", {"file": file, "slug": "glaze", "name": "Glaze"})
    made = ask(site, alice, "/v1/adapters", form, "multipart/form-data; boundary=edge")
    assert made["versions"][0]["status"] == "checking"
    checked = processes.wait_until(lambda: Version.objects.filter(status="ready").exists(), 120)
    assert checked, site.logs()
    plain, drawn = order(site, alice), order(site, alice, adapters=[{"id": made["id"]}])
    assert (plain["status"], drawn["status"]) == ("succeeded", "succeeded"), site.logs()
    assert plain["images"][0]["sha256"] != drawn["images"][0]["sha256"]
    assert drawn["cost"]["captured"] == plain["cost"]["captured"] == drawn["quote"]["total"]
    client = OpenAI(api_key=alice.key, base_url=f"http://127.0.0.1:{site.ports.front}/v1")
    terms = {"prompt": ORDER["prompt"], "extra_body": {**ORDER, "adapters": [{"id": made["id"]}]}}
    found = client.images.generate(**terms)
    assert found.data[0].b64_json
    assert Job.objects.latest("id").picture_key == Job.objects.get(id=drawn["id"]).picture_key

"""Orders with adapters: who may use which, in which version, at what price, and who gets what of it."""

import io

import pytest
from django.test.client import encode_multipart

from billing.models import Transfer, Wallet
from inference.models import catalog
from lora import adapters, listings, makers, versions
from marketplace.jobs.models import Job
from tests.marketplace.adapters import goods
from tests.marketplace.api import asking
from tests.marketplace.files.test_uploads import encoded
from tests.marketplace.people import customer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("ledger_is_right")]
ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20, "seed": 7}
PLAIN = 1250


@pytest.fixture
def carol():
    return customer("carol", 100)


@pytest.fixture
def glaze(carol, tmp_path):
    made = goods.adapter(carol)
    goods.version(made, tmp_path)
    return made


def body(*used, **changes):
    return {**ORDER, "adapters": [{"id": str(each.id)} for each in used], **changes}


def quoted(who, *used, **changes):
    answer = who.post("/v1/quotes", body(*used, **changes))
    assert answer.status_code == 200, answer.content
    return answer.json()


def bought(who, *used, **changes):
    answer = who.post("/v1/jobs", body(*used, **changes))
    assert answer.status_code == 202, answer.content
    return answer.json()


def refused(who, sent):
    before = who.balance, Job.objects.count()
    answers = [who.post(address, sent) for address in ("/v1/quotes", "/v1/jobs")]
    assert (who.balance, Job.objects.count()) == before
    found, same = (asking.error(answer, 422) for answer in answers)
    found.pop("request_id"), same.pop("request_id")
    assert found == same
    return found


@pytest.fixture
def deliver(picture):
    """Draw a job and return what it was charged."""

    def draw(job):
        asking.deliver(job["id"], picture)
        return Job.objects.get(id=job["id"]).captured

    return draw


def earned(who):
    return sum(
        each.amount for each in Transfer.objects.filter(target__owner=who.account.id, target__kind=Wallet.Kind.CREATOR)
    )


def test_an_adapter_of_ones_own_costs_no_fee(carol, glaze):
    plain, found = quoted(carol), quoted(carol, glaze)
    assert found["total"] == plain["total"] == "1.25"
    assert "adapters" not in plain["factors"]
    assert plain["adapters"] == []
    assert found["factors"]["adapters"] == "1"
    assert found["adapters"] == [{"id": str(glaze.id), "version": 1, "surcharge": "0", "fee": "0"}]


def test_a_surcharge_is_the_platforms(carol, tmp_path, deliver):
    made = goods.adapter(carol)
    goods.version(made, tmp_path, surcharge=100)
    job = bought(carol, made)
    assert job["cost"]["quoted"] == "1.375"
    assert job["quote"]["factors"]["adapters"] == "1.1"
    deliver(job)
    assert earned(carol) == 0
    assert carol.balance == (100_000 - 1375, 0)


def taken_down(adapter, folder):
    listings.withdraw(adapter)


def deleted(adapter, folder):
    adapters.delete(adapter)


def replaced(adapter, folder):
    listings.publish(goods.version(adapter, folder, seed=1), fee=900, share=1, licence="any use")


@pytest.mark.parametrize("happens", [taken_down, deleted, replaced])
@pytest.mark.parametrize("address", ["/v1/jobs", "/v1/images/generations"])
def test_an_order_sent_again_finds_its_job_whatever_became_of_the_adapter(
    alice, glaze, tmp_path, happens, address, monkeypatch
):
    monkeypatch.setattr("marketplace.api.images.views.WAIT_SECONDS", 0)
    listings.publish(versions.pick(glaze), fee=200, share=700, licence="any use")
    sent = {"prompt": "a red circle", "steps": 20, "seed": 7, "adapters": [{"id": str(glaze.id)}]}
    alice.post(address, sent, Idempotency_Key="once")
    job, balance = Job.objects.get(), alice.balance
    happens(glaze, tmp_path)
    again = alice.post(address, sent, Idempotency_Key="once")
    assert again.status_code < 400 or again.json()["error"]["code"] == "in_progress", again.content
    other = alice.post(address, sent | {"prompt": "a blue circle"}, Idempotency_Key="once")
    assert asking.error(other, 422)["code"] == "idempotency_key_reused"
    assert (Job.objects.get().id, alice.balance) == (job.id, balance)
    fresh = alice.post(address, sent, Idempotency_Key="twice")
    assert fresh.status_code == 422 if happens is not replaced else Job.objects.count() == 2


def test_a_fee_is_shared_between_its_maker_and_the_platform(alice, carol, glaze, deliver):
    listings.publish(versions.pick(glaze), fee=200, share=700, licence="any use")
    job = bought(alice, glaze)
    assert job["cost"]["quoted"] == "1.5"
    assert job["quote"]["adapters"] == [{"id": str(glaze.id), "version": 1, "surcharge": "0", "fee": "0.2"}]
    assert str(carol.account.id) not in alice.get(f"/v1/jobs/{job['id']}").content.decode()
    assert earned(carol) == 0
    deliver(job)
    assert earned(carol) == 1500 * 200 * 700 // (1200 * 1000) == 175
    receipt = alice.get(f"/v1/jobs/{job['id']}/receipt")
    assert str(carol.account.id) not in receipt.content.decode()
    assert receipt.json()["quote"]["factors"]["adapters"] == "1.2"
    assert alice.balance == (1_000_000 - 1500, 0)


def test_two_makers_get_their_own_parts(alice, bob, carol, glaze, tmp_path, deliver):
    other = goods.adapter(bob, "slip")
    goods.version(other, tmp_path, seed=1, surcharge=50)
    listings.publish(versions.pick(glaze), fee=200, share=700, licence="any use")
    listings.publish(versions.pick(other), fee=333, share=501, licence="any use")
    job = bought(alice, glaze, other)
    charge = deliver(job)
    whole = 1000 + 200 + 333 + 50
    assert (earned(carol), earned(bob)) == (charge * 140 // whole, charge * 333 * 501 // (whole * 1000))


def test_whoever_it_is_shared_with_pays_no_fee(bob, alice, carol, glaze):
    listings.publish(versions.pick(glaze), fee=500, share=700, licence="any use")
    assert quoted(alice, glaze)["total"] == "1.875"
    adapters.share(glaze, alice.account.id)
    assert quoted(alice, glaze)["total"] == "1.25"
    adapters.unshare(glaze, alice.account.id)
    assert quoted(alice, glaze)["total"] == "1.875"


def test_terms_and_version_never_change_for_what_was_ordered(alice, carol, glaze, tmp_path, deliver):
    listings.publish(versions.pick(glaze), fee=200, share=700, licence="any use")
    job = bought(alice, glaze)
    goods.version(glaze, tmp_path, seed=5)
    listings.publish(versions.pick(glaze), fee=900, share=0, licence="any use")
    listings.publish(versions.pick(glaze, 1), fee=900, share=0, licence="any use")
    adapters.delete(glaze)
    assert Job.objects.get().order["adapters"][0]["version"] == 1
    deliver(job)
    assert earned(carol) == 175


def test_another_tenants_private_adapter_is_exactly_as_one_that_does_not_exist(alice, carol, glaze):
    theirs = refused(alice, body(glaze))
    nobodys = refused(alice, {**ORDER, "adapters": [{"id": "019a0000-0000-7000-8000-000000000000"}]})
    assert theirs == nobodys == refused(alice, {**ORDER, "adapters": [{"id": "glaze"}]})
    assert (theirs["code"], theirs["param"]) == ("unknown_adapter", "adapters.0")
    makers.choose_handle(carol.account.id, "carol")
    theirs = refused(alice, {**ORDER, "model": "adapter/carol/glaze"})
    assert theirs == refused(alice, {**ORDER, "model": "adapter/carol/nothing"})
    assert theirs == refused(alice, {**ORDER, "model": "adapter/nobody/glaze"})
    assert (theirs["code"], theirs["param"]) == ("unknown_adapter", "model")


def test_the_public_uses_the_versions_that_were_published_alone(alice, carol, glaze, tmp_path):
    listings.publish(versions.pick(glaze), fee=0, share=0, licence="any use")
    goods.version(glaze, tmp_path, seed=5)
    assert quoted(alice, glaze)["adapters"][0]["version"] == 1
    assert quoted(carol, glaze)["adapters"][0]["version"] == 2
    second = {**ORDER, "adapters": [{"id": str(glaze.id), "version": 2}]}
    assert refused(alice, second)["code"] == "unknown_version"
    listings.withdraw(glaze)
    assert refused(alice, body(glaze))["code"] == "unknown_adapter"


@pytest.mark.parametrize("end", ["version", "adapter"])
def test_what_was_deleted_is_not_ordered_any_more(carol, glaze, end):
    if end == "version":
        versions.delete(glaze, 1)
        assert refused(carol, body(glaze))["code"] == "unknown_version"
    else:
        adapters.delete(glaze)
        assert refused(carol, body(glaze))["code"] == "unknown_adapter"


def test_an_adapter_of_another_revision_of_the_model_is_refused(carol, tmp_path):
    made = goods.adapter(carol, base_revision="older")
    goods.version(made, tmp_path)
    assert refused(carol, body(made))["code"] == "adapter_of_other_model"


def test_an_order_has_so_many_adapters_each_once_and_within_scale(carol, glaze):
    used = {"id": str(glaze.id)}
    wrong = {
        "adapters.1": [used, used],
        "adapters": [used] * (catalog.MAX_ADAPTERS + 1),
        "adapters.0.scale": [{**used, "scale": 10.5}],
        "adapters.0.version": [{**used, "version": 0}],
        "adapters.0.id": [{}],
        "adapters.0.weight": [{**used, "weight": 1}],
    }
    for param, sent in wrong.items():
        assert refused(carol, {**ORDER, "adapters": sent})["param"] == param


def test_steps_and_guidance_are_the_recipes_unless_they_are_said(carol, tmp_path):
    made, other = goods.adapter(carol, "fast"), goods.adapter(carol, "faster")
    goods.version(made, tmp_path, recipe={"steps": 4, "guidance_scale": 1.0})
    goods.version(other, tmp_path, seed=1, recipe={"steps": 2})
    plain = {name: value for name, value in ORDER.items() if name != "steps"}
    sent = {**plain, "adapters": [{"id": str(made.id), "scale": 0.5}]}
    job = carol.post("/v1/jobs", sent).json()
    assert (job["steps"], job["guidance_scale"], job["adapters"][0]["scale"]) == (4, 1.0, 0.5)
    assert quoted(carol, made)["factors"]["steps"] == "0.4"
    found = refused(carol, {**plain, "adapters": [{"id": str(each.id)} for each in (made, other)]})
    assert "recipes differ in steps" in found["message"]


def openai(who, path, sent):
    """Order by OpenAI's form; the job, which nobody draws."""
    answer = who.post(path, sent)
    assert answer.status_code == 503, answer.content
    return Job.objects.latest("id")


def test_openais_forms_take_adapters_and_an_adapter_in_the_models_place(carol, tmp_path):
    made = goods.adapter(carol)
    goods.version(made, tmp_path, recipe={"steps": 4})
    makers.choose_handle(carol.account.id, "carol")
    expected = [{"id": str(made.id), "version": 1, "sha256": versions.pick(made).sha256, "scale": 0.5}]
    sent = {"prompt": "a red circle", "size": "256x256"}
    path = "/v1/images/generations"
    extra = openai(carol, path, {**sent, "adapters": [{"id": str(made.id), "scale": 0.5}], "quality": "high"})
    assert (extra.order["adapters"], extra.order["steps"]) == (expected, 6)
    named = openai(carol, path, {**sent, "model": "adapter/carol/glaze"})
    assert (named.model, named.order["adapters"][0]["scale"], named.order["steps"]) == ("kiln-house", 1.0, 4)
    form = {"prompt": "make it blue", "image": picture(), "adapters[][id]": str(made.id), "adapters[][scale]": "0.5"}
    content = encode_multipart("edge", form)
    answer = carol.post("/v1/images/edits", content, Content_Type="multipart/form-data; boundary=edge")
    assert answer.status_code == 503, answer.content
    assert Job.objects.latest("id").order["adapters"] == expected
    both = {**sent, "model": "adapter/carol/glaze", "adapters": [{"id": str(made.id)}]}
    assert asking.error(carol.post(path, both), 422)["code"] == "adapter_twice"


def picture():
    file = io.BytesIO(encoded())
    file.name = "picture.png"
    return file


def test_a_retry_of_the_same_order_buys_once_and_other_adapters_are_another_order(carol, glaze):
    first = carol.post("/v1/jobs", body(glaze), Idempotency_Key="k")
    again = carol.post("/v1/jobs", body(glaze), Idempotency_Key="k")
    assert (first.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert carol.post("/v1/jobs", ORDER, Idempotency_Key="k").status_code == 422
    assert Job.objects.count() == 1

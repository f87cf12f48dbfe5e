"""The operator's pages of adapters, publications and reports."""

import pytest
from django.core.files.storage import storages
from django.urls import reverse

from lora import market, opinions, publications
from lora.errors import UnknownAdapter
from lora.models import Listing, Publication, Report
from marketplace.adapters import publishing
from marketplace.identifiers import uuid7
from marketplace.webhooks.models import Delivery
from tests.marketplace.api.test_market import ready
from tests.marketplace.trainings import making

pytestmark = pytest.mark.django_db
SENT = {"_form_submitted": "on"}


def told():
    """What makers are told by e-mail."""
    return list(Delivery.objects.filter(channel="mail").order_by("id").values_list("type", "data"))


@pytest.fixture
def asked(alice):
    adapter = making.adapter(alice)
    ready(adapter)
    return publications.ask(uuid7(), adapter, None, fee=250, licence="any-use", tags=["blue"], most=1000)


def test_an_adapter_shows_its_versions_and_samples(admin_client, asked, alice):
    page = admin_client.get(reverse("admin:lora_adapter_change", args=[asked.adapter_id])).content.decode()
    for wanted in ("1: ready, trained, rank 16", "samples of version 1", alice.account.owner.email):
        assert wanted in page, wanted
    assert admin_client.get(reverse("admin:lora_samples", args=[asked.adapter_id, 1])).status_code == 200
    storages["adapters"].delete(asked.version.samples[0]["path"])
    assert admin_client.get(reverse("admin:lora_samples", args=[asked.adapter_id, 1])).status_code == 404
    found = admin_client.get(reverse("admin:lora_adapter_changelist"), {"q": alice.account.owner.email})
    assert str(asked.adapter) in found.content.decode()


def test_a_publication_is_approved_under_the_operators_share(admin_client, asked, settings):
    settings.MARKET_SHARE = 650
    page = admin_client.get(reverse("admin:lora_publication_change", args=[asked.id])).content.decode()
    assert "0.25 of a picture" in page
    address = reverse("admin:lora_publication_approve", args=[asked.id])
    assert address in page
    admin_client.post(address, SENT)
    admin_client.post(address, SENT)
    assert (Listing.objects.get().share, Publication.objects.get().status) == (650, "approved")
    glaze = {"adapter": str(asked.adapter_id), "slug": "glaze", "version": 1}
    assert told() == [("publication.approved", glaze)], "once, however often it was approved"
    assert address not in admin_client.get(reverse("admin:lora_publication_change", args=[asked.id])).content.decode()


def test_a_publication_is_refused_with_a_reason(admin_client, asked):
    address = reverse("admin:lora_publication_refuse", args=[asked.id])
    admin_client.post(address, SENT)
    assert Publication.objects.get().status == "pending", "there was no reason"
    admin_client.post(address, SENT | {"reason": "Too alike."})
    assert (Publication.objects.get().status, Publication.objects.get().reason) == ("refused", "Too alike.")
    assert not Listing.objects.exists()
    ((kind, data),) = told()
    assert (kind, data["slug"], data["reason"]) == ("publication.refused", "glaze", "Too alike.")


def test_a_report_is_closed_and_its_adapter_taken_down(admin_client, asked, bob):
    publications.approve(asked, 700)
    opinions.report(uuid7(), asked.adapter, bob.account.id, "copyright", "It is ours.")
    address = reverse("admin:lora_report_close", args=[Report.objects.get().id])
    admin_client.post(address, SENT | {"outcome": "It was theirs.", "take_down": "on"})
    assert Report.objects.get().closed_at
    with pytest.raises(UnknownAdapter):
        market.find(asked.adapter.owner.handle, "glaze")
    ((kind, data),) = told()
    assert (kind, data["reason"]) == ("publication.withdrawn", "It was theirs.")
    publishing.take_down(asked.adapter, "again")
    assert len(told()) == 1


def test_whoever_may_only_look_decides_nothing(client, django_user_model, asked):
    other = django_user_model.objects.create_user("other@example.com", "secret", is_staff=True)
    client.force_login(other)
    for name in ("approve", "refuse"):
        address = reverse(f"admin:lora_publication_{name}", args=[asked.id])
        assert client.post(address, SENT | {"reason": "x"}).status_code == 403
    assert Publication.objects.get().status == "pending"

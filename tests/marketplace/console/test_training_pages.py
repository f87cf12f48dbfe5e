"""The operator's pages of trainings and their tiers."""

import json

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.urls import reverse

from lora import tiers
from lora.models import Tier
from marketplace.approvals import acts
from marketplace.approvals.act import Impossible
from marketplace.identifiers import uuid7
from marketplace.trainings import lifecycle
from marketplace.trainings.models import Training
from tests.marketplace.trainings import making

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ledger_is_right")]


@pytest.fixture
def training(alice):
    making.submit(alice)
    claimed = lifecycle.claim("t1")
    path = storages["adapters"].save(f"trainings/{claimed.id}/1-samples.png", ContentFile(b"\x89PNG"))
    for step, loss in ((20, 0.3), (40, 0.2)):
        found = {"step": step, "loss": loss, "score": -loss, "samples": path, "adapter": ""}
        lifecycle.evaluated(claimed, found)
    lifecycle.heartbeat(claimed, step=40, loss=0.25, seconds_left=600)
    return claimed


def test_a_training_shows_its_curve_its_samples_and_what_is_left(admin_client, training, alice):
    page = admin_client.get(reverse("admin:trainings_training_changelist")).content.decode()
    assert "40 of 100 steps, loss 0.2500, 10 min left" in page
    assert "140.625 Tokens held" in page
    page = admin_client.get(reverse("admin:trainings_training_change", args=[training.id])).content.decode()
    for wanted in ("step 20: 0.3000", "from 0.3000 to 0.2000", "samples of step 40", alice.account.owner.email):
        assert wanted in page, wanted
    samples = reverse("admin:trainings_samples", args=[training.id, 40])
    assert samples in page
    assert b"".join(admin_client.get(samples).streaming_content) == b"\x89PNG"
    assert admin_client.get(reverse("admin:trainings_samples", args=[training.id, 41])).status_code == 404


def test_samples_are_for_operators_who_may_see_trainings(client, django_user_model, training):
    samples = reverse("admin:trainings_samples", args=[training.id, 40])
    assert client.get(samples).status_code == 302
    other = django_user_model.objects.create_user("other@example.com", "secret", is_staff=True)
    client.force_login(other)
    assert client.get(samples).status_code in {403, 404}


def test_trainings_are_found_by_id_and_customer(admin_client, training, alice):
    address = reverse("admin:trainings_training_changelist")
    for term, found in ((str(training.id), True), (alice.account.owner.email, True), ("nobody@example.com", False)):
        page = admin_client.get(address, {"q": term}).content.decode()
        assert (str(training.id) in page) is found, term


def test_an_operator_cancels_a_training(admin_client, training):
    address = reverse("admin:trainings_training_cancel", args=[training.id])
    admin_client.post(address, {"_form_submitted": "on"})
    assert Training.objects.get().cancel_requested_at


def test_tiers_show_what_they_cost_and_are_taken_off_sale(admin_client):
    page = admin_client.get(reverse("admin:lora_tier_changelist")).content.decode()
    assert "60 pictures at 1024², rank 16, 2000 steps" in page
    assert "0.05 of a picture" in page
    craft = tiers.find("craft")
    admin_client.post(reverse("admin:lora_tier_stop_sale", args=[craft.id]), {"_form_submitted": "on"})
    assert not Tier.objects.get(pk=craft.pk).active


def changed(**changes):
    terms = {
        "base_cost": 3_000_000, "floor": 1, "most_pictures": 50, "side": 512, "rank": 8, "most_steps": 500,
        "versions_kept": 1, "service_class": "batch", "may_publish": False, "surcharge": 0,
    }  # fmt: skip
    return acts.TierChange("pilot", "To begin with.", terms | changes)


def test_a_tier_is_published_by_an_act_that_needs_a_second_person():
    act = changed()
    act.check()
    assert act.limit is None
    assert json.loads(json.dumps(act.terms)) == act.terms
    assert act.carry_out(uuid7()) == "pilot version 1 is on sale"
    assert dict(act.lines())["1,000 steps"] == "3,000 Tokens"
    assert tiers.find("pilot").most_pictures == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"layers": "some"},
        {"service_class": "soon"},
        {"colour": "red"},
        {"base_cost": "3"},
        {"most_pictures": 3},
    ],
)
def test_terms_that_make_no_sense_are_impossible(wrong):
    with pytest.raises(Impossible):
        changed(**wrong).check()
    assert not Tier.objects.filter(name="pilot").exists()

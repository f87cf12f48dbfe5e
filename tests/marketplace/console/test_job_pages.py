"""The operator's pages of jobs: what they cost, why they failed, and how they are canceled."""

import re

import pytest
from django.test import Client

from billing.models import Transfer
from marketplace.jobs import lifecycle
from marketplace.jobs.models import Job
from tests.marketplace.console.operators import delivered, job_of, staff, text

pytestmark = pytest.mark.django_db


def test_the_page_of_a_job_shows_its_picture_every_factor_and_where_the_tokens_went(operator, alice, order, picture):
    job = delivered(alice, order, picture, n=2)
    page = text(operator, f"jobs/job/{job.id}/change/")
    for value in job.quote["factors"].values():
        assert re.search(rf">(× )?{re.escape(value)}<", page), value
    for shown in ("2.5 Tokens", "1.25 Tokens", "Version 2", "40 of 40", "20 steps run, 0 skipped, delivered", " UTC"):
        assert shown in page
    transfer = Transfer.objects.get(reference=job.id)
    assert f"/admin/billing/transfer/{transfer.pk}/change/" in page
    links = set(re.findall(r'src="(/images/[^"]+)"', page))
    assert len(links) == 2
    for link in links:
        assert Client().get(link.replace("&amp;", "&"))["Content-Type"] == "image/png"


def test_the_page_of_a_failed_job_says_why_and_that_nothing_was_charged(operator, alice, order):
    job = lifecycle.claim(job_of(alice, order).id, "w1")
    lifecycle.fail(job, "engine_failed", "The picture could not be made.", retry=False)
    page = text(operator, f"jobs/job/{job.id}/change/")
    assert "engine_failed" in page
    assert "No Tokens have moved for this job." in page
    assert "not delivered" in page


def test_cancel_asks_first_and_then_ends_the_job_and_its_hold(operator, alice, order):
    job = job_of(alice, order)
    assert "Cancel this job?" in text(operator, f"jobs/job/{job.id}/cancel/")
    assert Job.objects.get(id=job.id).status == "queued"
    answer = operator.post(f"/admin/jobs/job/{job.id}/cancel/", {"_form_submitted": "on"})
    assert answer["HX-Redirect"] == f"/admin/jobs/job/{job.id}/change/"
    assert Job.objects.get(id=job.id).status == "canceled"
    assert alice.balance == (1_000_000, 0)
    assert "Canceled." in text(operator, f"jobs/job/{job.id}/history/")


def test_cancel_leaves_a_job_that_has_ended_as_it_is(operator, alice, order, picture):
    job = delivered(alice, order, picture)
    before = alice.balance
    assert f"/admin/jobs/job/{job.id}/cancel/" not in text(operator, f"jobs/job/{job.id}/change/")
    operator.post(f"/admin/jobs/job/{job.id}/cancel/", {"_form_submitted": "on"})
    assert Job.objects.get(id=job.id).status == "succeeded"
    assert alice.balance == before


def test_cancel_is_for_operators_who_may_change_jobs(alice, order):
    job = job_of(alice, order)
    looking = staff("view_job")
    assert f"/admin/jobs/job/{job.id}/cancel/" not in text(looking, f"jobs/job/{job.id}/change/")
    answer = looking.post(f"/admin/jobs/job/{job.id}/cancel/", {"_form_submitted": "on"})
    assert answer.status_code == 403
    assert Job.objects.get(id=job.id).status == "queued"
    staff("view_job", "change_job").post(f"/admin/jobs/job/{job.id}/cancel/", {"_form_submitted": "on"})
    assert Job.objects.get(id=job.id).status == "canceled"


def test_several_jobs_are_canceled_at_once_and_those_that_ended_are_counted(operator, alice, order, picture):
    ended, waiting = delivered(alice, order, picture), job_of(alice, order)
    running = lifecycle.claim(job_of(alice, order).id, "w1")
    chosen = {"action": "cancel_selected", "_selected_action": [ended.id, waiting.id, running.id]}
    answer = operator.post("/admin/jobs/job/", chosen, follow=True)
    assert "Canceled or stopping: 2. Already ended: 1." in answer.content.decode()
    assert Job.objects.get(id=waiting.id).status == "canceled"
    assert Job.objects.get(id=running.id).cancel_requested_at is not None

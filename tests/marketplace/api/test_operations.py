"""What whoever runs Kiln looks at: health, metrics, the API's description, the proof that the books are right."""

import io
import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Worker
from marketplace.streams import application  # noqa: F401 - whose measures are among the metrics
from tests.marketplace.people import check_ledger

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).parents[3]


def worker(seconds_ago=0, warm=True):
    Worker.objects.create(
        name=f"w{seconds_ago}",
        model="m",
        revision="r",
        warm=warm,
        seen_at=timezone.now() - timedelta(seconds=seconds_ago),
    )


def test_alive(client):
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready_with_a_warm_worker(client):
    worker()
    answer = client.get("/readyz")
    assert answer.status_code == 200
    said = {name: word for name, word in answer.json().items() if name != "maintenance"}
    assert said == {"status": "ready", "database": "ok", "broker": "ok", "worker": "ok"}


@pytest.mark.parametrize("state", [{"seconds_ago": 60}, {"warm": False}])
def test_not_ready_without_a_warm_worker(state, client):
    worker(**state)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["worker"] == "missing"


def test_not_ready_without_a_broker(client, settings):
    worker()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = client.get("/readyz")
    assert answer.status_code == 503
    said = {name: word for name, word in answer.json().items() if name != "maintenance"}
    assert said == {"status": "not ready", "database": "ok", "broker": "missing", "worker": "ok"}


def test_metrics_tell_queues_and_tokens(client, alice, order):
    first = submission.submit(alice.account.id, order()).job
    submission.submit(alice.account.id, order(service_class="batch", n=2))
    submission.submit(alice.account.id, order())
    lifecycle.claim(first.id, "w1")
    page = client.get("/metrics").content.decode()
    found = {name: float(value) for name, value in re.findall(r"^(kiln_[a-z_]+(?:\{[^}]*\})?) (\S+)$", page, re.M)}
    assert found['kiln_queue_depth{service_class="standard"}'] == 1
    assert found['kiln_queue_depth{service_class="batch"}'] == 1
    assert found['kiln_queue_depth{service_class="interactive"}'] == 0
    assert found["kiln_jobs_running"] == 1
    assert found["kiln_tokens_held"] == pytest.approx(1.25 + 1.25 + 1.25)
    for name in (
        "kiln_queue_age_seconds",
        "kiln_batch_seconds",
        "kiln_batch_rows",
        "kiln_steps",
        "kiln_tokens_captured",
    ):
        assert f"# TYPE {name}" in page


def test_every_metric_is_in_its_page_of_the_documentation(client, db):
    page = client.get("/metrics").content.decode()
    shown = set(re.findall(r"^# TYPE (kiln_\w+?)(?:_total|_created)? \w+$", page, re.M))
    told = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`(kiln_\w+)`", told)) == shown


def test_the_description_names_every_address_and_its_errors(client):
    schema = yaml.safe_load(client.get("/api/schema").content)
    assert {
        "/v1/quotes", "/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/balance", "/v1/transfers",
        "/v1/keys", "/v1/keys/{key_id}", "/v1/models",
    } <= schema["paths"].keys()  # fmt: skip
    answers = schema["paths"]["/v1/jobs"]["post"]["responses"]
    assert {"202", "400", "401", "402", "422"} <= answers.keys()
    assert schema["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"


def test_the_description_can_be_browsed(client):
    page = client.get("/docs").content.decode()
    assert "swagger-ui" in page
    assert "kiln/docs.css" in page
    assert client.get("/static/kiln/docs.css").status_code == 200
    assert "https://" not in re.sub(r'href="https://github[^"]*"', "", page), "the page must not need the internet"


def test_a_customer_is_created_with_tokens_and_a_key(client):
    said = io.StringIO()
    call_command("create_customer", "dora@example.com", "--grant", "12.5", stdout=said)
    key = said.getvalue().splitlines()[-1]
    balance = client.get("/v1/balance", headers={"Authorization": f"Bearer {key}"})
    assert balance.json()["available"] == "12.5"
    call_command("create_customer", "Dora@example.com ", stdout=said)
    second = client.get("/v1/balance", headers={"Authorization": f"Bearer {said.getvalue().splitlines()[-1]}"})
    assert second.json()["available"] == "12.5"


@pytest.mark.parametrize(
    "arguments", [["not-an-address"], ["a@example.com", "--grant", "-5"], ["a@example.com", "--grant", "1.2345"]]
)
def test_a_customer_that_cannot_be_created(arguments):
    with pytest.raises(CommandError):
        call_command("create_customer", *arguments)


DAMAGE = {
    "a job without a hold": "DELETE FROM billing_hold",
    "a hold without a job": "DELETE FROM jobs_job",
    "an ended job that still holds": "UPDATE jobs_job SET status = 'failed', finished_at = now()",
    "a job charged otherwise than its hold": "UPDATE jobs_job SET captured = 5",
    "a hold in another wallet": "UPDATE jobs_job SET account_id = %(bob)s",
    "a success without a picture": "UPDATE jobs_job SET status = 'succeeded', finished_at = now()",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_between_jobs_and_holds_is_found(damage, alice, bob, order):
    submission.submit(alice.account.id, order())
    assert check_ledger() == "ledger ok"
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(damage, {"bob": bob.account.id})
    assert re.match(r"(job|hold|wallet) ", check_ledger())
    connection.needs_rollback = True

"""Webhooks of a customer, and what became of what was sent there. Imported once Django is set up."""

from django.db.models.functions import Now

from marketplace.webhooks.models import Delivery, Endpoint

ENDS = ["job.succeeded", "job.failed", "job.canceled"]


def make(customer, receiver, path="/hook", types=ENDS, **more):
    answer = customer.post("/v1/webhooks", {"url": f"{receiver.url}{path}", "types": types, **more})
    assert answer.status_code == 201, answer.content
    return answer.json()


def delivered(customer, webhook):
    return customer.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"]


def due(**changes):
    Delivery.objects.filter(status="waiting").update(next_at=Now(), **changes)
    Endpoint.objects.update(paused_until=None)

"""What tests of the console share: operators' browsers, and jobs to look at."""

from uuid import uuid4

from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from marketplace.accounts.models import Person
from marketplace.jobs import lifecycle, submission
from marketplace.jobs.models import Job


def browser(person):
    client = Client()
    client.force_login(person)
    return client


def staff(*permissions):
    """The browser of an operator with these rights and no others."""
    person = Person.objects.create_user(f"{uuid4()}@example.com", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return browser(person)


def text(client, path):
    answer = client.get(f"/admin/{path}")
    assert answer.status_code == 200, path
    return answer.content.decode()


def queries(client, path):
    with CaptureQueriesContext(connection) as found:
        text(client, path)
    return [query["sql"] for query in found]


def job_of(customer, order, **changes):
    return submission.submit(customer.account.id, order(**changes), key_id=customer.key_id).job


def delivered(customer, order, picture, **changes):
    job = lifecycle.claim(job_of(customer, order, **changes).id, "w1")
    lifecycle.complete(job, [picture(job, index) for index in range(job.n)], {})
    return Job.objects.get(id=job.id)

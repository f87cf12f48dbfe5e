"""A receiver at localhost that this process trusts, and a deliverer that may go there."""

import pytest


@pytest.fixture
def receiver(tmp_path, settings, monkeypatch):
    from marketplace.webhooks import posting
    from tests.marketplace.webhooks.receivers import Receiver

    found = Receiver(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(found.authority))
    settings.WEBHOOKS_PRIVATE = True
    posting._guard.cache_clear()
    yield found
    posting._guard.cache_clear()
    found.close()


@pytest.fixture
def sender(transactional_db):
    from tests.marketplace.webhooks.receivers import Sender

    found = Sender()
    yield found
    found.close()


@pytest.fixture
def ends(order, picture):
    """Orders a job and ends it; returns its id."""
    from marketplace.jobs import lifecycle, submission

    def make(customer, how="succeeded", **changes):
        job_id = submission.submit(customer.account.id, order(**changes)).job.id
        if how == "canceled":
            lifecycle.cancel(customer.account.id, job_id)
            return job_id
        job = lifecycle.claim(job_id, "a worker")
        if how == "succeeded":
            lifecycle.complete(job, [picture(job)], {})
        else:
            lifecycle.fail(job, "internal", "It broke.", retry=False)
        return job_id

    return make

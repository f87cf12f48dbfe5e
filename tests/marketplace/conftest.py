"""The cast: alice has an account with 1,000 Tokens and a key, bob one with none, and both speak HTTP.

Imports wait inside the fixtures: this file is read before Django is set up.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.flushing import flush_keeps_opening_rows  # noqa: F401
from tests.marketplace.people import Customer, check_ledger, customer


@pytest.fixture
def alice(request: pytest.FixtureRequest) -> Customer:
    _database(request)
    return customer("alice", 1000)


@pytest.fixture
def bob(request: pytest.FixtureRequest) -> Customer:
    _database(request)
    return customer("bob", 0)


def _database(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("django_db")
    lasting = marker is not None and marker.kwargs.get("transaction")
    request.getfixturevalue("transactional_db" if lasting else "db")


@pytest.fixture
def order() -> Callable[..., Any]:
    """`tests.orders.order`, which must not be imported before Django is set up."""
    from tests.orders import order

    return order


@pytest.fixture
def picture() -> Callable[..., Any]:
    """Stores a picture of a running job, as a worker does, and returns its lifecycle.Result."""
    from PIL import Image as Pixels

    from billing.prices.pricing import ImageOutcome
    from marketplace.jobs import storage
    from marketplace.jobs.lifecycle import Result

    def make(job: Any, index: int = 0, steps: int = 20) -> Result:
        pixels = Pixels.new("RGB", (256, 256), (220, 40, 40))
        return Result(ImageOutcome(True, steps), storage.put(job, index, pixels))

    return make


@pytest.fixture
def ledger_is_right() -> Iterator[None]:
    """After the test the ledger and the jobs must tell one story."""
    yield
    assert check_ledger().startswith("ledger ok")


@pytest.fixture(autouse=True)
def fresh_prices() -> Iterator[None]:
    from billing.prices import price_lists

    price_lists.forget()
    yield
    price_lists.forget()


@pytest.fixture(autouse=True)
def fresh_limits() -> Iterator[None]:
    """No request counts that another test made, not even those that are counted by address."""
    from marketplace.accounts import tiers
    from marketplace.limits import shares
    from marketplace.limits.counts import counts

    yield
    used = counts.cache_info().currsize
    shares.forget()
    tiers.forget()
    if used:
        counts().reset()


@pytest.fixture(scope="module")
def stripe_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The double of Stripe as a process: its address. Stripe's library waits 20 ms before it tries again, not 500."""
    import stripe

    from tests.marketplace import shops

    with shops.double(tmp_path_factory.mktemp("stripe")) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.02)
        yield url


@pytest.fixture
def card(shop: Any) -> str:
    """Automatic top-ups are on; the saved card."""
    from tests.marketplace import shops

    return shops.save_card(shop, shops.switch_on(shop))


@pytest.fixture
def shop(stripe_double: str, live_server: Any, settings: Any, bob: Customer) -> Iterator[Any]:
    """Bob, who pays by card. After the test the ledger must be right."""
    from billing.tokens import proof
    from devstack import processes
    from tests.marketplace import shops

    settings.STRIPE_SECRET_KEY, settings.STRIPE_API_BASE = shops.KEY, stripe_double
    settings.STRIPE_WEBHOOK_SECRETS = [shops.SECRET]
    made = shops.Shop(stripe_double, bob)
    made.control("webhook", url=f"{live_server.url}/webhooks/stripe")
    yield made
    # what is on its way to the web server still writes, and the tables are about to be emptied
    assert processes.wait_until(lambda: made.control("webhook", url="http://127.0.0.1:9")["under_way"] == 0, 15)
    made.heal()
    assert proof.check() == []

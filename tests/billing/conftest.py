"""The cast: alice has 1,000 Tokens, bob has an empty wallet, carol publishes adapters.

Imports wait inside the fixtures: this file is read before Django is set up.
"""

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from tests.flushing import flush_keeps_opening_rows  # noqa: F401


@pytest.fixture
def alice(bob: UUID) -> UUID:
    from billing.tokens import wallets

    owner = uuid4()
    wallets.create(owner)
    wallets.grant(owner, 1_000_000, f"start {owner}")
    return owner


@pytest.fixture
def bob() -> UUID:
    from billing.tokens import wallets

    owner = uuid4()
    wallets.create(owner)
    return owner


@pytest.fixture
def carol() -> UUID:
    from billing.models import Wallet
    from billing.tokens import wallets

    owner = uuid4()
    wallets.create(owner, Wallet.Kind.CREATOR)
    return owner


@pytest.fixture
def held(alice: UUID) -> UUID:
    """The reference of a hold of 600 Tokens on alice's wallet."""
    from billing.tokens import wallets

    reference = uuid4()
    wallets.hold(alice, 600_000, reference, timedelta(hours=1))
    return reference


@pytest.fixture(autouse=True)
def fresh_prices() -> Iterator[None]:
    from billing.prices import price_lists

    price_lists.forget()
    yield
    price_lists.forget()

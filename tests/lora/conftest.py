"""The cast: carol makes adapters, alice and bob would like to use them. Imports wait until Django is set up."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.flushing import flush_keeps_opening_rows  # noqa: F401


@pytest.fixture
def alice() -> UUID:
    return uuid4()


@pytest.fixture
def bob() -> UUID:
    return uuid4()


@pytest.fixture
def carol(db: None) -> UUID:
    return uuid4()


@pytest.fixture
def glaze(carol: UUID) -> Any:
    """Carol's adapter, without a version."""
    from lora import adapters

    return adapters.create(uuid4(), carol, slug="glaze", name="Glaze", base_model="kiln-house", base_revision="abc")

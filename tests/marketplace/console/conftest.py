"""The operator who may do everything. Imports wait: this is read before Django is set up."""

from typing import Any

import pytest


@pytest.fixture
def operator(db: None) -> Any:
    from marketplace.accounts.models import Person
    from tests.marketplace.console.operators import browser

    return browser(Person.objects.create_superuser("operator@example.com"))

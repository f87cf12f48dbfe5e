"""Wallets, lots and debts beside a model of a few dictionaries: after every step of every story both say the same."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.billing.tokens.books_beside import Books


@pytest.mark.timeout(600)
@pytest.mark.django_db
def test_every_story_ends_as_the_model_says():
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=settings.default.max_examples * 3 // 10,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

"""Stories of payments beside an accountant: made up by hypothesis, and some that once went wrong.

`--stories 20000` tells as many.
"""

import logging
from collections.abc import Iterator

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.billing.payments import clocks
from tests.billing.payments.stories import ALWAYS_LOW, ASKS, HOUR, UNANSWERED, VISA, Stories

QUICK, FULL, STEPS = 50, 2_000, 16


@pytest.fixture
def stories(pytestconfig: pytest.Config, full: bool) -> int:
    return int(pytestconfig.getoption("--stories") or (FULL if full else QUICK))


@pytest.fixture
def quiet() -> Iterator[None]:
    """What Stripe refuses is logged, and here it refuses thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(6 * 3600)
@pytest.mark.django_db
def test_every_story_of_payments_ends_as_the_accountant_says(stories, quiet):
    with clocks.movable():
        with connection.cursor() as cursor:  # the proof is quick on a few rows, and starting its helpers is not
            cursor.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        run_state_machine_as_test(
            Stories,
            settings=settings(
                max_examples=stories, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


# --- told again ---


@pytest.fixture
def story(db, quiet) -> Iterator[Stories]:
    """One in which a card is saved that is charged at once, for one pack a day; it ends as all of them do."""
    with clocks.movable():
        told = Stories()
        told.begin(0, "saves", 200_000, 100)
        yield told
        told.teardown()


def charges(story):
    return len(story.at_stripe("charge", "succeeded"))


def test_a_charge_without_an_answer_is_not_written_off_when_the_customer_stops_and_begins_anew(story):
    story.payments_are_kept(UNANSWERED, False)
    assert charges(story) == 2
    story.stop_automatic(None)
    story.both_agree()
    story.order_automatic("coin", "eur", 300_000, 100, True, None)
    story.visit_page(0, VISA, "card", True, True)
    story.payments_are_kept(None, True)
    story.both_agree()
    assert charges(story) == 2


def test_a_charge_without_an_answer_is_not_written_off_when_the_account_is_frozen(story):
    story.payments_are_kept(UNANSWERED, False)
    story.buy_job(100_000, None, False)
    story.end_job(0, 100)
    story.dispute(1, None, True)
    assert story.shown().frozen
    story.payments_are_kept(("error", "GET *"), False)
    story.both_agree()
    story.waive_debt(0)
    story.payments_are_kept(None, False)
    story.both_agree()


def test_a_payment_that_the_customer_made_late_counts_from_then_on(story):
    story.order_automatic("coin", "eur", ALWAYS_LOW, 100, False, None)
    story.change_card(0, ASKS, True)
    story.payments_are_kept(None, True)
    story.time_passes(22 * HOUR)
    story.visit_page(0, VISA, "card", True, True)
    assert charges(story) == 2
    story.change_card(0, VISA, True)
    story.time_passes(3 * HOUR)
    story.payments_are_kept(None, True)
    story.both_agree()
    assert charges(story) == 2


def test_tokens_that_come_free_pay_what_is_owed(story):
    story.stop_automatic(None)
    story.buy_job(100_000, None, True)
    story.end_job(0, 100)
    story.pays_by_hand("coin", "eur", VISA, True)
    story.buy_job(110_000, None, True)
    story.dispute(1, None, True)
    assert story.shown().frozen
    story.end_job(0, 0)
    story.both_agree()


def test_a_customer_who_was_deleted_at_stripe_can_order_again(story):
    story.something_rare("the customer is deleted", 0, False)
    story.order_automatic("coin", "eur", 200_000, 100, False, None)
    story.order_top_up("coin", "eur", True, None)
    assert story.customers()


def test_what_is_ordered_anew_while_the_card_is_about_to_be_charged_is_not_charged_on_the_old_terms(story):
    answer, asked = story.double.api.answer, []

    def meanwhile(request):
        if request.path.endswith("/confirm") and not asked:
            asked.append(request.path)
            story.order_automatic("note", "eur", 10_000, 300, False, None)
        return answer(request)

    story.double.api.answer = meanwhile
    story.payments_are_kept(None, True)
    assert asked
    assert charges(story) == 1, "by hand, at the beginning"


def test_what_went_and_came_again_before_the_payment_was_known_is_on_no_document(story):
    story.pays_by_hand("coin", "eur", VISA, False)
    story.dispute(0, None, True)
    story.close_dispute(0, "won", True)
    story.comes_to_rest()
    for _ in range(16):
        story.time_passes(50 * HOUR)
    story.comes_to_rest()
    assert story.closed_months()

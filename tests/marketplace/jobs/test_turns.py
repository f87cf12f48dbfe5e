"""Whose job a free worker takes: accounts of a class take turns, and every waiting job keeps a message."""

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from redis import Redis

from billing.tokens import wallets
from devstack.processes import wait_until
from marketplace.jobs import lifecycle, outbox, submission, sweeper, turns
from marketplace.jobs.models import Job
from tests.threads import together

pytestmark = [pytest.mark.django_db]


@pytest.fixture(autouse=True)
def broker():
    with Redis.from_url(settings.REDIS_URL) as redis:
        redis.flushall()
        yield redis
        redis.flushall()


@pytest.fixture(autouse=True)
def rich(bob):
    wallets.grant(bob.account.id, 10**9, "rich")


def submit(customer, order, count=1, now=None, **changes):
    found = [submission.submit(customer.account.id, order(**changes)).job.id for _ in range(count)]
    outbox.send_waiting(now)
    return found


def claimed(job_id, sent=None):
    job = lifecycle.claim(job_id, "w1", sent)
    return job and job.id


def a_lock_is_waited_for():
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_locks WHERE NOT granted")
        return cursor.fetchone() is not None


def test_one_job_is_not_kept_waiting_by_another_accounts_many(alice, bob, order):
    many = submit(alice, order, 20)
    assert [claimed(many[0]), claimed(many[1])] == many[:2]
    (one,) = submit(bob, order)
    assert turns.queue_position(Job.objects.get(id=one)) == 2
    assert [claimed(many[2]), claimed(many[3])] == [many[2], one]
    assert [claimed(message) for message in (*many[4:], one)] == many[3:]


def test_accounts_take_turns_by_what_their_jobs_cost(alice, bob, order):
    small, large = submit(alice, order, 12, n=1), submit(bob, order, 4, n=4)
    first = Counter(Job.objects.get(id=claimed(message)).account_id for message in [*small, *large][:10])
    assert first == {alice.account.id: 8, bob.account.id: 2}


def test_a_class_of_its_own_has_turns_of_its_own(alice, bob, order):
    many = submit(alice, order, 5, service_class="batch")
    (one,) = submit(bob, order, service_class="standard")
    assert claimed(many[0]) == many[0]
    assert claimed(one) == one


def test_a_line_that_ran_empty_owes_nothing(alice, bob, order):
    for job in submit(alice, order, 5):
        assert claimed(job) == job
    mine, theirs = submit(alice, order), submit(bob, order)
    assert [claimed(job) for job in (*mine, *theirs)] == [*mine, *theirs]


def test_another_attempt_comes_before_its_accounts_later_jobs(alice, order):
    first, *later = submit(alice, order, 4)
    lifecycle.give_back(lifecycle.claim(first, "w1"))
    outbox.send_waiting()
    assert claimed(later[0]) == first


def test_a_canceled_jobs_message_serves_another(alice, bob, order):
    many, (one,) = submit(alice, order, 3), submit(bob, order)
    lifecycle.cancel(alice.account.id, many[0])
    taken = [claimed(message) for message in (*many, one)]
    assert taken == [one, many[1], many[2], None]
    assert claimed(one) is None


def test_who_waits_is_known_to_have_a_message_whoever_was_served_by_whose(alice, bob, order, broker):
    dice = random.Random(3)
    for minutes in range(60, 40, -1):
        submit(dice.choice([alice, alice, alice, bob]), order, now=timezone.now() - timedelta(minutes=minutes))
    messages = list(Job.objects.order_by("dispatched_at").values_list("id", "dispatched_at"))
    for message in messages[:12]:
        assert claimed(*message)
        broker.rpop("standard")
        assert sweeper.sweep()["lost_messages"] == 0
    broker.rpop("standard")
    assert sweeper.sweep()["lost_messages"] == 1


@pytest.mark.django_db(transaction=True)
def test_many_hands_at_once_take_each_job_once(alice, bob, order):
    messages = [*submit(alice, order, 30), *submit(bob, order, 10)]
    random.Random(5).shuffle(messages)
    taken, errors = [], []

    def take(mine):
        try:
            taken.extend(claimed(message) for message in mine)
        except Exception as error:  # noqa: BLE001 - the test says which
            errors.append(error)
        finally:
            connection.close()

    hands = [threading.Thread(target=take, args=(messages[number::8],)) for number in range(8)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert not errors
    assert sorted(taken, key=str) == sorted(messages, key=str), "each message found a job"
    for job in Job.objects.all():
        lifecycle.stop(job, [], {})


@pytest.mark.django_db(transaction=True)
def test_a_message_that_comes_before_its_dispatcher_has_ended_and_lost_its_job_serves_another(alice, order):
    """Whoever waited for the dispatcher still sees the table as it was before: nobody else was there to be served."""
    first, second = (submission.submit(alice.account.id, order()).job.id for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            outbox.send_waiting()
            early = pool.submit(lambda: (claimed(first), connection.close())[0])
            assert wait_until(a_lock_is_waited_for, 10)
            assert claimed(second) == first, "whose turn it is"
        assert early.result(10) == second


@pytest.mark.django_db(transaction=True)
def test_no_message_is_lost_among_many_hands_that_are_faster_than_the_dispatcher(alice, bob, order, full):
    for round_ in range(60 if full else 12):
        jobs = [submission.submit(each.account.id, order()).job.id for each in (alice, bob) * 4]
        ready = threading.Barrier(len(jobs) + 1)

        def publish(messages, sent, ready=ready):
            ready.wait(10)

        def hand(number, jobs=jobs, ready=ready):
            if number == len(jobs):
                return outbox.send_waiting(publish=publish)
            ready.wait(10)
            return claimed(jobs[number])

        found = together(len(jobs) + 1, hand)
        assert sorted(found[:-1], key=str) == sorted(jobs, key=str), f"round {round_}"

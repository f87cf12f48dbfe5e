"""Limits: who is counted by what, what they are told, and that nobody waits for a Redis that is away."""

import re
import threading
import time
from uuid import uuid4

import pytest
from django.test import Client

from marketplace.environment import networks
from marketplace.jobs import lifecycle
from marketplace.jobs.models import Job
from marketplace.limits import addresses, shares
from marketplace.limits.counts import Counts, Wanted, counts
from marketplace.limits.policies import BYTES, LimitReached, Policy
from tests.marketplace.people import customer, restrict
from tests.threads import together

pytestmark = pytest.mark.django_db(transaction=True)
ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20}
UNKNOWN_KEY = f"kiln_abcdefghijkl_{'x' * 43}"


def take(policy, who="alice", cost=1):
    return shares.take([Wanted(policy, who, cost)])


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


# --- what is counted ---


def test_an_account_gets_its_quota_and_then_429_until_there_is_more(alice):
    restrict(alice, requests_minute=3)
    answers = [alice.get("/v1/balance") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [int(re.search('"burst";r=([0-9]+)', answer["RateLimit"])[1]) for answer in answers] == [2, 1, 0, 0]
    refused = answers[-1]
    assert code(refused) == (429, "burst_limit_reached")
    assert refused.json()["error"]["type"] == "rate_limit"
    assert int(refused["Retry-After"]) >= int(re.search('"burst";r=0;t=([0-9]+)', refused["RateLimit"])[1]) >= 1


@pytest.mark.parametrize(("limit", "name"), [("requests_day", "sustained"), ("key_requests_minute", "key")])
def test_days_and_single_keys_have_quotas_of_their_own(alice, limit, name):
    restrict(alice, **{limit: 2})
    answers = [alice.get("/v1/balance") for _ in range(3)]
    assert code(answers[-1]) == (429, f"{name}_limit_reached")
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    if name == "key":
        other = customer("alice", 0)
        assert other.account == alice.account
        assert other.get("/v1/balance").status_code == 200


def test_another_account_is_not_held_up(alice, bob):
    restrict(alice, requests_minute=1)
    assert [alice.get("/v1/balance").status_code for _ in range(2)] == [200, 429]
    assert bob.get("/v1/balance").status_code == 200


def test_what_is_sent_is_counted_by_its_bytes(alice):
    restrict(alice, upload_mb_hour=1)
    answers = [alice.post("/v1/files", bytes(600_000), Content_Type="multipart/form-data") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [400, 429]
    assert code(answers[1]) == (429, "uploads_limit_reached")
    assert '"uploads";q=1048576;qu="content-bytes";w=3600' in answers[1]["RateLimit-Policy"]
    assert alice.get("/v1/balance").status_code == 200


def test_every_answer_tells_the_policies_and_where_the_caller_stands(alice):
    restrict(alice, requests_minute=50, key_requests_minute=40, requests_day=1000)
    for answer in (alice.get("/v1/balance"), alice.post("/v1/jobs", {"steps": "x"}), alice.get(f"/v1/jobs/{uuid4()}")):
        told = answer["RateLimit-Policy"]
        assert told == '"burst";q=50;w=60, "sustained";q=1000;w=86400, "key";q=40;w=60'
        assert re.fullmatch(r'("(burst|sustained|key)";r=\d+;t=\d+(, )?){3}', answer["RateLimit"])
    public = Client().get("/v1/models")
    assert public["RateLimit-Policy"] == '"address";q=3000;w=60'
    left, seconds = re.fullmatch(r'"address";r=(\d+);t=(\d+)', public["RateLimit"]).groups()
    assert (int(left), 50 < int(seconds) <= 60) == (2999, True)


def test_who_has_no_key_is_counted_by_address(settings):
    settings.ADDRESS_REQUESTS_MINUTE = 2
    home, other = (Client(headers={"X-Forwarded-For": f"203.0.113.{number}"}) for number in (7, 8))
    assert [home.get("/v1/models").status_code for _ in range(3)] == [200, 200, 429]
    assert other.get("/v1/models").status_code == 200


def test_failed_authentication_is_counted_by_address_and_a_key_that_works_is_let_in(alice, settings):
    settings.FAILURES_MINUTE = 2
    guesser = Client(headers={"Authorization": f"Bearer {UNKNOWN_KEY}"})
    found = [guesser.get("/v1/balance") for _ in range(3)]
    assert [answer.status_code for answer in found] == [401, 401, 429]
    assert code(found[-1]) == (429, "failures_limit_reached")
    assert alice.get("/v1/balance").status_code == 200
    assert guesser.get("/v1/balance", headers={"X-Forwarded-For": "203.0.113.9"}).status_code == 401


@pytest.mark.parametrize(
    ("seen", "forwarded", "client"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # a stranger's own claim
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "10.9.9.9, 198.51.100.1, 10.1.2.3", "198.51.100.1"),
        ("172.18.0.3", "198.51.100.1, 192.168.7.7", "198.51.100.1"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("", "198.51.100.1", "198.51.100.1"),  # by a socket in a folder
        ("", "", "unknown"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "", "203.0.113.7"),
    ],
)
def test_the_clients_address_is_what_our_proxies_saw(settings, monkeypatch, seen, forwarded, client):
    monkeypatch.setenv("KILN_TRUSTED_PROXIES", "10.1.0.0/16,private_ranges")
    settings.TRUSTED_PROXIES = networks("KILN_TRUSTED_PROXIES")
    assert addresses.client({"REMOTE_ADDR": seen, "HTTP_X_FORWARDED_FOR": forwarded}) == client


# --- jobs in the queue ---


def test_so_many_jobs_may_wait_and_no_more(alice, bob):
    restrict(alice, queued_jobs=3)
    bought = [alice.post("/v1/jobs", ORDER, Idempotency_Key=f"order {number}".replace(" ", "-")) for number in range(4)]
    assert [answer.status_code for answer in bought] == [202, 202, 202, 429]
    assert code(bought[-1]) == (429, "queue_full")
    assert int(bought[-1]["Retry-After"]) >= 1
    assert Job.objects.filter(account=alice.account).count() == 3
    held = alice.balance[1]
    again = alice.post("/v1/jobs", ORDER, Idempotency_Key="order-0")
    assert (again.status_code, again.json()["id"]) == (202, bought[0].json()["id"])
    assert alice.balance[1] == held
    lifecycle.cancel(alice.account.id, bought[0].json()["id"])
    assert alice.post("/v1/jobs", ORDER).status_code == 202
    assert alice.post("/v1/jobs", ORDER).status_code == 429


# --- how it is counted ---


def test_two_processes_never_let_through_more_than_the_quota_and_lose_little_of_it():
    policy, let_through = Policy("burst", 1000, 60), 0
    ours, theirs = {}, {}
    for number in range(1200):
        shares._shares = (ours, theirs)[number % 2]
        try:
            take(policy)
            let_through += 1
        except LimitReached:
            pass
    assert 980 <= let_through <= 1000


def test_most_requests_ask_redis_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(Counts, "take", lambda self, wanted, real=Counts.take: asked.append(1) or real(self, wanted))
    policies = [Wanted(Policy(name, 9000, seconds), "alice", 1) for name, seconds in (("burst", 60), ("day", 86400))]
    for _ in range(900):
        shares.take(policies)
    assert len(asked) <= 12


def test_who_was_refused_is_refused_without_asking_redis(monkeypatch):
    policy, asked = Policy("burst", 1, 60), []
    take(policy)
    with pytest.raises(LimitReached):
        take(policy)
    monkeypatch.setattr(Counts, "take", lambda *_: asked.append(1))
    for _ in range(5):
        with pytest.raises(LimitReached):
            take(policy)
    assert not asked


def test_there_is_more_after_the_time_that_was_told():
    policy = Policy("burst", 2, 1)
    for _ in range(6):
        try:
            take(policy)
        except LimitReached as refused:
            time.sleep(refused.retry_after)
            take(policy)
            return
    pytest.fail("nothing was refused")


def test_a_large_file_is_refused_where_a_small_one_still_fits():
    policy = Policy("uploads", 100, 60, BYTES)
    take(policy, cost=70)
    with pytest.raises(LimitReached):
        take(policy, cost=50)
    (standing,) = take(policy, cost=20)
    assert standing.left == 10


def test_threads_together_get_the_quota():
    policy = Policy("burst", 40, 60)

    def try_often(_):
        done = 0
        for _ in range(20):
            try:
                take(policy)
                done += 1
            except LimitReached:
                pass
        return done

    assert sum(together(4, try_often)) == 40


# --- Redis away ---


def test_requests_go_on_while_redis_is_away_and_wait_for_it_once(alice, settings):
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    counts.cache_clear()
    restrict(alice, requests_minute=2)
    for _ in range(4):
        answer = alice.post("/v1/jobs", ORDER)
        assert answer.status_code == 202
        assert '"burst";q=2;w=60' in answer["RateLimit-Policy"]
        assert "RateLimit" not in answer


def test_a_redis_that_hangs_is_waited_for_once_in_a_while(settings, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        counts.cache_clear()
        tried = []
        monkeypatch.setattr(
            Counts, "_try", lambda self, *given, real=Counts._try: tried.append(1) or real(self, *given)
        )
        for _ in range(50):
            take(Policy("burst", 5, 60))
        assert len(tried) == 1


def test_counting_goes_on_when_redis_is_back(settings, monkeypatch):
    real, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:9/0"
    counts.cache_clear()
    policy = Policy("burst", 1, 60)
    assert [take(policy)[0].left for _ in range(2)] == [None, None]
    monkeypatch.setattr(counts(), "_storage", Counts(real)._storage)
    monkeypatch.setattr(counts(), "_away_until", 0.001)
    assert take(policy)[0].left == 0
    with pytest.raises(LimitReached):
        take(policy)


def test_while_one_request_looks_whether_redis_is_back_no_other_waits(settings, monkeypatch):
    looking, go_on = threading.Event(), threading.Event()

    def look(self, *_):
        looking.set()
        go_on.wait(10)

    monkeypatch.setattr(Counts, "_try", look)
    monkeypatch.setattr(counts(), "_away_until", 0.001)
    first = threading.Thread(target=take, args=[Policy("burst", 5, 60)])
    first.start()
    assert looking.wait(10)
    assert take(Policy("burst", 5, 60), "bob")[0].left is None
    go_on.set()
    first.join()

"""The clients: customers who act at random, by a plan that the seed decides, and remember what they were told."""

import hashlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from bench.chaos import makers, trainings
from bench.chaos.answers import Answer, Http, Unanswered, is_in_flight, patiently
from bench.chaos.files import Files
from bench.chaos.makers import NOT_ANY_MORE, Maker
from bench.chaos.memory import Customer, Memory
from bench.chaos.stripe_side import StripeSide
from bench.chaos.trainings import Apprentice
from bench.chaos.watching import Watcher

OPEN_JOBS = 2
FINAL = {"succeeded", "failed", "canceled"}
VISA, DECLINED, DISPUTED, STOLEN = "4242424242424242", "4000000000000002", "4000000000000259", "4000000000005423"
ASKS, POOR = "4000002760003184", "4000000000009995"
CARDS = {VISA: 12, DECLINED: 2, DISPUTED: 1, STOLEN: 1, "bank": 2, "": 1}
# What a saved card turns into; "" is removed.
CHANGES = {VISA: 6, POOR: 1, ASKS: 2, DISPUTED: 1, STOLEN: 1, "": 2}
CAPPED_SHARE = 0.25
WEIGHTS = {
    "buy a job": 40, "watch a job": 8, "make pictures in OpenAI's form": 4,
    "look at a job": 30, "cancel a job": 10, "look at the balance": 6, "top up": 6,
    "send a file": 5, "look at a file": 3, "delete a file": 2,
    "refund a job": 4, "refund a top-up": 2, "refund money": 3, "fail a refund": 1,
    "dispute": 2, "close a dispute": 2, "waive a debt": 3, "order automatic top-ups": 3, "stop automatic top-ups": 0.5,
    "change a card": 1.5, "pay where the bank asks": 4, "wake the payments": 5,
    **makers.WEIGHTS,
}  # fmt: skip
PICTURES_SHARE, ADAPTERS_SHARE = 0.35, 0.4


class Client(threading.Thread):
    """One of several clients of an account; its operations come from its own generator, so a seed repeats them."""

    def __init__(
        self, number: int, seed: int, customer: Customer, places: tuple[str, StripeSide], memory: Memory
    ) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self.number, self.seed, self.memory = number, seed, memory
        self.account = customer.id
        url, self.stripe = places
        self.rng = random.Random(f"{seed}:{number}")
        self.http, self.capped = (Http(url, key, self.rng, memory) for key in (customer.key, customer.capped_key))
        self.turn = 0
        self.weights = WEIGHTS | (trainings.WEIGHTS if number < trainings.APPRENTICES else {})
        self.open: deque[str] = deque()
        self.ended: deque[str] = deque(maxlen=50)
        self.paid: deque[str] = deque(maxlen=20)
        self.files = Files(self.http, self.rng, self.expect)
        self.watcher = Watcher(self.http, self.expect)
        self.maker = Maker(self.account, self.http, self.stripe, memory, self.rng, self.expect, self.key)
        self.apprentice = Apprentice(self.http, memory, self.rng, self.expect, self.key, self.maker.sent.__setitem__)
        self.refunds: deque[str] = deque(maxlen=20)
        self.disputes: deque[str] = deque(maxlen=20)
        self.may_go = threading.Event()
        self.idle = threading.Event()
        self.finished = threading.Event()
        self.verbs: dict[str, Callable[[], str]] = {
            "buy a job": self.buy, "watch a job": self.watch, "make pictures in OpenAI's form": self.make_pictures,
            "look at a job": self.look, "cancel a job": self.cancel,
            "look at the balance": self.balance, "top up": self.top_up, "refund a job": self.refund_job,
            "send a file": self.files.send, "look at a file": self.files.look, "delete a file": self.files.delete,
            "refund a top-up": self.refund_top_up, "refund money": self.refund_money, "fail a refund": self.fail_refund,
            "dispute": self.dispute, "close a dispute": self.close_dispute, "waive a debt": self.waive,
            "order automatic top-ups": self.order_automatic, "stop automatic top-ups": self.stop_automatic,
            "change a card": self.change_card, "pay where the bank asks": self.pay_pending,
            "wake the payments": self.wake_payments, **self.maker.verbs, **self.apprentice.verbs,
        }  # fmt: skip

    def run(self) -> None:
        from django.db import connection

        while not self.finished.is_set():
            if not self.may_go.is_set():
                self.idle.set()
                time.sleep(0.02)
                continue
            self.idle.clear()
            self.turn += 1
            name = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
            try:
                self.memory.count(name, self.verbs[name]())
            except Unanswered:
                self.memory.count(name, "no answer")
            except Exception as error:  # noqa: BLE001
                self.complain(f"{name}: {error!r}")
            finally:
                connection.close()
            time.sleep(self.rng.random() * 0.05)

    def complain(self, what: str) -> None:
        self.memory.complain(f"seed {self.seed}, {self.name}, turn {self.turn}, account {self.account}: {what}")

    def expect(self, true: bool, what: str) -> None:
        if not true:
            self.complain(what)

    def key(self) -> str:
        return f"{self.seed}-{self.number}-{self.turn}"

    def buy(self) -> str:
        if len(self.open) >= OPEN_JOBS:
            return self.look()
        rng, key = self.rng, self.key()
        http = self.capped if rng.random() < CAPPED_SHARE else self.http
        body = {
            "prompt": "a red circle", "width": 64, "height": 64, "steps": rng.randint(1, 3), "n": rng.randint(1, 2),
            "guidance_scale": 1, "service_class": rng.choice(["interactive", "standard", "batch"]),
            "seed": rng.randrange(2**32), **(self.files.terms() if rng.random() < PICTURES_SHARE else {}),
            **(self.maker.terms() if rng.random() < ADAPTERS_SHARE else {}),
        }  # fmt: skip
        self.memory.asked.add(key)
        answers = self.twice(http, "/v1/jobs", body, key) if rng.random() < 0.1 else []
        waits = {"Prefer": f"wait={rng.randint(1, 5)}"} if rng.random() < 0.2 else {}
        answers.append(http.ask("POST", "/v1/jobs", body, key, **waits))
        bought = {answer.body["id"] for answer in answers if answer.status in {200, 202}}
        self.expect(len(bought) <= 1, f"key {key} bought {bought}")
        right = {202, 402, *([200] if waits else [])}
        self.expect(
            all(answer.status in right or answer.body["error"]["code"] in NOT_ANY_MORE for answer in answers),
            f"buying {key} was answered {answers}",
        )
        if not bought:
            self.memory.refused.add(key)
            return str(answers[-1].body["error"]["code"])
        self.memory.jobs[key] = bought.pop()
        self.open.append(self.memory.jobs[key])
        if rng.random() < 0.05:
            other = http.ask("POST", "/v1/jobs", body | {"prompt": "another"}, key)
            self.expect(other.status == 422, f"key {key} with another body was answered {other}")
        return "bought"

    def watch(self) -> str:
        return self.watcher.watch(self.open[-1]) if self.open else "none open"

    def make_pictures(self) -> str:
        """Order and wait in OpenAI's form, until the pictures are there; while they are not, the same is sent again."""
        key, count = self.key(), self.rng.randint(1, 2)
        body = {"prompt": "a red circle", "size": "64x64", "steps": 2, "guidance_scale": 1, "n": count}
        self.memory.asked.add(key)
        answer = self.http.ask("POST", "/v1/images/generations", body, key)
        if answer.status != 200:
            self.expect(answer.status == 402, f"pictures of {key} were answered {answer}")
            return str(answer.body["error"]["code"])
        self.memory.jobs[key] = answer.body["id"]
        self.expect(len(answer.body["data"]) == count, f"{count} pictures of {key} were answered {answer}")
        return "made"

    def twice(self, http: Http, path: str, body: Any, key: str) -> list[Answer]:
        """Send the same request from another connection at the same moment; return its answer, if it is definite."""
        found: list[Answer] = []

        def send() -> None:
            try:
                found.append(http.once("POST", path, body, key, 20.0))
            except (OSError, HTTPException, ValueError):
                return

        other = threading.Thread(target=send)
        other.start()
        http.ask("POST", path, body, key)
        other.join()
        return [answer for answer in found if answer.status < 500 and not is_in_flight(answer)]

    def look(self) -> str:
        if not self.open:
            return "none open"
        job_id = self.open[0]
        self.open.rotate(-1)
        answer = self.http.ask("GET", f"/v1/jobs/{job_id}")
        self.expect(answer.status == 200, f"job {job_id} was answered {answer}")
        if answer.status == 200:
            self.see(answer.body)
            return str(answer.body["status"])
        return str(answer.status)

    def see(self, job: Any) -> None:
        if job["status"] not in FINAL:
            return
        if job["id"] in self.open:
            self.open.remove(job["id"])
        cost = {name: Decimal(value) for name, value in job["cost"].items()}
        self.expect(cost["captured"] + cost["released"] == cost["quoted"] and not cost["held"], f"cost of {job}")
        # a canceled job delivers what it had finished, and is charged for it
        right = (
            bool(job["images"]) if job["status"] == "succeeded" else job["status"] == "canceled" or not job["images"]
        )
        self.expect(right, f"pictures of {job}")
        self.expect(job["status"] != "failed" or not cost["captured"], f"a failed job was charged: {job}")
        lost = job["status"] == "failed" and job["error"]["code"] in {"input_gone", "invalid_request"}
        self.expect(not lost, f"a job lost its picture, or was sold without fitting the model: {job}")
        if job["status"] == "succeeded":
            self.ended.append(job["id"])
            if self.rng.random() < 0.3:
                self.download(job)

    def download(self, job: Any) -> None:
        for image in job["images"]:
            url = urlsplit(image["url"])
            got = self.http.ask("GET", f"{url.path}?{url.query}")
            right = got.status == 200 and hashlib.sha256(got.body).hexdigest() == image["sha256"]
            self.expect(right, f"picture {image['url']} of job {job['id']} was answered {got.status}")

    def cancel(self) -> str:
        if not self.open:
            return "none open"
        answer = self.http.ask("POST", f"/v1/jobs/{self.open[-1]}/cancel", {})
        self.expect(answer.status in {200, 409}, f"canceling {self.open[-1]} was answered {answer}")
        if answer.status == 200:
            self.see(answer.body)
            return str(answer.body["status"])
        return "too late"

    def balance(self) -> str:
        answer = self.http.ask("GET", "/v1/balance")
        if answer.status != 200:
            self.complain(f"the balance was answered {answer}")
            return str(answer.status)
        body = answer.body
        available, held, total = (Decimal(body[name]) for name in ("available", "held", "total"))
        self.expect(available >= 0 and held >= 0 and available + held == total, f"the balance is {body}")
        self.expect(sum(Decimal(lot["left"]) for lot in body["lots"]) == total, f"the lots do not add up: {body}")
        self.expect(body["frozen"] == bool(body["debts"]), f"frozen and debts: {body}")
        return "frozen" if body["frozen"] else "adds up"

    def top_up(self) -> str:
        key, card = self.key(), self.rng.choices(list(CARDS), list(CARDS.values()))[0]
        body = {"pack": "chaos", "currency": self.rng.choice(["eur", "usd"])}
        try:
            answer = self.http.ask("POST", "/v1/topups", body, key)
        except Unanswered:
            return "no Checkout"
        if answer.status != 201:
            self.complain(f"top-up {key} was answered {answer}")
            return str(answer.status)
        self.memory.top_ups[key] = answer.body["id"]
        if not answer.body["url"] or not card:
            return "not paid"
        paid = self.stripe.pay(answer.body["url"], card)
        if paid == "paid":
            self.paid.append(answer.body["url"].rpartition("/")[2])
        if card == "bank" and paid == "paid":
            succeeded = self.rng.random() < 0.7
            done = self.stripe.control(f"payment_intents/{self.intent()}/complete", succeeded=succeeded)
            return ("bank paid" if succeeded else "bank refused") if done else "no answer"
        return paid

    def order_automatic(self) -> str:
        """Order automatic top-ups, now and then with another card, and save one where a page asks for it."""
        currency, cap = self.rng.choice(["eur", "usd"]), self.rng.choice([500, 2000])
        threshold, new_card = self.rng.randint(20, 3_000), self.rng.random() < 0.2
        self.memory.allow(self.account, currency, cap)
        body = {
            "pack": "chaos", "currency": currency, "threshold": f"{threshold / 1_000:.3f}",
            "daily_cap": f"{cap // 100}.00", "new_card": new_card,
        }  # fmt: skip
        answer = self.http.ask("PUT", "/v1/topups/automatic", body)
        if answer.status != 200:
            self.complain(f"ordering automatic top-ups was answered {answer}")
            return str(answer.status)
        page = answer.body["card_url"]
        return f"card {self.stripe.pay(page, self.rng.choice([VISA, VISA, ASKS]))}" if page else "on"

    def stop_automatic(self) -> str:
        answer = self.http.ask("DELETE", "/v1/topups/automatic")
        self.expect(answer.status == 204, f"stopping automatic top-ups was answered {answer}")
        return "stopped"

    def change_card(self) -> str:
        """Have the saved card's bank answer otherwise from now on, or remove the card at Stripe."""
        from billing.models import Payer

        payer = patiently(lambda: Payer.objects.filter(owner=self.account).exclude(card_id="").first())
        if payer is None:
            return "none saved"
        becomes = self.rng.choices(list(CHANGES), list(CHANGES.values()))[0]
        if becomes:
            done = self.stripe.control(f"payment_methods/{payer.card_id}", number=becomes)
        else:
            done = self.stripe.detach(payer.card_id)
        return f"{'changed' if becomes else 'removed'}" if done else "no answer"

    def pay_pending(self) -> str:
        """Pay an automatic top-up on the page that it has if the bank wants to see the customer."""
        answer = self.http.ask("GET", "/v1/topups/automatic")
        self.expect(answer.status in {200, 404}, f"automatic top-ups were answered {answer}")
        pending = answer.body.get("pending") if answer.status == 200 else None
        return self.stripe.pay(pending["url"], VISA) if pending and pending["url"] else "none asked for"

    def wake_payments(self) -> str:
        """Send the task that begins automatic top-ups, as beat does, only much more often than every 15 seconds."""
        from kombu.exceptions import OperationalError
        from redis import RedisError

        from marketplace.maintenance import tasks

        try:
            tasks.keep_payments.apply_async(retry=False)  # type: ignore[attr-defined]
        except (OperationalError, RedisError, OSError):
            return "no answer"
        return "sent"

    def intent(self) -> str | None:
        """Return the payment of one of this client's top-ups."""
        return self.stripe.intent(self.paid[-1]) if self.paid else None

    def refund_job(self) -> str:
        """Refund a job, as the operator."""
        from billing.errors import RefundAboveCapture
        from billing.tokens import wallets

        if not self.ended:
            return "none ended"
        job_id, key = UUID(self.rng.choice(list(self.ended))), self.key()
        amount = self.rng.randint(1, 6)
        try:
            patiently(lambda: wallets.refund(job_id, amount, key))
        except RefundAboveCapture:
            return "too much"
        return "refunded"

    def refund_top_up(self) -> str:
        """Refund a top-up's unspent Tokens, as the operator; others may refund or dispute it at the same time."""
        from billing.models import TopUp
        from marketplace.accounts.models import Person
        from marketplace.approvals import acts, requests
        from marketplace.identifiers import uuid7

        def ask() -> str:
            top_up = TopUp.objects.filter(owner=self.account, payment_intent=intent).first()
            if top_up is None:
                return "not booked yet"
            act = acts.PaymentRefund(str(top_up.id), amount, top_up.currency)
            return requests.ask(Person.objects.get(is_superuser=True), act, "chaos", request_id).status

        if not (intent := self.intent()):
            return "none paid"
        amount, request_id = self.rng.randint(1, 60), uuid7()
        try:
            return str(patiently(ask))
        except requests.Refused:
            return "refused"

    def refund_money(self) -> str:
        if not (intent := self.intent()):
            return "none paid"
        amount = {"amount": self.rng.randint(1, 60)} if self.rng.random() < 0.6 else {}
        made = self.stripe.control("refunds", payment_intent=intent, **amount)
        if made:
            self.refunds.append(made["id"])
        return "refunded" if made else "refused"

    def fail_refund(self) -> str:
        if not self.refunds:
            return "none made"
        return "failed" if self.stripe.control(f"refunds/{self.refunds.pop()}/fail") else "refused"

    def dispute(self) -> str:
        if not (intent := self.intent()):
            return "none paid"
        amount = {"amount": self.rng.randint(1, 101)} if self.rng.random() < 0.3 else {}
        made = self.stripe.control("disputes", payment_intent=intent, **amount)
        if made:
            self.disputes.append(made["id"])
        return "disputed" if made else "refused"

    def close_dispute(self) -> str:
        if not self.disputes:
            return "none open"
        verdict = self.rng.choice(["won", "lost"])
        done = self.stripe.control(f"disputes/{self.disputes.pop()}/close", status=verdict)
        return verdict if done else "refused"

    def waive(self) -> str:
        """Waive the oldest debt, as the operator, so that frozen accounts can go on."""
        from billing.tokens import debts

        owed = patiently(lambda: debts.of(self.account))
        if not owed:
            return "none owed"
        return "waived" if patiently(lambda: debts.waive(owed[0].id, "chaos")) else "settled already"

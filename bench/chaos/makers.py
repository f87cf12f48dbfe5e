"""A client as a maker: sends adapters, has them published, rates others', and spends or is paid what it earned."""

import hashlib
import io
import json
import random
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.chaos.answers import Http, patiently
from bench.chaos.files import form
from bench.chaos.memory import Memory
from bench.chaos.stripe_side import StripeSide

MOST_SENT, RANK = 2, 2
FEES = ("0.1", "0.333", "0.75", "1")
NOT_ANY_MORE = {"unknown_adapter", "unknown_version"}
EARLY = "2026-01-01T00:00:00Z"
WEIGHTS = {
    "send an adapter": 0.5, "publish an adapter": 4, "end a publication": 0.6, "delete an adapter": 0.2,
    "rate an adapter": 2, "look at earnings": 3, "spend earnings": 2, "be paid out": 6, "reverse a payout": 2,
    "change what Stripe pays": 1, "wake the payouts": 6,
}  # fmt: skip


class Maker:
    """What one client makes and earns; `expect` is told what must be true, `key` makes the next idempotency key."""

    def __init__(
        self, account: UUID, http: Http, stripe: StripeSide, memory: Memory, rng: random.Random,
        expect: Callable[[bool, str], None], key: Callable[[], str],
    ) -> None:  # fmt: skip
        self.account, self.http, self.stripe, self.memory = account, http, stripe, memory
        self.rng, self.expect, self.key = rng, expect, key
        self.sent: dict[str, str] = {}
        """Slugs by the adapters' ids."""
        self.is_payee = False
        self.verbs: dict[str, Callable[[], str]] = {
            "send an adapter": self.send, "publish an adapter": self.publish, "end a publication": self.withdraw,
            "delete an adapter": self.delete, "rate an adapter": self.rate, "look at earnings": self.look,
            "spend earnings": self.spend, "be paid out": self.be_paid_out, "reverse a payout": self.reverse,
            "change what Stripe pays": self.change_capability, "wake the payouts": self.wake,
        }  # fmt: skip

    def terms(self) -> dict[str, Any]:
        """Return what makes an order one with adapters: one or two of one's own, or published at some time."""
        known = [*self.sent, *self.memory.published]
        wanted = self.rng.sample(known, min(len(known), self.rng.choice([1, 1, 2])))
        return {"adapters": [{"id": each, "scale": 0.5} for each in dict.fromkeys(wanted)]}

    def send(self) -> str:
        if len(self.sent) >= MOST_SENT:
            return "enough"
        slug, content = self.key(), weights(self.rng.randrange(2**32))
        body = form(content, "a.safetensors", slug=slug, name=slug)
        answer = self.http.ask("POST", "/v1/adapters", body)
        if answer.status == 409:  # an earlier try, whose answer was lost, has made it
            made = [each for each in self.http.ask("GET", "/v1/adapters").body["data"] if each["slug"] == slug]
            self.expect(len(made) == 1, f"adapter {slug} was answered {answer}, and there are {made}")
        else:
            self.expect(answer.status == 202, f"adapter {slug} was answered {answer}")
            made = [answer.body]
        self.sent[made[0]["id"]] = slug
        return "sent"

    def stock(self) -> None:
        """Have an adapter without a check, which takes seconds of a core."""
        from inference.models import catalog
        from lora import adapters, makers, paths, versions
        from lora.models import Version
        from lora.versions import Facts
        from marketplace.adapters import storage
        from marketplace.identifiers import uuid7

        card, slug, content = catalog.card(), self.key(), weights(self.rng.randrange(2**32))
        makers.ensure(self.account)
        known = {"slug": slug, "name": slug, "base_model": card.name, "base_revision": card.revision}
        made = adapters.create(uuid7(), self.account, **known)
        version = versions.begin(made, Version.Origin.UPLOADED, len(content), most=1, mebibytes=1)
        sha256 = hashlib.sha256(content).hexdigest()
        storage.put(paths.ready(made.id, version.number, sha256), io.BytesIO(content))
        versions.accept(version, Facts(sha256=sha256, size=len(content), rank=RANK, layers=len(shapes()) // 2))
        self.sent[str(made.id)] = slug

    def publish(self) -> str:
        """Ask for a publication, on new terms each time, and decide on it as the operator."""
        from django.conf import settings

        from lora import publications
        from lora.models import Publication

        if not self.sent:
            return "none sent"
        adapter_id = self.rng.choice(list(self.sent))
        terms = {"fee": self.rng.choice(FEES), "licence": "any-use"}
        answer = self.http.ask("POST", f"/v1/adapters/{adapter_id}/publication", terms)
        pending = patiently(lambda: Publication.objects.filter(adapter=adapter_id, status="pending").first())
        if pending is None:
            self.expect(answer.status in {202, 404, 409}, f"publishing {adapter_id} was answered {answer}")
            return str(answer.body["error"]["code"] if answer.status >= 400 else "withdrawn meanwhile")
        if self.rng.random() < 0.1:
            patiently(lambda: publications.refuse(pending, "chaos"))
            return "refused"
        patiently(lambda: publications.approve(pending, settings.MARKET_SHARE))
        handle = self.http.ask("GET", "/v1/maker").body["handle"]
        self.memory.published[adapter_id] = (handle, self.sent[adapter_id])
        return "published"

    def withdraw(self) -> str:
        """End a publication, as the maker or as the operator."""
        from lora import publications
        from lora.models import Adapter

        if not self.sent:
            return "none sent"
        adapter_id = self.rng.choice(list(self.sent))
        if self.rng.random() < 0.4:
            patiently(lambda: publications.withdraw(Adapter.objects.get(id=adapter_id), "chaos"))
            return "taken down"
        answer = self.http.ask("DELETE", f"/v1/adapters/{adapter_id}/publication")
        self.expect(answer.status == 204, f"ending the publication of {adapter_id} was answered {answer}")
        return "withdrawn"

    def delete(self) -> str:
        """Delete an adapter, also one that jobs are still to be drawn with."""
        if not self.sent:
            return "none sent"
        adapter_id = self.rng.choice(list(self.sent))
        answer = self.http.ask("DELETE", f"/v1/adapters/{adapter_id}")
        del self.sent[adapter_id]
        # 404: an earlier try, whose answer was lost, has deleted it
        self.expect(answer.status in {204, 404}, f"deleting adapter {adapter_id} was answered {answer}")
        return "deleted"

    def rate(self) -> str:
        if not self.memory.published:
            return "none published"
        handle, slug = self.rng.choice(list(self.memory.published.values()))
        answer = self.http.ask("PUT", f"/v1/market/{handle}/{slug}/rating", {"stars": self.rng.randint(1, 5)})
        self.expect(answer.status in {200, 403, 404}, f"rating {slug} was answered {answer}")
        return "rated" if answer.status == 200 else str(answer.body["error"]["code"])

    def look(self) -> str:
        summary, page = (self.http.ask("GET", f"/v1/earnings{path}") for path in ("/summary", "?limit=50"))
        self.expect(summary.status == page.status == 200, f"earnings were answered {summary} and {page}")
        for purse in summary.body["purses"]:
            right = 0 <= Decimal(purse["ready"]) <= max(0, Decimal(purse["amount"]))
            self.expect(right, f"more is ready than there is: {purse}")
        uses = [each["id"] for each in page.body["data"]]
        self.expect(uses == sorted(set(uses), reverse=True), f"a use is shown twice: {uses}")
        return "earned" if uses else "nothing earned"

    def spend(self) -> str:
        key = self.key()
        body = {"amount": f"0.00{self.rng.randint(1, 4)}"} if self.rng.random() < 0.4 else {}
        answer = self.http.ask("POST", "/v1/earnings/spend", body, key)
        if answer.status != 201:
            self.expect(answer.status in {402, 409}, f"spending earnings {key} was answered {answer}")
            return str(answer.body["error"]["code"])
        again = self.http.ask("POST", "/v1/earnings/spend", body, key)
        self.expect(again.body == answer.body, f"spending earnings {key} was answered {answer}, then {again}")
        return "spent"

    def be_paid_out(self) -> str:
        if not self.is_payee:
            return self.onboard()
        key, body = self.key(), {"currency": self.rng.choice(["eur", "usd"])}
        answer = self.http.ask("POST", "/v1/payouts", body, key)
        if answer.status != 201:
            self.expect(answer.status in {402, 403, 409}, f"a payout {key} was answered {answer}")
            return str(answer.body["error"]["code"])
        self.memory.payouts.add(answer.body["id"])
        again = self.http.ask("POST", "/v1/payouts", body, key)
        self.expect(again.body["id"] == answer.body["id"], f"payout {key} was answered {answer}, then {again}")
        return "ordered"

    def onboard(self) -> str:
        made = self.http.ask("POST", "/v1/payouts/account", {"country": "de"})
        if made.status != 200:
            self.expect(False, f"an account for payouts was answered {made}")
            return str(made.status)
        self.stripe.visit(made.body["url"], agreed="yes")
        found = self.http.ask("GET", "/v1/payouts/account")
        self.is_payee = found.status == 200 and found.body["status"] == "active"
        return "onboarded" if self.is_payee else "not yet"

    def payee(self) -> str:
        from billing.models import Payee

        found = patiently(lambda: Payee.objects.filter(owner=self.account).exclude(account_id="").first())
        return found.account_id if found else ""

    def reverse(self) -> str:
        """Have Stripe take back one of this account's transfers, in part or whole."""
        if not (account := self.payee()):
            return "no account"
        made = self.stripe.once("GET", f"/v1/transfers?limit=20&destination={account}")
        left = [(each["id"], each["amount"] - each["amount_reversed"]) for each in made["data"]] if made else []
        left = [each for each in left if each[1]]
        if not left:
            return "none"
        transfer, most = self.rng.choice(left)
        amount = most if self.rng.random() < 0.3 else self.rng.randint(1, most)
        return (
            "reversed" if self.stripe.once("POST", f"/v1/transfers/{transfer}/reversals", amount=amount) else "refused"
        )

    def change_capability(self) -> str:
        if not (account := self.payee()):
            return "no account"
        status = self.rng.choice(["restricted", "active", "active"])
        return status if self.stripe.control(f"accounts/{account}", recipient=status) else "no answer"

    def wake(self) -> str:
        """Send the tasks that follow earnings and pay them out, as beat does, only much more often."""
        from kombu.exceptions import OperationalError
        from redis import RedisError

        from billing.models import Payout
        from marketplace.maintenance import tasks

        patiently(
            lambda: Payout.objects.filter(status="ordered", purse__maker__owner=self.account).update(due_at=EARLY)
        )
        try:
            for task in (tasks.keep_lots, tasks.keep_payouts):
                task.apply_async(retry=False)  # type: ignore[attr-defined]
        except (OperationalError, RedisError, OSError):
            return "no answer"
        return "sent"


@cache
def shapes() -> dict[str, tuple[int, int]]:
    """Return the shapes of a small adapter for the house model."""
    from inference.models import catalog

    config = json.loads((Path(catalog.card().path) / "transformer" / "config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    places = [f"transformer.transformer_blocks.{each}.attn.to_v" for each in range(config["num_layers"])]
    factors = {"A": (RANK, width), "B": (width, RANK)}
    return {f"{place}.lora_{part}.weight": shape for place in places for part, shape in factors.items()}


def weights(seed: int) -> bytes:
    """Return an adapter's file of its own."""
    import numpy as np
    from safetensors.numpy import save

    random_numbers = np.random.default_rng(seed)
    return save({name: random_numbers.normal(0, 0.05, shape).astype("float32") for name, shape in shapes().items()})

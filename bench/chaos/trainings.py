"""A client that has adapters trained: a few small pictures, a few steps, so that pictures stay most of what is sold."""

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from bench.chaos.answers import Http
from bench.chaos.files import form, picture
from bench.chaos.memory import Memory

# The only ones who order trainings, one at a time: each takes seconds of a core.
APPRENTICES = 3
TIER = "chaos"
STEP_COST = 2
"""milli-Tokens, by the tier that the shop sells."""
TERMS = {
    "base_cost": 1000 * STEP_COST, "floor": 1024 * 1024, "most_pictures": 8, "side": 256, "rank": 4, "most_steps": 40,
    "versions_kept": 1, "service_class": "interactive", "may_publish": True, "surcharge": 100,
}  # fmt: skip
FINAL = {"succeeded", "failed", "canceled"}
WEIGHTS = {"order a training": 25, "look at a training": 20, "cancel a training": 2}


class Apprentice:
    """What one client has trained; `expect` is told what must be true, `key` makes the next idempotency key."""

    def __init__(
        self, http: Http, memory: Memory, rng: random.Random,
        expect: Callable[[bool, str], None], key: Callable[[], str], take: Callable[[str, str], None],
    ) -> None:  # fmt: skip
        self.http, self.memory, self.rng = http, memory, rng
        self.expect, self.key, self.take = expect, key, take
        self.open = ""
        self.verbs: dict[str, Callable[[], str]] = {
            "order a training": self.order, "look at a training": self.look, "cancel a training": self.cancel,
        }  # fmt: skip

    def order(self) -> str:
        if self.open:
            return self.look()
        sent = [self.http.ask("POST", "/v1/files", form(picture(self.rng))) for _ in range(4)]
        if any(answer.status != 201 for answer in sent):
            self.expect(all(answer.status in {201, 409} for answer in sent), f"files were answered {sent}")
            return "no room for its pictures"
        key = self.key()
        pictures = [{"file": answer.body["id"], "caption": "a plain colour"} for answer in sent]
        body = {
            "slug": key, "name": key, "tier": TIER, "pictures": pictures, "resolution": 64, "samples": ["a circle"],
            "steps": self.rng.randint(2, 8), "seed": self.rng.randrange(2**32),
        }  # fmt: skip
        answer = self.http.ask("POST", "/v1/adapters", body, key)
        if answer.status != 202:
            self.expect(answer.status == 402, f"training {key} was answered {answer}")
            self.memory.refused.add(key)
            return str(answer.body["error"]["code"])
        self.open = self.memory.trainings[key] = answer.body["id"]
        again = self.http.ask("POST", "/v1/adapters", body, key)
        self.expect(again.status == 202 and again.body["id"] == self.open, f"training {key} was answered {again}")
        return "bought"

    def look(self) -> str:
        if not self.open:
            return "none open"
        answer = self.http.ask("GET", f"/v1/trainings/{self.open}")
        if answer.status != 200:
            self.expect(False, f"training {self.open} was answered {answer}")
            return str(answer.status)
        self.see(answer.body)
        return str(answer.body["status"])

    def see(self, training: Any) -> None:
        status, cost = training["status"], {name: Decimal(value) for name, value in training["cost"].items()}
        if status not in FINAL:
            return
        self.open = ""
        self.expect(cost["captured"] + cost["released"] == cost["quoted"] and not cost["held"], f"cost of {training}")
        if status == "succeeded":
            right = training["version"] and cost["captured"] == cost["quoted"]
            self.expect(right, f"what came of {training}")
            self.take(training["adapter"]["id"], training["adapter"]["slug"])
        broken = training["error"] and training["error"]["code"] not in {
            "pictures_lost",
            "worker_lost",
            "trainer_failed",
        }
        self.expect(not broken, f"a training that cannot fail did: {training}")

    def cancel(self) -> str:
        if not self.open:
            return "none open"
        answer = self.http.ask("POST", f"/v1/trainings/{self.open}/cancel", {})
        self.expect(answer.status in {200, 409}, f"canceling training {self.open} was answered {answer}")
        return "asked for" if answer.status == 200 else "too late"

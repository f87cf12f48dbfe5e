"""What tests of the HTTP API share: an order, what it costs, and answers in the contract's shape."""

from marketplace.jobs import lifecycle

ORDER = {"prompt": "a red circle", "width": 256, "height": 256, "steps": 20, "seed": 7}
COST = "1.25"


def error(answer, status):
    """The error of an answer with this status, which must have the contract's shape."""
    assert answer.status_code == status, answer.content
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"type", "code", "message", "param", "request_id"}
    assert body["error"]["request_id"] == answer["X-Request-Id"]
    return body["error"]


def buy(customer, **changes):
    answer = customer.post("/v1/jobs", {**ORDER, **changes})
    assert answer.status_code == 202, answer.content
    return answer.json()


def deliver(job_id, picture, n=1):
    claimed = lifecycle.claim(job_id, "w1")
    lifecycle.complete(claimed, [picture(claimed, i) for i in range(n)], {"engine_seconds": 1.5})


def balance(customer):
    """The sums alone, in Tokens; they are what is left in the lots."""
    body = customer.get("/v1/balance").json()
    assert sum(float(lot["left"]) for lot in body["lots"]) == float(body["total"])
    return {name: body[name] for name in ("available", "held", "total")}

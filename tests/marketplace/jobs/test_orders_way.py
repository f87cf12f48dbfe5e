"""The order's way from the body of a request to the queued row and the engine: by which stops, in which shapes."""

import ast
import json
import re
import sys
from contextlib import contextmanager

import pytest

from marketplace.jobs import submission
from marketplace.jobs.models import Bought, Job
from marketplace.jobs.orders import JobOrder
from marketplace.jobs.worker import request_for

PROMPT = "a heron on one leg"
BODY = {"prompt": PROMPT, "width": 256, "height": 256, "steps": 20}
ROOMS = ("marketplace.", "billing.")


def shape(value):
    """What the prompt has become in this value; None where it is not in it."""
    if isinstance(value, JobOrder):
        return "order" if value.prompt == PROMPT else None
    if isinstance(value, Job):
        return "row" if PROMPT in json.dumps(value.__dict__.get("order")) else None
    if isinstance(value, dict) and value.get("prompt") == PROMPT:
        return "body"
    if isinstance(value, dict) and PROMPT in str(value.get("jobs")):
        return "row"
    return None


@contextmanager
def watched():
    """Yields a list of stops: functions that another room hands the prompt to, and the shape that it has."""
    stops = []

    def look(frame, event, _):
        room, caller = frame.f_globals.get("__name__", ""), frame.f_back.f_globals.get("__name__", "")
        if event != "call" or room == caller or not room.startswith(ROOMS) or not caller.startswith(ROOMS):
            return
        code = frame.f_code
        if code.co_name.startswith("_"):  # called back, or speaking of itself
            return
        for name in code.co_varnames[: code.co_argcount]:
            if name != "self" and (found := shape(frame.f_locals.get(name))):
                stops.append((f"{room}.{code.co_name}", found))

    sys.setprofile(look)
    try:
        yield stops
    finally:
        sys.setprofile(None)


@pytest.mark.django_db(transaction=True)
def test_from_the_view_to_the_queued_row_there_are_five_stops(alice):
    alice.post("/v1/jobs", BODY | {"prompt": "another"})  # prices and key are known from now on
    with watched() as stops:
        assert alice.post("/v1/jobs", BODY).status_code == 202
    way = [
        ("marketplace.api.jobs.schemas.order", "body"),
        ("marketplace.jobs.submission.submit", "order"),
        ("billing.prices.pricing.quote", "order"),
        ("marketplace.jobs.grouping.join", "row"),
        ("billing.prepared.rows", "row"),
    ]
    assert stops[: len(way)] == way
    assert all(stop.startswith("marketplace.api.jobs.") for stop, _ in stops[len(way) :])  # the answer


def test_the_engine_is_asked_from_the_row_alone(order):
    assert request_for(Job(order=order(prompt=PROMPT).picture(), seed=7), 0).prompt == PROMPT


# --- a row's columns ---


def sql_words(source):
    """Words of the texts in a module that are no docstrings."""
    tree = ast.parse(source)
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told]
    return set(re.findall(r"\w+", " ".join(text for text in texts if isinstance(text, str))))


def test_the_columns_of_a_row_are_listed_by_the_model_alone():
    """What the statement that buys speaks of is what it decides by; all other columns it has from the model."""
    decides_by = {"id", "account_id", "api_key_id", "idempotency_key", "service_class", "quoted", "status"}
    columns = {field.attname for field in Job._meta.concrete_fields}
    with open(submission.__file__) as file:
        assert sql_words(file.read()) & columns == decides_by | {"created_at"}


@pytest.mark.parametrize("statement", [submission._ALONE, submission._TOGETHER])
def test_a_purchase_writes_every_column_that_the_database_does_not(statement):
    into, values = re.search(r"INSERT INTO jobs_job \((.+)\)\n\s+SELECT (.+)\n", statement).groups()
    written = [name.strip('"') for name in into.split(", ")]
    assert written == [
        field.attname
        for field in Job._meta.concrete_fields
        if field.attname not in ("cancel_cost", "created_at", "to_erase")
    ]
    bought = [
        name.strip('"') for name, value in zip(into.split(", "), values.split(", "), strict=True) if name == value
    ]
    assert bought == [field.attname for field in (Job._meta.get_field(each.name) for each in Bought._meta.fields)]


def test_an_order_has_the_digest_that_it_always_had(order):
    """Else a key from before an upgrade would be refused for another body."""
    assert order().digest().hex() == "c4a3f5d8bf4aac68cda3169ac5373cbb1ea49788323ec29b7406c1421573b43c"

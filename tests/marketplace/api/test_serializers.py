"""Checking only what was sent finds what REST framework finds by checking everything."""

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from marketplace.api.jobs.schemas import OrderSerializer
from marketplace.api.jobs.schemas import order as order_of
from marketplace.jobs.models import Job
from marketplace.jobs.worker import request_for

RIGHT = {
    "operation": "generate",
    "model": "kiln-house",
    "prompt": "a red circle",
    "negative_prompt": "",
    "width": 256,
    "height": 256,
    "steps": 20,
    "guidance_scale": 3.5,
    "seed": 7,
    "n": 2,
    "deterministic": True,
    "adapters": [],
    "service_class": "batch",
    "output_format": "png",
    "cache": "off",
    "max_cost": "1.5",
    "metadata": {"a": "b"},
    "webhook_url": "https://example.com/",
}
UNSAID = {"output_compression": None, "images": [], "mask": None, "strength": None, "box": None}
WRONG = [None, "", " ", "x", "\x00", "x" * 5000, -1, 0, 17, 10**12, 1.5, True, [], [{}], ["x"], {}, {"": ""}, {"a": 1}]


class Thorough(OrderSerializer):
    def to_internal_value(self, data):
        return serializers.Serializer.to_internal_value(self, data)


@st.composite
def bodies(draw):
    body = {name: RIGHT[name] for name in draw(st.sets(st.sampled_from(list(RIGHT))))}
    for name in draw(st.sets(st.sampled_from(list(RIGHT)), max_size=3)):
        body[name] = draw(st.sampled_from(WRONG))
    return body


def found(serializer, body):
    try:
        return serializer.run_validation(body)
    except ValidationError as error:
        return error.get_full_details()


@given(bodies())
def test_what_was_not_sent_needs_no_check(body):
    assert found(OrderSerializer(), body) == found(Thorough(), body)


def test_a_whole_order_is_right():
    assert found(OrderSerializer(), RIGHT) == found(Thorough(), RIGHT) == RIGHT | UNSAID | {"max_cost": 1500}


def test_what_was_asked_for_reaches_the_engine():
    request = request_for(Job(order=order_of(RIGHT, uuid4()).picture(), seed=7, service_class="batch"), 1)
    for name in ("prompt", "width", "height", "steps", "guidance_scale", "deterministic", "service_class"):
        assert getattr(request, name) == RIGHT[name], name
    assert request.seed == 8


def test_an_order_from_before_it_could_ask_is_not_deterministic():
    stored = order_of(RIGHT, uuid4()).picture()
    del stored["deterministic"]
    assert not request_for(Job(order=stored, seed=7), 0).deterministic

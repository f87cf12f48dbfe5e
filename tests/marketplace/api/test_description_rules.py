"""What the OpenAPI description says of all calls, and that its patterns are what the fields check."""

import re

import pytest
from drf_spectacular.generators import SchemaGenerator
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError

from marketplace.api.fields import Labels, Text, Tokens
from marketplace.api.patterns import AMOUNT, POSITIVE, LabelsDescription, pattern

# with letters that are marks, joiners, fillers, blanks and controls
ODD = "a \n\t\x00\x7f\xa0é\u200b\u200d\u2028\u3000\u3164\u115f\ufe0f中\u0301"
TEXTS = st.text(st.sampled_from(ODD) | st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=6)
FIELDS = [Text(line=line, allow_blank=blank) for line in (True, False) for blank in (True, False)]


def takes(field, value):
    try:
        field.run_validation(value)
    except ValidationError:
        return False
    return True


def fits(shape, value):
    """Whether a value has a pattern, as JSON Schema sees it: its $ is the very end."""
    return re.search(shape.removesuffix("$") + r"\Z", value) is not None


@given(TEXTS, st.sampled_from(FIELDS))
def test_a_text_fits_its_pattern_if_and_only_if_it_is_taken(value, field):
    assert fits(pattern(field.normalise, field.allow_blank), value) == takes(field, value)


@given(st.from_regex(r"[0-9]{0,17}\.?[0-9]{0,4}|.{0,4}", fullmatch=True))
def test_an_amount_fits_its_pattern_if_and_only_if_it_is_taken(value):
    assert fits(AMOUNT, value) == takes(Tokens(), value)
    assert fits(POSITIVE, value) == takes(Tokens(positive=True), value)


def test_labels_say_how_many_there_may_be_and_what_they_are_called():
    labels = Labels(names=Text(max_length=3), most=1, child=Text(max_length=5, allow_blank=True))
    said = LabelsDescription(labels).map_serializer_field(None, "request")
    assert (said["maxProperties"], said["propertyNames"]["maxLength"]) == (1, 3)
    assert [takes(labels, each) for each in ({"a": ""}, {"a": "", "b": ""}, {" ": ""}, {"a": "x" * 6})] == [
        True, False, False, False,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def description():
    return SchemaGenerator().get_schema(public=True)


def calls(description):
    for methods in description["paths"].values():
        yield from methods.values()


def test_sections_come_in_the_order_in_which_they_are_needed(description):
    names = [tag["name"] for tag in description["tags"]]
    assert names[:4] == ["quotes", "jobs", "images", "files"]
    assert set(names) == {tag for call in calls(description) for tag in call["tags"]}
    assert all(tag["description"] for tag in description["tags"])
    for word in ("Authorization: Bearer", "Idempotency-Key", "Retry-After", "decimal strings", "next_cursor"):
        assert word in description["info"]["description"]


def test_bodies_that_are_sent_have_no_other_fields(description):
    seen = set()
    for call in calls(description):
        for content in call.get("requestBody", {}).get("content", {}).values():
            seen.add(name := content["schema"]["$ref"].rpartition("/")[2])
            closed = description["components"]["schemas"][name].get("additionalProperties")
            assert closed is False or name in {"Generation", "Edit", "EditForm"}, name
    assert {"Order", "KeyOrder", "PatchedKeyChange", "TopUpOrder"} <= seen


def test_what_closing_an_account_takes_is_said(description):
    body = description["paths"]["/v1/account"]["delete"]["requestBody"]
    assert body["required"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/AccountClosing")


def test_what_is_made_leads_to_what_takes_its_id(description):
    links = {}
    for call in calls(description):
        for answer in call["responses"].values():
            links.setdefault(call["operationId"], set()).update(answer.get("links", {}))
    assert {"get_job", "cancel_job", "get_receipt", "watch_job"} <= links["create_job"]
    assert {"get_file", "delete_file", "download_file"} <= links["create_file"]
    assert links["test_webhook"] == {"replay_delivery"}
    known = {call["operationId"] for call in calls(description)}
    assert set().union(*links.values()) <= known


@pytest.mark.django_db
def test_the_csv_refuses_what_it_would_ignore(alice):
    answer = alice.get("/v1/transfers.csv?limit=5")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_field")

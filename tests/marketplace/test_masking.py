"""No secret reaches a log, wherever in a request or an exception it was."""

import logging

import pytest
from django.conf import settings
from django.utils.log import configure_logging

from marketplace.masking import Formatter, mask

KEY = "kiln_abc123def456_" + "Ab-_" * 10 + "xyz"


@pytest.mark.parametrize(
    ("secret", "line"),
    [
        (KEY[-43:], f"Not Found: /v1/nothing/{KEY}"),
        (KEY[-43:], f"/v1/jobs?key={KEY}&x=1"),
        (KEY[-43:], f"/v1/{KEY.replace('_', '%5F', 2)}"),
        (KEY[-43:], f"Authorization: Bearer {KEY}"),
        ("hunter2", "postgresql://kiln:hunter2@127.0.0.1:5432/kiln"),
        ("sekrit", "redis://:sekrit@127.0.0.1:6379/0"),
        ("sekrit", 'GET /images/1.png?expires=5&signature=sekrit" 404'),
        ("sekrit", "{'Cookie': 'sessionid=sekrit; csrftoken=x'}"),
        ("sekrit", '{"password": "sekrit"}'),
        ("4eC39HqLyjWD", "sk_live_4eC39HqLyjWD refused"),
        ("4eC39HqLyjWD", "rk_test_4eC39HqLyjWD"),
        ("4eC39HqLyjWD", "signed with whsec_4eC39HqLyjWD"),
        ("eyJhbGciOi", "bearer eyJhbGciOi.x.y"),
    ],
)
def test_a_secret_in_a_line_is_cut(secret, line):
    assert secret not in mask(line)
    assert "…" in mask(line)


@pytest.mark.parametrize(
    "line", ["Not Found: /v1/nothing", "kiln_queue_depth 3", "key kiln_abc123def456", "http://127.0.0.1:8000/v1/jobs"]
)
def test_other_lines_stay_as_they_are(line):
    assert mask(line) == line


def test_the_prefix_stays_by_which_an_operator_finds_the_key():
    assert mask(f"/v1/{KEY}/x") == "/v1/kiln_abc123def456_…/x"


def test_every_handler_of_ours_masks_also_tracebacks():
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    handlers = [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]
    assert handlers
    assert all(isinstance(each.formatter, Formatter) for each in handlers)
    try:
        raise ValueError(f"unknown: {KEY}")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "%s", (KEY,), (ValueError, error, error.__traceback__))
    told = handlers[0].format(record)
    assert "ValueError: unknown: kiln_abc123def456_…" in told
    assert KEY not in told

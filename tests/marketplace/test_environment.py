"""Settings from the environment mean what they say, or are refused."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from marketplace import environment


@pytest.mark.parametrize(
    ("written", "meant"), [("1", True), (" Yes ", True), ("on", True), ("", False), ("0", False), ("OFF", False)]
)
def test_a_flag_is_on_or_off(written, meant, monkeypatch):
    monkeypatch.setenv("KILN_DEBUG", written)
    assert environment.flag("KILN_DEBUG") is meant


@pytest.mark.parametrize("written", ["ture", "2", "enabled", "nein"])
def test_a_flag_that_says_neither_is_refused(written, monkeypatch):
    monkeypatch.setenv("KILN_DEBUG", written)
    with pytest.raises(ImproperlyConfigured, match="KILN_DEBUG"):
        environment.flag("KILN_DEBUG")


@pytest.mark.parametrize("written", ["-1", "1.5", "1_0", "٥", "1e3", " 5", "x"])
def test_a_number_is_digits(written, monkeypatch):
    monkeypatch.setenv("KILN_JOB_SECONDS", written)
    with pytest.raises(ImproperlyConfigured, match="KILN_JOB_SECONDS"):
        environment.whole("KILN_JOB_SECONDS", 1)

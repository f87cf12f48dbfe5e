"""Patterns match what they match in PEFT, whoever wrote them, and never for long."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from inference.adapters import patterns

NAMES = [
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.11.attn.to_out.0",
    "transformer_blocks.1.img_mlp.net.0.proj",
    "proj_out",
]
PATTERNS = [
    "to_q",
    "o_q",
    "attn.to_[qk]",
    r"transformer_blocks\.0\.attn\.to_q",
    ".*attn.to_q",
    "^proj_out",
    "^to_q",
    "to_q|proj",
    "(to_q|proj)",
    r"\d+\.attn\.to_\w$",
    r"[^.]*\.\d{1,2}\.img_mlp\..*",
    r"transformer_blocks\.(0|1[0-5])\..*?",
    "(?:[^a-s]o_)+[!-r]",
    r"net\.\D.*|net\.0\.proj",
    r"(\S*\.)?to_out.\d",
    "",
    "(x*)*",
    "(?i:ATTN).to_q",
    r"\bto_q",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_as_in_peft(pattern):
    found = {name: patterns.first([pattern], name) == pattern for name in NAMES}
    assert found == {name: get_pattern_key([pattern], name) == pattern for name in NAMES}
    assert all(patterns.full(pattern, name) == bool(re.fullmatch(pattern, name)) for name in NAMES)


PIECES = st.recursive(
    st.sampled_from(["a", "b", "_", ".", r"\.", r"\d", r"\W", "[ab]", "[^a.]", "[a-c1]", "1", "^", "$"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,3}", "{0,}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)


@given(PIECES, st.text("ab_.1", min_size=1, max_size=8))
def test_any_pattern_matches_as_in_python(pattern, name):
    assert (patterns.first([pattern], name) is not None) == bool(re.match(rf"(.*\.)?({pattern})$", name))


def test_the_first_that_matches_counts():
    assert patterns.first(["x", "to_.", "to_q"], "attn.to_q") == "to_."


@pytest.mark.parametrize(
    "pattern", ["(?=to)to_q", r"(t)o\1", "(?>to_q)", "t*+", "(", r"\pL", r"to\z", "[[:alpha:]]o_q", "a{1001}"]
)
def test_what_takes_no_linear_time_or_means_something_else_is_refused_by_the_pattern(pattern):
    with pytest.raises(ValueError, match=re.escape(repr(pattern))):
        patterns.first([pattern], "attn.to_q")


def test_a_pattern_that_would_never_end_ends():
    assert patterns.first(["(.*.*.*.*.*.*)*x", "(((((a*)*)*)*)*)*b"], NAMES[1] * 100) is None


def test_patterns_have_limits():
    with pytest.raises(ValueError, match="more than 1000 characters"):
        patterns.first(["a" * 1001], NAMES[0])
    with pytest.raises(ValueError, match="more than 65536 characters"):
        patterns.check(["a" * 1000] * 66)


def test_a_plain_name_for_each_of_the_real_models_layers_is_not_too_much():
    layers = [
        f"transformer_blocks.{block}.attn.{layer}{end}" for block in range(60) for layer in "abcdefg" for end in "xy"
    ]
    patterns.check(layers)
    assert all(patterns.first(layers, layer) == layer for layer in layers[::20])

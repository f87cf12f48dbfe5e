"""Text from outside has one normal form; what has none is refused."""

import pytest

from marketplace import exact_json, text


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("alice@example.com", "alice@example.com"),
        (" Alice.Smith+Kiln@EXAMPLE.com\n", "alice.smith+kiln@example.com"),
        ("alice@München.de", "alice@xn--mnchen-3ya.de"),
        ("alice@mu\u0308nchen.de", "alice@xn--mnchen-3ya.de"),
        ("alice@XN--MNCHEN-3YA.DE", "alice@xn--mnchen-3ya.de"),
        ("alice@ｅｘａｍｐｌｅ。com", "alice@example.com"),
        ("alice@exam\u200bple.com", "alice@example.com"),
        ("alice@straße.de", "alice@xn--strae-oqa.de"),
        ("alice@localhost", "alice@localhost"),
    ],
)
def test_an_e_mail_address_has_one_normal_form(written, normal):
    assert text.email(written) == text.email(normal) == normal


@pytest.mark.parametrize(
    "written",
    [
        "", "@", "alice", "alice@", "@example.com", "alice@example", "a b@example.com", "alice@exa mple.com",
        "alice\0@example.com", "alice\u200b@example.com", "ali\u212ae@example.com", "álice@example.com",
        "alice@example.com\ud800", "alice@-example.com", "alice@a@example.com ", f"{'a' * 250}@example.com",
        "alice@example.com\r\nBcc: b@example.com", '"a\x01b"@example.com',
    ],
)  # fmt: skip
def test_what_is_no_e_mail_address_is_refused(written):
    with pytest.raises(ValueError, match="e-mail"):
        text.email(written)


def test_lines_and_prose_are_composed():
    assert text.line("cafe\u0301 ") == text.prose("café ") == "café "


@pytest.mark.parametrize("kept", ["a\u200db", "بی\u200cتو", "👩\u200d🔬", "❤\ufe0f", "葛\U000e0100", "", " a b "])
def test_a_line_keeps_what_letters_and_emoji_need(kept):
    assert text.line(kept) == kept


@pytest.mark.parametrize(
    "refused",
    [
        "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "a\nb", "a\tb", "\u202e", "\u200b", "\ufeff", "\udc00",
        "\u3164", "\u115f", "\u2800", "\uffa0", "\u034f", "\U0001d159", "\U000e0041",
    ],
)  # fmt: skip
def test_a_line_has_no_break_and_nothing_invisible(refused):
    with pytest.raises(ValueError, match=r"U\+[0-9A-F]{4}"):
        text.line(f"x{refused}x")


def test_prose_has_lines_but_no_controls():
    assert text.prose("a\tb\r\nc\u200b") == "a\tb\r\nc\u200b"
    for refused in ("\0", "\x1b", "\x80", "\ud800"):
        with pytest.raises(ValueError, match=r"U\+"):
            text.prose(refused)


@pytest.mark.parametrize("marks", ["\u0300\u0316", "\u0f73"])
def test_a_letter_has_no_more_marks_than_any_language_gives_it(marks):
    assert text.prose(f"a{marks * 15}b{marks * 15}").startswith("à" if marks[0] == "\u0300" else "a")
    for normalise in (text.prose, text.line):
        with pytest.raises(ValueError, match="30 marks"):
            normalise(f"a{marks * 30_000}")  # to compose these would take seconds


@pytest.mark.parametrize(
    "blank", ["", " ", "\n\t", "\u00a0\u3000", "\u200b", "\u3164", "\u2800", "\ufe0f", "\U000e0100", "\u2065", "\u00ad"]
)
def test_what_shows_nothing_is_blank(blank):
    assert text.is_blank(blank)
    assert not text.is_blank(f"{blank}圆{blank}")


@pytest.mark.parametrize(
    "written",
    ['{"a": 1, "a": 1}', '{"b": {"a": 1, "a": 2}}', "[NaN]", "[-Infinity]", f"[{'9' * 401}]", "[" * 100_000, "", "{}x"],
)
def test_json_with_two_meanings_or_none_is_refused(written):
    with pytest.raises(exact_json.json.JSONDecodeError):
        exact_json.json.loads(written, cls=exact_json.Decoder)


@pytest.mark.parametrize(
    "written", ['{"eur": 500, "eur": 600}', '{"eur": NaN}', f'{{"eur": {"9" * 5000}}}', "[" * 9999]
)
def test_an_operator_cannot_write_it_either(written):
    from django.core.exceptions import ValidationError

    from marketplace.console.dialogs import JsonField

    with pytest.raises(ValidationError):
        JsonField().clean(written)
    assert JsonField().clean('{"eur": 500}') == {"eur": 500}

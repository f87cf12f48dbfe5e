"""docs/errors.md has every code that the API answers with, and no other."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
# of REST framework's own: `invalid` is shown as invalid_value, and the others' values are refused before they are asked
UNHEARD = {"invalid", "max_string_length", "null_characters_not_allowed", "surrogate_characters_not_allowed"}
# codes that are made of parts, as they are written in the code
MADE = {"f'{policy.name}_limit_reached'", "f'{error.whose}_{CAPS[error.period]}_reached'"}
# codes that come from where they are found by themselves
PASSED_ON = {"code", "str(code)", "job.error_code", "str(error.get_codes())", "error[0]", "error.code"}


def listed():
    """Each code of the page, with its statuses."""
    found = {}
    for line in PAGE.read_text().splitlines():
        row = re.fullmatch(r"\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| ([0-9, ]*) ?\| .+ \| .+ \|", line)
        for code in re.findall("[a-z_]+", row[1]) if row else ():
            found.setdefault(code, set()).update(re.findall("[0-9]+", row[2]))
    return found


def calls():
    for path in sorted((ROOT / "marketplace").rglob("*.py")):
        if not {"console", "migrations", "management"} & set(path.parts):
            yield from ast.walk(ast.parse(path.read_text()))


def written():
    """Each code that the source has, with the statuses that are written beside it, and whatever is no plain text."""
    codes, others = {}, set()

    def note(code, status=None):
        for each in (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,):
            if isinstance(each, ast.Constant) and each.value:
                codes.setdefault(each.value, set()).update({str(status)} if status else set())
            elif not isinstance(each, ast.Constant):
                others.add(ast.unparse(each))

    for node in calls():
        if isinstance(node, ast.Assign):
            (target,) = node.targets[:1]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            else:
                pairs = [(target, node.value)]
            for name, value in pairs:
                if isinstance(name, ast.Name) and name.id == "code" and isinstance(value, ast.Constant | ast.IfExp):
                    note(value)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func).rpartition(".")[2], {each.arg: each.value for each in node.keywords}
        if called == "Problem":
            status = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            note(node.args[2], status)
        elif called == "invalid" and len(node.args) > 2:
            note(node.args[2], 422)
        elif called == "NotUsable":
            note(node.args[1], 422)
        elif called == "ValidationError" and "code" in given:
            note(given["code"])
        elif called == "InvalidToken":
            note(node.args[0], 401)
        elif called == "fail" and len(node.args) > 2:
            note(node.args[1])
        elif called == "Policy" and isinstance(node.args[0], ast.Constant):
            codes.setdefault(f"{node.args[0].value}_limit_reached", set()).add("429")
        if "error_code" in given:
            note(given["error_code"])
    return codes, others


@pytest.fixture(scope="module")
def fields():
    """Codes with which REST framework refuses what our fields are sent."""
    import marketplace.urls  # noqa: F401 - every body of the API
    from marketplace.api.bodies import StrictSerializer

    def kinds(body):
        return {body}.union(*map(kinds, body.__subclasses__()))

    def codes(field):
        found = {*field.error_messages, *(each.code for each in field.validators if hasattr(each, "code"))}
        children = [*getattr(field, "fields", {}).values(), *filter(None, [getattr(field, "child", None)])]
        return found.union(*map(codes, children))

    return set().union(*(codes(body()) for body in kinds(StrictSerializer))) - UNHEARD


def test_the_page_has_every_code_and_no_other(fields):
    codes, others = written()
    from marketplace.api.errors import CAPS

    capped = {f"{whose}_{cap}_reached" for whose in ("key", "account") for cap in CAPS.values()}
    assert others - PASSED_ON == MADE
    assert {*codes, *fields, *capped} - {"invalid"} == listed().keys()


def test_the_page_has_each_codes_status():
    page = listed()
    wrong = {code: statuses for code, statuses in written()[0].items() if not statuses <= page.get(code, statuses)}
    assert not wrong

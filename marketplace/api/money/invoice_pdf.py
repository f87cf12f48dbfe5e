"""Invoices as PDF, on A4. Not for what they say: that is `billing.payments.invoices`.

Text is set in Helvetica. Letters that it lacks are set in `KILN_INVOICE_FONT`, of which only the letters used are
embedded; without that setting, in STSong, which viewers that can show Chinese supply themselves.
"""

from __future__ import annotations

import io
import unicodedata
from datetime import datetime, timedelta
from functools import cache
from html import escape
from typing import Any

from django.conf import settings
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table

from billing.amounts import format_tokens, show_money
from billing.models import Invoice, Month, Transfer

BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9.5, leading=13)
RIGHT = ParagraphStyle("right", BODY, alignment=2)
TITLE = ParagraphStyle("title", BODY, fontName="Helvetica-Bold", fontSize=20, leading=26)
HEAD = ParagraphStyle("head", BODY, fontName="Helvetica-Bold", fontSize=11, leading=20)
SMALL = ParagraphStyle("small", BODY, fontSize=8, leading=11, textColor=colors.HexColor("#555555"))
WIDTH = A4[0] - 48 * mm - 12
MOVES = {
    Transfer.Kind.PURCHASE: "Bought",
    Transfer.Kind.GRANT: "Granted",
    Transfer.Kind.CAPTURE: "Spent on jobs",
    Transfer.Kind.REFUND: "Refunded for jobs",
    Transfer.Kind.EXPIRY: "Expired",
    Transfer.Kind.CLAWBACK: "Taken back, as their payment went back",
    Transfer.Kind.SETTLEMENT: "Paid for debts",
    Transfer.Kind.EXCHANGE: "Earned with adapters",
}
TITLES = {Invoice.Kind.INVOICE: "Invoice", Invoice.Kind.CREDIT_NOTE: "Credit note"}
Cells = list[list[Any]]


def draw(month: Month, documents: list[Invoice]) -> bytes:
    """Return the PDF's bytes, which are the same for the same month: its documents, a page each, then its Tokens."""
    story: list[Any] = []
    for document in documents:
        story += [*_heading(month, document), *_lines_of(month, document), PageBreak()]
    if not documents:
        story += [
            _text(f"Account {month.owner}", HEAD),
            _text("Nothing was paid in this month.", BODY),
            Spacer(0, 6 * mm),
        ]
    file = io.BytesIO()
    SimpleDocTemplate(
        file, pagesize=A4, leftMargin=24 * mm, rightMargin=24 * mm, topMargin=18 * mm, bottomMargin=18 * mm,
        title=f"Invoices of {month.name}", invariant=1,
    ).build([*story, *_tokens(month)])  # fmt: skip
    return file.getvalue()


def _heading(month: Month, document: Invoice) -> list[Any]:
    seller, buyer = document.seller, document.buyer
    parties = [
        [seller["name"], *seller["address"].split("|"), seller["tax_id"]],
        ["", "For", buyer["name"], *([buyer["email"]] if buyer["email"] != buyer["name"] else [])],
    ]
    about = [f"Month: {_period(month)}"]
    if month.is_final:
        about = [f"Number: {document.name}", *about, f"Issued: {month.local(document.issued_at):%Y-%m-%d}"]
    else:
        about.append("The month is not closed: this is what it says so far")
    return [
        _text(TITLES[Invoice.Kind(document.kind)], TITLE),
        Spacer(0, 4 * mm),
        _table([[_lines(parties[0]), _lines(about)], [_lines(parties[1]), ""]], [WIDTH / 2, WIDTH / 2], ruled=False),
        Spacer(0, 6 * mm),
    ]


def _lines_of(month: Month, document: Invoice) -> list[Any]:
    rows: Cells = [["", "Tokens", "of it tax", "Amount"]]
    for line in document.lines:
        at = month.local(datetime.fromisoformat(line["at"]))
        tokens = "" if line["tokens"] is None else format_tokens(line["tokens"])
        tax, amount = (_money(line[name], document.currency) for name in ("tax_minor", "amount_minor"))
        of = f", of {line['invoice']}" if line.get("invoice") else ""
        rows.append([f"{at:%Y-%m-%d}  {line['text']}{of}", tokens, tax, amount])
    rows.append(
        ["Total", "", *(_money(each, document.currency) for each in (document.tax_minor, document.total_minor))]
    )
    return [_table(rows, [WIDTH * share for share in (0.48, 0.16, 0.17, 0.19)], sums=1), Spacer(0, 8 * mm)]


def _tokens(month: Month) -> list[Any]:
    rows: Cells = [["Tokens", ""], ["At the beginning", format_tokens(month.opening)]]
    rows += [[MOVES.get(kind, kind), format_tokens(month.moved[kind])] for kind in (*MOVES,) if kind in month.moved]
    rows += [[kind, format_tokens(amount)] for kind, amount in month.moved.items() if kind not in MOVES]
    rows.append(["At the end" if month.is_final else "Now", format_tokens(month.closing)])
    note = "Tokens at the end include those that are held for jobs. GET /v1/transfers lists every movement."
    table = _table(rows, [WIDTH * 0.7, WIDTH * 0.3], sums=1)
    return [_text(_period(month), HEAD), table, Spacer(0, 3 * mm), _text(note, SMALL)]


def _period(month: Month) -> str:
    first, last = month.local(month.first), month.local(month.end - timedelta(microseconds=1))
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, {month.zone}"


def _table(rows: Cells, widths: list[float], sums: int = 0, ruled: bool = True) -> Table:
    """Make a table. If `ruled`, columns after the first are right-aligned and a line is above the last `sums` rows."""
    cells = [
        [
            cell if not isinstance(cell, str) else _text(cell, _style(row, column, len(rows) - sums, ruled))
            for column, cell in enumerate(line)
        ]
        for row, line in enumerate(rows)
    ]
    style: list[Any] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (0, -1), 0),
        ("RIGHTPADDING", (-1, 0), (-1, -1), 0),
    ]
    if ruled:
        style.append(("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black))
        style.append(("LINEABOVE", (0, -sums), (-1, -sums), 0.4, colors.gray))
    return Table(cells, colWidths=widths, repeatRows=int(ruled), style=style, hAlign="LEFT")


def _style(row: int, column: int, first_sum: int, ruled: bool) -> ParagraphStyle:
    style = RIGHT if ruled and column else BODY
    bold = ruled and (row == 0 or row >= first_sum)
    return ParagraphStyle("bold", style, fontName="Helvetica-Bold") if bold else style


def _lines(texts: list[str]) -> Paragraph:
    return Paragraph("<br/>".join(_set(text.strip()) for text in texts), BODY)


def _text(text: str, style: ParagraphStyle) -> Paragraph:
    return Paragraph(_set(text), style)


def _set(text: str) -> str:
    """Return the text as markup: letters that Helvetica lacks in the other font, or else without accents, or as `?`."""
    return "".join(_letter(letter) for letter in unicodedata.normalize("NFC", text))


def _letter(letter: str) -> str:
    if _fits(letter, "cp1252"):
        return escape(letter)
    if _is_in_other_font(letter):
        return f'<font name="{_other_font()}">{escape(letter)}</font>'
    base = unicodedata.normalize("NFKD", letter)[0]
    return escape(base) if _fits(base, "cp1252") else "?"


@cache
def _other_font() -> str:
    font = TTFont("invoice", settings.INVOICE_FONT) if settings.INVOICE_FONT else UnicodeCIDFont("STSong-Light")
    pdfmetrics.registerFont(font)
    return str(font.fontName)


def _is_in_other_font(letter: str) -> bool:
    face = getattr(pdfmetrics.getFont(_other_font()), "face", None)
    glyphs = getattr(face, "charToGlyph", None)
    return _fits(letter, "gbk") if glyphs is None else ord(letter) in glyphs


def _fits(letter: str, encoding: str) -> bool:
    try:
        return letter.isprintable() and bool(letter.encode(encoding))
    except UnicodeEncodeError:
        return False


def _money(minor: int | None, currency: str) -> str:
    return "" if minor is None else show_money(minor, currency)

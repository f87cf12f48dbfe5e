"""Invoices as PDF, on A4. Not for what they say: that is `billing.payments.invoices`.

Text is set in Helvetica. Letters that it lacks are set in `KILN_INVOICE_FONT`, of which only the letters used are
embedded; without that setting, in STSong, which viewers that can show Chinese supply themselves.
"""

from __future__ import annotations

import io
import unicodedata
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
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table

from billing.amounts import format_money, format_tokens
from billing.models import Transfer
from billing.payments.invoices import Figures, Invoice

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
}
Cells = list[list[Any]]


def draw(invoice: Invoice, found: Figures, customer: str, email: str) -> bytes:
    """Return the PDF's bytes, which are the same for the same figures."""
    story = [*_heading(invoice, customer, email), *_payments(found), *_tokens(found)]
    file = io.BytesIO()
    SimpleDocTemplate(
        file, pagesize=A4, leftMargin=24 * mm, rightMargin=24 * mm, topMargin=18 * mm, bottomMargin=18 * mm,
        title=f"Invoice {invoice.number}", author=settings.SELLER_NAME, invariant=1,
    ).build(story)  # fmt: skip
    return file.getvalue()


def _heading(invoice: Invoice, customer: str, email: str) -> list[Any]:
    seller = [settings.SELLER_NAME, *settings.SELLER_ADDRESS.split("|"), settings.SELLER_TAX_ID]
    last = invoice.end.replace(microsecond=0)
    about = [
        f"Number: {invoice.number}",
        f"Month: {invoice.first:%B %Y}, UTC",
        f"Drawn up to: {last:%Y-%m-%d}" if invoice.is_final else "The month is not over: this is what it says so far",
    ]
    buyer = ["", "For", customer, *([email] if email != customer else [])]
    return [
        _text("Invoice", TITLE),
        Spacer(0, 4 * mm),
        _table([[_lines(seller), _lines(about)], [_lines(buyer), ""]], [WIDTH / 2, WIDTH / 2], ruled=False),
        Spacer(0, 6 * mm),
    ]


def _payments(found: Figures) -> list[Any]:
    rows: Cells = [["Paid by card", "Tokens", "of it tax", "Amount"]]
    totals: dict[str, int] = {}
    for top_up in found.paid:
        bonus = f" and {format_tokens(top_up.pack.bonus)} more" if top_up.pack.bonus else ""
        tax = "" if top_up.tax_minor is None else _money(top_up.tax_minor, top_up.currency)
        what = f"{top_up.paid_at:%Y-%m-%d}  Token pack {top_up.pack.name}"
        tokens = f"{format_tokens(top_up.pack.tokens)}{bonus}"
        rows.append([what, tokens, tax, _money(top_up.price_minor, top_up.currency)])
        totals[top_up.currency] = totals.get(top_up.currency, 0) + top_up.price_minor
    for back in found.returned:
        what = f"{back.at:%Y-%m-%d}  {'Returned' if back.money_minor < 0 else 'Received again'} ({back.kind})"
        rows.append([what, "", "", _money(back.money_minor, back.currency)])
        totals[back.currency] = totals.get(back.currency, 0) + back.money_minor
    rows += [["Total", "", "", _money(total, currency)] for currency, total in sorted(totals.items())]
    if not totals:
        return [_text("Nothing was paid in this month.", BODY), Spacer(0, 6 * mm)]
    widths = [WIDTH * share for share in (0.46, 0.24, 0.13, 0.17)]
    return [_table(rows, widths, sums=len(totals)), Spacer(0, 8 * mm)]


def _tokens(found: Figures) -> list[Any]:
    rows: Cells = [["Tokens", ""], ["At the beginning", format_tokens(found.opening)]]
    rows += [[MOVES.get(kind, kind), format_tokens(found.moved[kind])] for kind in (*MOVES,) if kind in found.moved]
    rows += [[kind, format_tokens(amount)] for kind, amount in found.moved.items() if kind not in MOVES]
    rows.append(["At the end", format_tokens(found.closing)])
    note = "Tokens at the end include those that are held for jobs. GET /v1/transfers lists every movement."
    return [_table(rows, [WIDTH * 0.7, WIDTH * 0.3], sums=1), Spacer(0, 3 * mm), _text(note, SMALL)]


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


def _money(minor: int, currency: str) -> str:
    return f"{'-' if minor < 0 else ''}{format_money(abs(minor), currency)} {currency.upper()}"

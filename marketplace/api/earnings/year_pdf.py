"""A maker's year as PDF, on A4. Not for what it says: that is `billing.tokens.maker_years`."""

from __future__ import annotations

import io

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4, landscape
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table

BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9, leading=12)
TITLE = ParagraphStyle("title", BODY, fontName="Helvetica-Bold", fontSize=18, leading=26)
HEADS = ["Month", "Currency", "Earned", "Taken back", "Worth", "Spent as Tokens", "worth", "Paid out, Tokens",
         "Paid out"]  # fmt: skip
NOTE = "Tokens, and money in each line's currency. Lines without a month are the year's totals."


def draw(year: str, account: str, rows: list[list[str]]) -> bytes:
    """Return the PDF's bytes, which are the same for the same lines."""
    sums = sum(not row[0] for row in rows)
    style = [
        ("FONT", (0, 0), (-1, -1), "Helvetica", 9),
        ("FONT", (0, 0), (-1, 0), "Helvetica-Bold", 9),
        ("ALIGN", (2, 0), (-1, -1), "RIGHT"),
        ("LINEBELOW", (0, 0), (-1, 0), 0.8, colors.black),
        *([("LINEABOVE", (0, -sums), (-1, -sums), 0.4, colors.gray)] if sums else []),
    ]
    table = Table([HEADS, *rows], repeatRows=1, style=style, hAlign="LEFT")
    file = io.BytesIO()
    SimpleDocTemplate(
        file, pagesize=landscape(A4), leftMargin=20 * mm, rightMargin=20 * mm, topMargin=18 * mm, bottomMargin=18 * mm,
        title=f"Earnings of {year}", invariant=1,
    ).build([
        Paragraph(f"Earnings of {year}", TITLE), Paragraph(f"Account {account}", BODY), Spacer(0, 6 * mm), table,
        Spacer(0, 4 * mm), Paragraph(NOTE, BODY),
    ])  # fmt: skip
    return file.getvalue()

"""`manage.py check_audit`: prove the audit's chain, or name each break and exit with 1."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection, transaction

from marketplace.audit import proof


def anchor(text: str) -> proof.Anchor:
    try:
        return proof.Anchor.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Command(BaseCommand):
    help = "Prove that no audit record was changed or removed. The last line is 'audit ok: … head NUMBER:HASH'."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--anchor", metavar="NUMBER:HASH", type=anchor, action="append", default=[],
            help="a head that an earlier run printed, kept elsewhere; may be given several times",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                cursor.execute("SET LOCAL enable_seqscan = on")  # it reads everything
            breaks, head = proof.check(options["anchor"]), proof.head()
        if breaks or head is None:
            raise CommandError("\n".join([*breaks, f"audit broken: {len(breaks)}"]))
        self.stdout.write(f"audit ok: {head.seq} records, head {head}")

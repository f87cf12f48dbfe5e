"""The proof of the audit's chain, in Python and from the stored columns alone. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

from django.db import connection

from marketplace.audit.models import Record

BATCH = 5_000
START = bytes(32)


class Row(NamedTuple):
    seq: int
    at: datetime
    actor: str
    act: str
    object: str
    details: str
    previous: bytes
    hash: bytes


@dataclass(frozen=True)
class Anchor:
    """The number and the hash of a record, as they were written down elsewhere: `12:3f…`."""

    seq: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Read an anchor from text. Raises ValueError if it is not one."""
        seq, _, found = text.strip().partition(":")
        if len(bytes.fromhex(found)) != len(START):
            raise ValueError("an anchor is a number, a colon and 64 hexadecimal digits")
        return cls(int(seq), found.lower())

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


_ROWS = """
SELECT seq, at, actor, act, object, details::text, previous, hash FROM audit_record
WHERE seq > %s ORDER BY seq LIMIT %s
"""

# Each of these rows that is younger than the audit must have a record. This also finds a truncated end of the chain,
# back to the last of these rows.
_RECORDED = (
    ("billing_transfer", "id", "kind IN ('grant', 'refund')", "transfer"),
    ("billing_pricelistversion", "version", "true", "price list"),
    ("billing_pack", "id", "true", "pack"),
    ("accounts_apikey", "id", "true", "key"),
    ("accounts_person", "id", "is_staff", "person"),
)
_UNRECORDED = "\nUNION ALL\n".join(
    f"""SELECT format('%s %s: no record says who made it', '{noun}', made.{key}) FROM {table} made
    WHERE {condition} AND created_at > (SELECT min(at) FROM audit_record)
      AND NOT EXISTS (SELECT FROM audit_record WHERE object = '{noun} ' || made.{key})"""
    for table, key, condition, noun in _RECORDED
)
_UNWATCHED = """
SELECT format('trigger %%s is missing or switched off', needed.name) FROM unnest(%s::text[]) AS needed (name)
WHERE NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = needed.name AND tgenabled IN ('O', 'A'))
"""


def head() -> Anchor | None:
    """Return the last record's anchor, to be kept where nobody who can change the database can change it."""
    last = Record.objects.order_by("-seq").values_list("seq", "hash").first()
    return Anchor(last[0], bytes(last[1]).hex()) if last else None


def check(anchors: Iterable[Anchor] = ()) -> list[str]:
    """List every break, one line each, in the caller's snapshot; empty if the chain is whole."""
    wanted = {anchor.seq: anchor.hash for anchor in anchors}
    breaks, last = [], START
    expected = 1
    for row in _rows():
        if row.seq != expected:
            breaks.append(f"record {expected}: missing" + (f", up to {row.seq - 1}" if row.seq > expected + 1 else ""))
        elif row.previous != last:
            breaks.append(f"record {row.seq}: does not follow the one before it")
        if digest(row) != row.hash:
            breaks.append(f"record {row.seq}: changed since it was written")
        if wanted.pop(row.seq, row.hash.hex()) != row.hash.hex():
            breaks.append(f"record {row.seq}: not the one that was anchored")
        expected, last = row.seq + 1, row.hash
    breaks += [f"record {seq}: anchored, and gone" for seq in wanted]
    breaks += ["no record at all"] if expected == 1 else []
    return breaks + _others()


def digest(row: Row) -> bytes:
    """Hash a row in the way that the migration `0001_chain` defines."""
    moment = row.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    hashed = sha256(row.previous)
    for field in (str(row.seq), moment, row.actor, row.act, row.object, row.details):
        text = field.encode()
        hashed.update(b"%d:%b," % (len(text), text))
    return hashed.digest()


def _rows() -> Iterator[Row]:
    after = -(2**63)
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_ROWS, [after, BATCH])
            rows = [Row._make([*fields, bytes(previous), bytes(hash)]) for *fields, previous, hash in cursor.fetchall()]
        yield from rows
        if len(rows) < BATCH:
            return
        after = rows[-1].seq


def _others() -> list[str]:
    """List acts without a record, and triggers that are missing."""
    with connection.cursor() as cursor:
        cursor.execute(_UNRECORDED)
        found = [text for (text,) in cursor.fetchall()]
        cursor.execute(_UNWATCHED, [list(TRIGGERS)])
        return found + [text for (text,) in cursor.fetchall()]


TRIGGERS = (
    "record_chained", "record_append_only", "audit_transfer", "audit_frozen", "audit_waived", "audit_price_list",
    "audit_pack", "audit_pack_switched", "audit_key", "audit_key_revoked", "audit_key_capped", "audit_account",
    "audit_person", "audit_person_changed", "audit_password", "audit_right_given", "audit_right_taken",
    "audit_group_joined", "audit_group_left", "audit_group_right_given", "audit_group_right_taken", "audit_request",
    "audit_tier", "audit_job_forgotten", "audit_identity_linked", "audit_identity_unlinked", "audit_origin_linked",
    "audit_origin_unlinked", "audit_account_closed", "audit_shared", "audit_unshared", "audit_adapter_deleted",
    "audit_version_deleted", "audit_publication", "audit_report_closed", "audit_training_tier",
    "audit_training_tier_switched", "audit_funding",
)  # fmt: skip

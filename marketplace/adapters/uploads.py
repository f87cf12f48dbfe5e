"""What becomes of a file that was sent as an adapter: it is kept as it came, checked apart, and then ready or refused.

A version's row is written before its bytes, and bytes that are not needed any more are removed before the row says so:
none are kept that no row counts. The check runs in a process of its own (`inference.adapters.canonical`) with limits,
since it reads what strangers send.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.db.models.functions import Now

from billing.tokens import wallets
from inference.card import ModelCard
from lora import paths, versions
from lora.models import Adapter, Version
from lora.versions import Facts
from marketplace.adapters import metrics, storage
from marketplace.webhooks import events
from marketplace.webhooks.models import EventType

# Longer than any upload takes; what is not there by then does not come.
UNFINISHED = timedelta(hours=1)
# Longer than any request takes that found a version before it was deleted.
SETTLED = timedelta(minutes=10)
CHECK_SECONDS = 180
ROOT = Path(__file__).resolve().parents[2]
# What PEFT calls it, beside the file.
CONFIGURATION = "adapter_config.json"
UNREADABLE = "it could not be checked: it takes more memory or time than a check may take"

logger = logging.getLogger(__name__)

Place = tuple[str, int]
"""An adapter's id and the number of its version, as jobs name them."""


def begin(adapter: Adapter, size: int) -> Version:
    """Write the row of a version that is about to be received. Raises TooManyVersions and UnknownAdapter."""
    funds = wallets.balance(adapter.owner_id)
    most = settings.ADAPTERS_KEPT if funds.available + funds.held > 0 else settings.ADAPTERS_KEPT_UNFUNDED
    return versions.begin(adapter, Version.Origin.UPLOADED, size, most=most, mebibytes=settings.ADAPTERS_KEPT_MB)


def receive(
    version: Version,
    content: IO[Any],
    name: str = "",
    *,
    recipe: str = "",
    configuration: str = "",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Keep a file as it came, to be checked, with its name and what was sent with it, and other known facts."""
    said = {"name": name, "sent": recipe, "configuration": configuration, "facts": facts or {}}
    Version.objects.filter(id=version.id).update(recipe=said)
    storage.put(paths.incoming(version.adapter_id, version.number), content)


def check_all(card: ModelCard) -> int:
    """Check what was received, also meanwhile, oldest first and accounts in turn; return how many were decided.

    One that cannot be checked now holds up no other.
    """
    checked = 0
    for version in _in_turn():
        try:
            checked += check(version, card)
        except Exception:
            logger.exception("version %s of adapter %s could not be checked", version.number, version.adapter_id)
    return checked


def _in_turn() -> Iterator[Version]:
    """Yield what waits, each once, so that each account's first comes before anybody's second."""
    seen: list[int] = []
    turns: Counter[UUID] = Counter()
    while True:
        waiting = Version.objects.filter(status=Version.Status.CHECKING, deleted_at=None).exclude(id__in=seen)
        found = list(waiting.select_related("adapter").order_by("id"))
        if not found:
            return
        version = min(found, key=lambda each: turns[each.adapter.owner_id])
        seen.append(version.id)
        turns[version.adapter.owner_id] += 1
        yield version


def check(version: Version, card: ModelCard) -> bool:
    """Check one version that was received; return False if it is not there yet, or was deleted meanwhile."""
    with tempfile.TemporaryDirectory(prefix="kiln-adapter-") as folder:
        sent, canonical = Path(folder, "sent"), Path(folder, "canonical")
        try:
            storage.fetch(paths.incoming(version.adapter_id, version.number), sent)
        except FileNotFoundError:
            sent.touch()
        if sent.stat().st_size != version.size:
            overdue = Version.objects.filter(id=version.id, created_at__lt=Now() - UNFINISHED).exists()
            return overdue and _refuse(version, "it was not received whole")
        if configuration := version.recipe.get("configuration"):
            sent.with_name(CONFIGURATION).write_text(configuration, encoding="utf-8")
        begun = time.monotonic()
        found = make_canonical(sent, canonical, card, version.recipe)
        metrics.checked(_result(found), time.monotonic() - begun)
        if "refused" in found:
            return _refuse(version, found["refused"])
        with canonical.open("rb") as file:
            storage.put(paths.ready(version.adapter_id, version.number, found["sha256"]), file)
        return _accept(version, Facts(**found, **version.recipe.get("facts", {})))


def _result(found: Mapping[str, Any]) -> str:
    if "refused" not in found:
        return "ready"
    return "failed" if found["refused"] == UNREADABLE else "refused"


def remove_unused(in_use: Container[Place]) -> int:
    """Remove the files of versions that were refused, or deleted and are `in_use` by no job; return how many.

    One that cannot be removed now holds up no other.
    """
    removed = 0
    gone = Q(deleted_at__lt=Now() - SETTLED) | Q(status=Version.Status.REFUSED)
    for version in Version.objects.filter(gone, stored=True).order_by("id"):
        if (str(version.adapter_id), version.number) in in_use:
            continue
        try:
            _remove(version)
            removed += 1
        except Exception:
            logger.exception("version %s of adapter %s could not be removed", version.number, version.adapter_id)
    return removed


def open_file(version: Version) -> IO[bytes]:
    """Open a ready version's canonical file. Raises FileNotFoundError if it was removed."""
    return storage.open_file(paths.ready(version.adapter_id, version.number, version.sha256))


def has_files(account_id: UUID) -> bool:
    return Version.objects.filter(adapter__owner_id=account_id, stored=True).exists()


def make_canonical(sent: Path, canonical: Path, card: ModelCard, said: Mapping[str, str]) -> dict[str, Any]:
    """Write a file's canonical form in a process of its own; return what that says: the facts, or why it is refused.

    `said` has the name and the recipe that came with it, if any did. Raises SubprocessError if the model, which none of
    them can help, is not understood.
    """
    sizes = _sizes(card.path, card.revision)
    options = [f"--name={said.get('name', '')}", f"--recipe={said.get('sent', '')}"]
    try:
        found = _run("inference.adapters.canonical", str(sent), str(canonical), *options, given=sizes)
        return dict(json.loads(found.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        logger.warning("a check ended with %r: %r", error, (getattr(error, "stderr", None) or b"")[-1000:])
        return {"refused": UNREADABLE}


@lru_cache(maxsize=8)
def _sizes(path: str, revision: str) -> bytes:
    """Return the sizes of the layers of a model, of this revision, as JSON."""
    return _run("inference.adapters.sizes", path)


def _run(module: str, *arguments: str, given: bytes = b"") -> bytes:
    """Run a module with what is `given` on its stdin, and return what it prints. Raises SubprocessError."""
    # nothing of the settings, in which secrets are, but where models are on this machine
    passed = {name: value for name in ("HOME", "HF_HOME", "HF_HUB_CACHE", "PATH") if (value := os.environ.get(name))}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=passed | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        input=given,
        capture_output=True,
        timeout=CHECK_SECONDS,
        check=True,
    ).stdout


@transaction.atomic
def _accept(version: Version, facts: Facts) -> bool:
    if not versions.accept(version, facts):
        return False
    _tell(version, EventType.ADAPTER_READY)
    transaction.on_commit(lambda: storage.delete(paths.incoming(version.adapter_id, version.number)), robust=True)
    return True


@transaction.atomic
def _refuse(version: Version, reason: str) -> bool:
    if not versions.refuse(version, reason):
        return False
    _tell(version, EventType.ADAPTER_REFUSED, reason=reason[:500])
    return True


def _tell(version: Version, kind: EventType, **more: str) -> None:
    data = {"adapter": str(version.adapter_id), "slug": version.adapter.slug, "version": version.number, **more}
    events.tell(version.adapter.owner_id, kind, data=data)


def _remove(version: Version) -> None:
    storage.delete(paths.incoming(version.adapter_id, version.number))
    if version.sha256:
        storage.delete(paths.ready(version.adapter_id, version.number, version.sha256))
    versions.forget_file(version)

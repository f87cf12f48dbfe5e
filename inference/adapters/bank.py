"""The adapters on the device: loaded when first wanted, pinned while a request runs, evicted by last use.

A loader thread reads files, one at a time, so that no denoising step waits for one. If everything on the device is
pinned, a request waits until there is room; later ones wait behind it, so that it gets its turn.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from errno import EACCES, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM
from pathlib import Path

from inference import memory
from inference.adapters import files
from inference.adapters.layers import Layers
from inference.adapters.weights import Adapter, Row
from inference.errors import AdapterUnavailable, EngineFault, EngineStopped, InferenceError

log = logging.getLogger(__name__)

# why a file cannot be read here nor on any other machine; anything else may pass, such as too many open files
FILES_OWN = (None, ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ENAMETOOLONG, ELOOP, EINVAL, ENXIO)


@dataclass(eq=False)
class Resident:
    """An adapter on the device, and how many loans pin it there."""

    adapter: Adapter
    pins: int = 0


@dataclass(eq=False)
class Loan:
    """A request's loan of its adapters, from when it asks for them until it releases them."""

    wanted: tuple[tuple[Path, float], ...]
    ready: Future[None] = field(default_factory=Future)
    pinned: list[Resident] = field(default_factory=list)

    @property
    def row(self) -> Row:
        """The request's adapters with their scales, once `ready` is done; none after the release."""
        return tuple((resident.adapter, scale) for resident, (_, scale) in zip(self.pinned, self.wanted, strict=False))


class Bank:
    """The adapters of one model on its device, at most `budget` bytes of them. Thread-safe."""

    def __init__(self, layers: Layers, budget: int) -> None:
        self.budget = budget
        self._layers = layers
        # least recently used first
        self._residents: OrderedDict[files.Identity, Resident] = OrderedDict()
        self._changed = threading.Condition()
        self._waiting_for_room = False
        self._closed = False
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="kiln-adapters")

    def acquire(self, wanted: Sequence[tuple[str | Path, float]]) -> Loan:
        """Begin to load adapters, each a file with its scale; return at once.

        The loan's `ready` raises AdapterUnavailable if one of them cannot be loaded, EngineStopped after `close`, and
        EngineFault if loading fails unexpectedly.
        """
        loan = Loan(tuple((Path(path), scale) for path, scale in wanted))
        identities = [_identity(path) for path, _ in loan.wanted]
        with self._changed:
            if self._closed:
                loan.ready.set_exception(EngineStopped("the engine stopped"))
            elif self._waiting_for_room or not self._pin_residents(loan, identities):
                self._loader.submit(self._load_wanted, loan)
            else:
                loan.ready.set_result(None)
        return loan

    def release(self, loan: Loan) -> None:
        """Return the adapters, or give up the ones that are still being loaded. Safe to call twice."""
        loan.ready.cancel()
        with self._changed:
            for resident in loan.pinned:
                resident.pins -= 1
            loan.pinned.clear()
            self._layers.forget()
            self._changed.notify_all()

    def evict_unpinned(self) -> None:
        """Evict every adapter that no request has."""
        with self._changed:
            self._evict(0)

    def close(self) -> None:
        """End the loader thread; loans that still wait raise EngineStopped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._loader.shutdown()

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        with self._changed:
            return sum(resident.adapter.nbytes for resident in self._residents.values())

    def _pin_residents(self, loan: Loan, identities: Sequence[files.Identity | None]) -> bool:
        """Pin all adapters of a loan if all of them are on the device; return whether they are."""
        known = [identity for identity in identities if identity and identity in self._residents]
        if len(known) < len(identities):
            return False
        for identity in known:
            self._pin(loan, identity)
        return True

    def _load_wanted(self, loan: Loan) -> None:
        """Load a loan's adapters and set its `ready`. Runs in the loader's thread."""
        failure: InferenceError | None = None
        try:
            for path, _ in loan.wanted:
                self._load(loan, path)
        except CancelledError:
            return
        except InferenceError as error:
            failure = _attributed(error)
        except Exception as error:
            log.exception("an adapter could not be loaded")
            failure = EngineFault(f"loading an adapter raised {error!r}")
        if not loan.ready.set_running_or_notify_cancel():
            return
        if failure is None:
            loan.ready.set_result(None)
        else:
            loan.ready.set_exception(failure)
            self.release(loan)

    def _load(self, loan: Loan, path: Path) -> None:
        identity = files.identify(path)
        with self._changed:
            known = identity in self._residents
            if known:
                self._pin(loan, identity)
        if known:
            return
        adapter = self._copy_to_device(loan, identity)
        with self._changed:
            self._residents[identity] = Resident(adapter)
            self._pin(loan, identity)

    def _copy_to_device(self, loan: Loan, identity: files.Identity) -> Adapter:
        """Read an adapter and copy it to the device, where memory runs out in the room of others."""
        while True:
            try:
                return self._try_to_copy(loan, identity)
            except Exception as error:
                if not memory.ran_out(error):
                    raise
                memory.let_go(error)
                if not self._clear(loan):
                    raise EngineFault(f"there is no memory for adapter {identity.path.name}") from error

    def _try_to_copy(self, loan: Loan, identity: files.Identity) -> Adapter:
        path = identity.path
        adapter = files.read(path, self._layers.sizes, self._layers.dtype, self.budget)
        if files.identify(path) != identity:
            raise AdapterUnavailable(f"adapter {path.name}: the file changed while it was read")
        for warning in adapter.warnings:
            log.info(warning)
        with self._changed:
            self._make_room(loan, adapter.nbytes)
        # no other thread loads, so the room is still there
        return adapter.to(self._layers.device)

    def _pin(self, loan: Loan, identity: files.Identity) -> None:
        if loan.ready.cancelled():
            raise CancelledError
        resident = self._residents[identity]
        resident.pins += 1
        loan.pinned.append(resident)
        self._residents.move_to_end(identity)

    def _make_room(self, loan: Loan, nbytes: int) -> None:
        """Wait until enough bytes can be evicted, and evict them. Raises AdapterUnavailable if they never can be."""
        own = sum(resident.adapter.nbytes for resident in set(loan.pinned))
        if own + nbytes > self.budget:
            raise AdapterUnavailable(f"adapters of {own + nbytes} bytes: there is room for {self.budget} on the device")
        self._wait(loan, lambda: self._pinned() + nbytes <= self.budget)
        self._evict(self.budget - nbytes)

    def _clear(self, loan: Loan) -> bool:
        """Evict all that is not pinned, once there is something; return False if there will be nothing."""
        with self._changed:
            if all(resident in loan.pinned for resident in self._residents.values()):
                return False
            self._wait(loan, lambda: any(not resident.pins for resident in self._residents.values()))
            self._evict(0)
        memory.free()
        return True

    def _wait(self, loan: Loan, condition: Callable[[], bool]) -> None:
        """Wait for room. Raises EngineStopped or CancelledError if the bank is closed or the loan is given up."""
        self._waiting_for_room = True
        try:
            self._changed.wait_for(lambda: self._closed or loan.ready.cancelled() or condition())
        finally:
            self._waiting_for_room = False
        if self._closed:
            raise EngineStopped("the engine stopped")
        if loan.ready.cancelled():
            raise CancelledError

    def _pinned(self) -> int:
        return sum(resident.adapter.nbytes for resident in self._residents.values() if resident.pins)

    def _evict(self, most: int) -> None:
        """Evict the least recently used adapters until at most `most` bytes are left."""
        used = self.nbytes
        for identity, resident in list(self._residents.items()):
            if used <= most:
                return
            if not resident.pins:
                del self._residents[identity]
                used -= resident.adapter.nbytes


def _attributed(error: InferenceError) -> InferenceError:
    """Return the error, or a fault of the engine's if this machine failed to read and the file is not to blame."""
    cause = error.__cause__
    if not isinstance(error, AdapterUnavailable) or not isinstance(cause, OSError) or cause.errno in FILES_OWN:
        return error
    fault = EngineFault(str(error))
    fault.__cause__ = error
    return fault


def _identity(path: Path) -> files.Identity | None:
    """Return the identity of a file; None if there is no such file."""
    try:
        return files.identify(path)
    except AdapterUnavailable:
        return None

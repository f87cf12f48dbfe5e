"""Opens a safetensors file that nobody vouches for: the whole header is checked before any tensor is read.

Nothing is mapped into memory. Whoever writes to the file may shorten it at any time, and the kernel kills a process
that touches a page which is gone; a read only comes back short.
"""

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from inference.adapters.refusals import once, require, short

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_TENSORS = 16_384
# bytes of an element; other types are never read
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
INTEGERS = {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}


class Entry(NamedTuple):
    """What the header says of a tensor; `start` and `end` in bytes of the data after it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """An open safetensors file: its metadata, what its tensors are, and their bytes when they are asked for."""

    def __init__(self, file: BinaryIO, most: int | None = None) -> None:
        """Read the header. Raises ValueError if this is no safetensors file, or has more than `most` bytes."""
        self._file = file
        size = os.fstat(file.fileno()).st_size
        require(most is None or size <= most, f"more than {most} bytes")
        header, self._data = _header(file, size)
        metadata = header.pop("__metadata__", {})
        texts = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
        require(texts, "the metadata in the header are not texts")
        self.metadata: Mapping[str, str] = metadata
        require(len(header) <= MAX_TENSORS, f"more than {MAX_TENSORS} tensors")
        self.entries: Mapping[str, Entry] = {name: _entry(name, value) for name, value in header.items()}
        _check_layout(list(self.entries.values()), size - self._data)

    def read(self, name: str) -> bytearray:
        """Read a tensor of one of FLOATS or INTEGERS. Raises ValueError if it is not all there."""
        entry = self.entries[name]
        width = (FLOATS | INTEGERS)[entry.dtype]
        require(
            entry.end - entry.start == width * math.prod(entry.shape), f"{short(name)} has not the size of its shape"
        )
        content = bytearray(entry.end - entry.start)
        self._file.seek(self._data + entry.start)
        require(self._file.readinto(content) == len(content), "the file was shortened while it was read")  # type: ignore[attr-defined]
        return content


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[TensorFile]:
    """Open a file of at most `most` bytes. Raises OSError, or ValueError if it is none of safetensors'."""
    with open_regular(path) as file:
        yield TensorFile(file, most)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; whatever else is there is refused and never waited for."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("not a file")
    return file


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """Return the header's values, and where the data begin."""
    length = int.from_bytes(file.read(8), "little")
    require(size >= 8 and length <= size - 8, "not a safetensors file")
    require(length <= MAX_HEADER_BYTES, f"the header has more than {MAX_HEADER_BYTES} bytes")
    content = file.read(length)
    require(len(content) == length, "the file was shortened while it was read")
    try:
        values = json.loads(content.decode(), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise ValueError("the header is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError("the header is not JSON") from error
    require(isinstance(values, dict), "the header is not a JSON object")
    return values, 8 + length


def _entry(name: str, value: Any) -> Entry:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        fits = isinstance(dtype, str) and isinstance(shape, list) and _are_counts([*shape, start, end])
    except (KeyError, TypeError, ValueError):
        fits = False
    require(fits and start <= end, f"the header does not say what {short(name)} is")
    return Entry(dtype, tuple(shape), start, end)


def _are_counts(numbers: Sequence[Any]) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _check_layout(entries: list[Entry], size: int) -> None:
    """Check that the tensors fill the data, one after another, without a gap or an overlap."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.end)):
        require(entry.start == end, "the tensors do not lie one after another")
        end = entry.end
    require(end == size, "the file is not as long as its header says")

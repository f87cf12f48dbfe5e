"""A transformer that is split over several processes (`inference.shares`), each with a device of its own.

The engine runs in the first process, which leads: it tells the others of each forward, and they compute their parts of
it (`python -m inference.backends.split`, which `lead` starts). What is told is JSON and tensors. Streams are the same
in all processes, so what the step cache reuses is decided by the leader alone, and told.

A process that ends, or an error on the way, leaves the others without a counterpart: the engine has failed then, and is
to be started anew.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import QwenImageTransformer2DModel
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from inference import shares
from inference.adapters.weights import Adapter, Row, Shape
from inference.backends.pytorch import TorchBackend
from inference.card import ModelCard
from inference.errors import EngineFault
from inference.models import forms
from inference.models.forms import MemoryProfile
from inference.state import Grid
from inference.step_cache import StepCache

LEADER = 0
# how long a follower waits for work: as long as there is none
WAIT = timedelta(days=3650)
# how long the leader waits for followers, which load the model meanwhile
START = timedelta(minutes=15)
PR_SET_PDEATHSIG = 1
# adapters that followers keep; others are sent again when they are used
MOST_ADAPTERS = 64
END_SECONDS = 10


class LeadingBackend(TorchBackend):
    """The torch backend of the process that leads."""

    def __init__(self, transformer: QwenImageTransformer2DModel, others: Sequence[subprocess.Popen[bytes]]) -> None:
        super().__init__(transformer)
        self._others = others
        self._numbers: WeakKeyDictionary[Adapter, int] = WeakKeyDictionary()
        self._next = count()
        self._known: OrderedDict[int, None] = OrderedDict()
        self._broken = False

    def velocity(
        self,
        latents: torch.Tensor,
        sigmas: torch.Tensor,
        texts: Sequence[torch.Tensor],
        grids: Sequence[Grid],
        adapters: Sequence[Row],
        cache: StepCache | None = None,
    ) -> torch.Tensor:
        """As `Backend.velocity`. Raises EngineFault if another process is gone."""
        rows, new, gone = self._numbered(adapters)
        sent = [latents, sigmas, torch.cat(list(texts)), *(adapter.memory for adapter in new.values())]
        told = {
            "tensors": [[list(each.shape), str(each.dtype).removeprefix("torch.")] for each in sent],
            "texts": list(map(len, texts)),
            "grids": list(grids),
            "rows": rows,
            "new": {number: adapter.shapes for number, adapter in new.items()},
            "gone": gone,
            "cached": cache is not None,
        }
        if self._broken:
            raise EngineFault("another process of the model failed before")
        self._broken = True
        try:
            tell(told, self.layers.device)
            for each in sent:
                distributed.broadcast(each.contiguous(), LEADER)
            with_others = _Leading(cache, self.layers.device) if cache else None
            velocity = super().velocity(latents, sigmas, texts, grids, adapters, with_others)  # type: ignore[arg-type]
        except Exception as error:
            raise EngineFault(f"a forward in {distributed.get_world_size()} processes failed: {error}") from error
        self._broken = False
        return velocity

    def end(self) -> None:
        """Let the other processes end; those that would not are killed."""
        with suppress(RuntimeError):
            if not self._broken:
                tell({}, self.layers.device)
            distributed.destroy_process_group()
        for other in self._others:
            try:
                other.wait(0 if self._broken else END_SECONDS)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()

    def _numbered(self, adapters: Sequence[Row]) -> tuple[list[list[tuple[int, float]]], dict[int, Adapter], list[int]]:
        """Return each row's adapters by number, those that the followers do not know, and those they may forget."""
        rows, new = [], {}
        for row in adapters:
            numbered = []
            for adapter, scale in row:
                if adapter not in self._numbers:
                    self._numbers[adapter] = next(self._next)
                number = self._numbers[adapter]
                if number not in self._known:
                    new[number] = adapter
                self._known[number] = None
                self._known.move_to_end(number)
                numbered.append((number, scale))
            rows.append(numbered)
        in_use = {number for row in rows for number, _ in row}
        gone = [number for number in self._known if number not in in_use][: max(0, len(self._known) - MOST_ADAPTERS)]
        for number in gone:
            del self._known[number]
        return rows, new, gone


class _Leading:
    """A step cache that tells the followers for which rows the other blocks run."""

    def __init__(self, cache: StepCache, device: torch.device) -> None:
        self._cache, self._device = cache, device

    def run(
        self, before: torch.Tensor, after: torch.Tensor, tokens: int, others: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        told = False

        def run_others(rows: list[int]) -> torch.Tensor:
            nonlocal told
            told = True
            tell({"rows": rows}, self._device)
            return others(rows)

        stream = self._cache.run(before, after, tokens, run_others)
        if not told:
            tell({"rows": []}, self._device)
        return stream


class _Following:
    """In a step cache's place: the leader says for which rows the other blocks run; what it adds, nobody needs here."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def run(
        self, before: torch.Tensor, after: torch.Tensor, tokens: int, others: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        if rows := hear(self._device)["rows"]:
            others(rows)
        return after


def tell(message: dict[str, Any], device: torch.device) -> None:
    """Send JSON to all followers, which `hear` it."""
    content = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8).to(device)
    distributed.broadcast(torch.tensor([len(content)], device=device), LEADER)
    distributed.broadcast(content, LEADER)


def hear(device: torch.device) -> dict[str, Any]:
    """Wait for what the leader tells."""
    length = torch.zeros(1, dtype=torch.int64, device=device)
    distributed.broadcast(length, LEADER)
    content = torch.empty(int(length), dtype=torch.uint8, device=device)
    distributed.broadcast(content, LEADER)
    message: dict[str, Any] = json.loads(bytes(content.cpu().numpy()))
    return message


def follow(transformer: QwenImageTransformer2DModel) -> None:
    """Compute this process's part of each forward until the leader says nothing more."""
    backend = TorchBackend(transformer)
    device = backend.layers.device
    known: dict[int, Adapter] = {}
    with torch.inference_mode():
        while message := hear(device):
            tensors = []
            for shape, dtype in message["tensors"]:
                tensors.append(torch.empty(shape, dtype=getattr(torch, dtype), device=device))
                distributed.broadcast(tensors[-1], LEADER)
            latents, sigmas, texts, *memories = tensors
            for (number, shapes), memory in zip(message["new"].items(), memories, strict=True):
                known[int(number)] = Adapter(memory, {name: Shape(*shape) for name, shape in shapes.items()})
            for number in message["gone"]:
                del known[number]
            backend.velocity(
                latents,
                sigmas,
                texts.split(message["texts"]),
                [(height, width) for height, width in message["grids"]],
                [tuple((known[number], scale) for number, scale in row) for row in message["rows"]],
                _Following(device) if message["cached"] else None,  # type: ignore[arg-type]
            )


def join(index: int, parts: int, port: int, device: torch.device, listener: int | None = None) -> None:
    """Become process `index` of all that share a model, on this machine; return when they are there.

    The leader's `listener` is a socket that listens at the port.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    place = TCPStore("127.0.0.1", port, parts, is_master=index == LEADER, timeout=START, master_listen_fd=listener)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=place, rank=index, world_size=parts, timeout=WAIT)


def lead(
    transformer: QwenImageTransformer2DModel, card: ModelCard, profile: MemoryProfile, device: torch.device
) -> LeadingBackend:
    """Start the processes of the other cards, and return the backend of this one, which has its own part.

    Raises EngineFault if they do not come.
    """
    # nobody but this machine is to reach it: whoever does is believed
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    command = [sys.executable, "-m", "inference.backends.split", card.path, "--of", str(profile.cards)]
    command += ["--port", str(port), "--form", profile.form, "--device", device.type]
    command += ["--threads", str(torch.get_num_threads())]
    others = [
        subprocess.Popen([*command, "--index", str(index)], stdin=subprocess.DEVNULL)
        for index in range(1, profile.cards)
    ]
    try:
        join(LEADER, profile.cards, port, device, listener.detach())
    except RuntimeError as error:
        raise EngineFault(f"the processes of the other cards did not come: {error}") from error
    return LeadingBackend(transformer, others)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m inference.backends.split", description="Computes a part of a model; an engine starts this."
    )
    parser.add_argument("model", help="a diffusers folder")
    parser.add_argument("--index", type=int, required=True, help="which part")
    parser.add_argument("--of", type=int, required=True, help="how many parts")
    parser.add_argument("--port", type=int, required=True, help="where the leader waits")
    parser.add_argument("--form", choices=forms.FORMS, default=forms.PLAIN, help="of the weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--threads", type=int, default=1, help="on a processor")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.set_num_threads(options.threads)
    device = torch.device("cpu") if options.device == "cpu" else torch.device("cuda", options.index)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    transformer = QwenImageTransformer2DModel.from_pretrained(options.model, subfolder="transformer", dtype=dtype)
    shares.shrink(transformer, options.index, options.of)
    forms.keep(transformer, options.form, device)
    transformer.to(device)
    join(options.index, options.of, options.port, device)
    follow(transformer)


if __name__ == "__main__":
    main()

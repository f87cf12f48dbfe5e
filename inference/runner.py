"""Runs a batch: reads a picture, encodes, denoises one step, or decodes. Holds no queue and no request's state.

A phase writes to its requests only after all its arithmetic is done, so a batch that raised can be run again. One
thread may denoise while another does codec work, on a GPU in a stream of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from PIL import Image

from inference import canvas, patches, pictures, sampler
from inference.adapters import layers
from inference.backends.base import Backend
from inference.card import ModelCard
from inference.errors import BrokenPicture
from inference.latent_cache.reuse import Hit, Reuse
from inference.models.qwen_image import QwenImage
from inference.request import Operation, Phase, Request
from inference.scheduling.scheduler import Batch
from inference.state import Inpainting
from inference.step_cache import StepCache


class Runner:
    """A model and the backend that runs it; tensors are on the backend's device."""

    def __init__(self, model: QwenImage, backend: Backend, latent_cache: Reuse | None = None) -> None:
        self._model = model
        self._latent_cache = latent_cache
        self._backend = backend
        self._beside_steps = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self._phases: dict[Phase, Callable[[Sequence[Request]], None]] = {
            Phase.READ: self._read,
            Phase.ENCODE: self._encode,
            Phase.DENOISE: self._denoise,
            Phase.DECODE: self._decode,
        }

    def run(self, batch: Batch) -> None:
        """Run one phase. Raises BrokenPicture, once the other rows are done, if a row's numbers are not finite."""
        self._run(batch, self._phases[batch.phase])

    def decode_in_pieces(self, batch: Batch) -> None:
        """Run the last phase in less memory, and more time: the same pictures but for rounding."""
        self._run(batch, partial(self._decode, in_pieces=True))

    def _run(self, batch: Batch, phase: Callable[[Sequence[Request]], None]) -> None:
        # the number of threads that share a sum may change its last bit
        alone = any(request.deterministic for request in batch.requests)
        stream = None if batch.phase is Phase.DENOISE else self._beside_steps
        with torch.inference_mode(), torch.cuda.stream(stream), _one_thread() if alone else nullcontext():
            phase(batch.requests)
            self._backend.synchronize()

    def _read(self, requests: Sequence[Request]) -> None:
        for request in requests:
            index = len(request.state.posteriors)
            if request.state.condition_grids:
                image, grid = request.images[index], request.state.condition_grids[index]
            else:
                image, grid = canvas.source(request), request.grid
            request.state.posteriors += (self._model.read(image, grid),)

    def _encode(self, requests: Sequence[Request]) -> None:
        # one by one and unpadded, so that a prompt's embedding cannot depend on its neighbours
        for request in requests:
            request.state.text, request.state.negative_text = self._texts(request)
            rows, columns = request.grid
            config = request.state.sampler or self._model.sampler_config
            sigmas = sampler.sigmas(config, request.steps, rows * columns)
            request.state.sigmas = sigmas[request.steps - request.steps_due :]
            request.state.generator = torch.Generator("cpu").manual_seed(request.seed)
            if request.images and request.operation != Operation.EDIT:
                request.state.latents = self._start_from_picture(request, request.state.generator)
                continue
            if request.state.posteriors:
                request.state.condition = torch.cat([posterior.mean for posterior in request.state.posteriors])
            request.state.latents = self._noise(request, request.state.generator)
            if self._latent_cache and (hit := self._latent_cache.look_up(request)):
                _resume_from(request, hit)

    def _texts(self, request: Request) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the embeddings of the prompt and, if guided, of the negative prompt."""
        prompts = [request.prompt, request.negative_prompt] if request.guided else [request.prompt]
        if request.operation == Operation.EDIT:
            texts = self._model.encode_edit(prompts, request.images)
        else:
            texts = [self._model.encode(prompt) for prompt in prompts]
        return texts[0], texts[1] if request.guided else None

    def _noise(self, request: Request, generator: torch.Generator) -> torch.Tensor:
        return sampler.noise(self._model.channels, request.grid, generator).to(self._model.device)

    def _start_from_picture(self, request: Request, generator: torch.Generator) -> torch.Tensor:
        """Return the picture's latents, sampled from its posterior, with noise added; drawn in diffusers' order."""
        (posterior,) = request.state.posteriors
        original = posterior.mean + posterior.std * self._noise(request, generator)
        noise = self._noise(request, generator)
        if painted := canvas.mask(request):
            cells = torch.from_numpy(pictures.cells(painted, (request.width, request.height)))
            mask = patches.pack(cells.expand(self._model.channels // 4, -1, -1)).to(self._model.device)
            request.state.inpainting = Inpainting(original, noise, mask)
        return sampler.add_noise(original, noise, request.state.sigmas[0])

    def _denoise(self, batch: Sequence[Request]) -> None:
        requests = sorted(batch, key=lambda request: layers.order(request.ticket.adapters))
        latents = torch.stack([_present(request.state.latents) for request in requests])
        # one copy of all the step's numbers, before its work is queued, so that the step never waits for another
        now, after, scales = _to_device(
            [
                [request.state.sigmas[request.state.step_index] for request in requests],
                [request.state.sigmas[request.state.step_index + 1] for request in requests],
                [request.guidance_scale for request in requests],
            ],
            latents.device,
        )
        cache = _step_cache(requests)
        velocity = self._velocity(requests, latents, now, scales, cache)
        moved = sampler.step(latents, velocity, after - now)
        predicted = sampler.step(latents, velocity, -now)
        rows = [_inpainted(request, row) for request, row in zip(requests, moved, strict=True)]
        finite = dict(zip(requests, moved.isfinite().flatten(1).all(1).tolist(), strict=True))
        for request, row, x0 in zip(requests, rows, predicted, strict=True):
            if not finite[request]:
                continue
            request.state.latents, request.state.x0 = row, x0
            request.state.step_index += 1
        if cache:
            for request, memory, reused in zip(requests, cache.memories, cache.reused, strict=True):
                request.state.step_memory = memory
                request.state.steps_reused += reused
        if self._latent_cache:
            for request in requests:
                if finite[request]:
                    self._latent_cache.offer(request)
        if broken := [row for row, request in enumerate(batch) if not finite[request]]:
            raise BrokenPicture("the latents are not finite", broken)

    def _velocity(
        self,
        requests: Sequence[Request],
        latents: torch.Tensor,
        now: torch.Tensor,
        scales: torch.Tensor,
        cache: StepCache | None,
    ) -> torch.Tensor:
        grids = (requests[0].grid, *requests[0].state.condition_grids)
        texts = [_present(request.state.text) for request in requests]
        adapters = [request.ticket.adapters for request in requests]
        if requests[0].state.condition_grids:
            conditions = torch.stack([_present(request.state.condition) for request in requests])
            latents = torch.cat([latents, conditions], dim=1)
        if not requests[0].guided:
            return self._backend.velocity(latents, now, texts, grids, adapters, cache)
        texts += [_present(request.state.negative_text) for request in requests]
        both = self._backend.velocity(latents.repeat(2, 1, 1), now.repeat(2), texts, grids, adapters * 2, cache)
        velocity, negative = both.chunk(2)
        return sampler.guide(velocity, negative, scales)

    def _decode(self, requests: Sequence[Request], *, in_pieces: bool = False) -> None:
        for request in requests:
            latents = _present(request.state.latents)
            if not latents.isfinite().all():
                raise BrokenPicture("the latents are not finite")
            request.state.image = canvas.finish(request, self._model.decode(latents, request.grid, in_pieces=in_pieces))
            request.state.step_memory = None


def warm_up(runner: Runner, card: ModelCard) -> None:
    """Make the smallest picture of each operation. Raises whatever the device raises."""
    image = Image.new("RGB", (card.min_side, card.min_side))
    for operation in card.operations:
        request = Request(
            "",
            width=card.min_side,
            height=card.min_side,
            steps=1,
            guidance_scale=card.default_guidance_scale,
            seed=0,
            operation=operation,
            images=() if operation == Operation.GENERATE else (image,),
            box=(0, 0, *image.size),
        )
        request.state.condition_grids = pictures.condition_grids(request, card)
        while request.state.image is None:
            runner.run(Batch(request.phase, (request,)))


def _resume_from(request: Request, hit: Hit) -> None:
    """Start a request from another picture's latents, at their noise level."""
    request.state.latents = hit.latents.to(_present(request.state.latents).device)
    request.state.sigmas = (*request.state.sigmas[: hit.step], hit.sigma, *request.state.sigmas[hit.step + 1 :])
    request.state.steps_skipped = request.state.step_index = hit.step
    request.state.similarity = hit.similarity


def _inpainted(request: Request, moved: torch.Tensor) -> torch.Tensor:
    """Return the latents after a step; those outside the mask are the original's at the new noise level."""
    if request.state.inpainting is None:
        return moved
    original, noise, mask = request.state.inpainting
    kept = sampler.add_noise(original, noise, request.state.sigmas[request.state.step_index + 1])
    return (1 - mask) * kept + mask * moved


def _step_cache(requests: Sequence[Request]) -> StepCache | None:
    if not any(request.step_cache for request in requests):
        return None
    return StepCache([request.step_cache for request in requests], [request.state.step_memory for request in requests])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _to_device(rows: list[list[float]], device: torch.device) -> torch.Tensor:
    """Copy numbers [rows, columns], 32 bits, to the device without waiting for its other work."""
    numbers = torch.tensor(rows)
    return numbers.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else numbers.to(device)


def _present(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None, "a request denoises only after it was encoded"
    return tensor

"""Runs a batch: encode, denoise one step, or decode. Keeps no queue and no request's state.

A phase writes to its requests only after all its arithmetic is done, so a batch that raised can be run again.
"""

from collections.abc import Callable, Sequence

import torch

from inference import sampler
from inference.backends.base import Backend
from inference.errors import BrokenPicture
from inference.models.qwen_image import QwenImage
from inference.request import Phase, Request
from inference.scheduler import Batch


class Runner:
    """Moves requests on by one phase of one batch; tensors lie on the backend's device."""

    def __init__(self, model: QwenImage, backend: Backend) -> None:
        self._model = model
        self._backend = backend
        self._phases: dict[Phase, Callable[[Sequence[Request]], None]] = {
            Phase.ENCODE: self._encode,
            Phase.DENOISE: self._denoise,
            Phase.DECODE: self._decode,
        }

    def run(self, batch: Batch) -> None:
        """Run one phase. Raises BrokenPicture where a picture's numbers are not finite."""
        with torch.inference_mode():
            self._phases[batch.phase](batch.requests)
            self._backend.synchronize()

    def _encode(self, requests: Sequence[Request]) -> None:
        # one by one and unpadded: a prompt's embedding cannot depend on its neighbours
        for request in requests:
            request.text = self._model.encode(request.prompt)
            request.negative_text = self._model.encode(request.negative_prompt) if request.guided else None
            rows, columns = request.grid
            request.sigmas = sampler.sigmas(self._model.sampler_config, request.steps, rows * columns)
            request.generator = torch.Generator("cpu").manual_seed(request.seed)
            noise = sampler.noise(self._model.channels, request.grid, request.generator)
            request.latents = noise.to(self._model.device)

    def _denoise(self, requests: Sequence[Request]) -> None:
        latents = torch.stack([_present(request.latents) for request in requests])
        now = torch.tensor([request.sigmas[request.step_index] for request in requests])
        after = torch.tensor([request.sigmas[request.step_index + 1] for request in requests])
        velocity = self._velocity(requests, latents, now.to(latents.device))
        moved = sampler.step(latents, velocity, (after - now).to(latents.device))
        for request, row in zip(requests, moved, strict=True):
            request.latents = row
            request.step_index += 1

    def _velocity(self, requests: Sequence[Request], latents: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
        grid, texts = requests[0].grid, [_present(request.text) for request in requests]
        if not requests[0].guided:
            return self._backend.velocity(latents, now, texts, grid)
        texts += [_present(request.negative_text) for request in requests]
        both = self._backend.velocity(latents.repeat(2, 1, 1), now.repeat(2), texts, grid)
        scales = torch.tensor([request.guidance_scale for request in requests]).to(latents.device)
        velocity, negative = both.chunk(2)
        return sampler.guide(velocity, negative, scales)

    def _decode(self, requests: Sequence[Request]) -> None:
        for request in requests:
            latents = _present(request.latents)
            if not latents.isfinite().all():
                raise BrokenPicture("the latents are not finite")
            request.image = self._model.decode(latents, request.grid)


def _present(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None, "a request denoises only after it was encoded"
    return tensor

"""The torch backend gives the transformer the same input as diffusers' pipeline."""

import pytest
import torch
from diffusers import QwenImagePipeline

from inference import sampler
from inference.backends.pytorch import TorchBackend
from inference.models import catalog

STEPS = 50


def times_of(transformer, forward) -> list[torch.Tensor]:
    """Return the times that forwards give the transformer."""
    seen = []
    hook = transformer.register_forward_pre_hook(lambda *call: seen.append(call[2]["timestep"]), with_kwargs=True)
    try:
        forward()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_time_of_each_step_is_rounded_as_the_pipeline_rounds_it(dtype):
    pipeline = QwenImagePipeline.from_pretrained(catalog.card().path, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    options = {"width": 64, "height": 64, "num_inference_steps": STEPS, "output_type": "latent"}
    expected = times_of(pipeline.transformer, lambda: pipeline("", **options))
    backend = TorchBackend(pipeline.transformer)
    latents, text = torch.zeros(1, 16, pipeline.transformer.config.in_channels), torch.zeros(8, 128, dtype=dtype)
    with torch.inference_mode():
        ours = times_of(
            backend.transformer,
            lambda: [
                backend.velocity(latents, torch.tensor([sigma]), [text], [(4, 4)], [()])
                for sigma in sampler.sigmas(pipeline.scheduler.config, STEPS, 16)[:-1]
            ],
        )
    assert [time.item() for time in ours] == [time.item() for time in expected]

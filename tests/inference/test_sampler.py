"""The noise schedule, the noise and the step are those of diffusers' pipeline."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline, calculate_shift

from inference import sampler

QWEN_IMAGE = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "use_dynamic_shifting": True,
}


@pytest.mark.parametrize("steps", [2, 7, 50, 100])
@pytest.mark.parametrize("tokens", [16, 256, 4096])
def test_sigmas_are_diffusers(steps, tokens):
    schedule = FlowMatchEulerDiscreteScheduler(**QWEN_IMAGE)
    shift = calculate_shift(tokens, 256, 8192, 0.5, 0.9)
    schedule.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
    assert sampler.sigmas(schedule.config, steps, tokens) == tuple(schedule.sigmas.tolist())


def test_sigmas_fall_from_one_to_zero():
    schedule = FlowMatchEulerDiscreteScheduler(**QWEN_IMAGE)
    levels = sampler.sigmas(schedule.config, 20, 64)
    assert levels[0] == 1
    assert levels[-1] == 0
    assert list(levels) == sorted(levels, reverse=True)


def test_one_step_goes_all_the_way():
    schedule = FlowMatchEulerDiscreteScheduler(**QWEN_IMAGE)
    assert sampler.sigmas(schedule.config, 1, 64) == (1.0, 0.0)


def test_noise_is_drawn_and_packed_as_diffusers_does():
    drawn = torch.randn((1, 1, 8, 6, 10), generator=torch.Generator().manual_seed(3))
    expected = QwenImagePipeline._pack_latents(drawn, 1, 8, 6, 10)[0]
    assert torch.equal(sampler.noise(32, (3, 5), torch.Generator().manual_seed(3)), expected)


def test_each_row_is_guided_by_its_own_scale_and_keeps_its_norm():
    velocity, negative = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    guided = sampler.guide(velocity, negative, torch.tensor([1.0, 4.0, 9.0]))
    torch.testing.assert_close(guided[0], velocity[0])
    torch.testing.assert_close(guided.norm(dim=-1), velocity.norm(dim=-1))
    alone = sampler.guide(velocity[1:2], negative[1:2], torch.tensor([4.0]))
    assert torch.equal(guided[1:2], alone)


def test_guidance_without_any_motion_stays_finite():
    still = torch.zeros(1, 2, 4)
    assert torch.equal(sampler.guide(still, still, torch.tensor([4.0])), still)


def test_each_row_steps_by_its_own_change_of_sigma():
    moved = sampler.step(torch.ones(2, 1, 2), torch.ones(2, 1, 2), torch.tensor([-0.5, -0.25]))
    assert moved[:, 0, 0].tolist() == [0.5, 0.75]

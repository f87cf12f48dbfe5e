"""A model's card: its name, where it is, and what it accepts. Loads no torch."""

from dataclasses import dataclass

from inference.request import TILE, Operation

# what any Qwen-Image can do; edits also need a processor for pictures, and a model trained for them
FROM_LATENTS = tuple(operation.value for operation in Operation if operation != Operation.EDIT)


@dataclass(frozen=True)
class ModelCard:
    """A model's name, path, revision and limits; sizes in pixels, prompt length in code points.

    `condition_area` is the number of pixels at which an edit's pictures join the sequence; None: the output's.
    """

    name: str
    path: str
    revision: str
    min_side: int = 256
    max_side: int = 2048
    side_multiple: int = TILE
    max_steps: int = 100
    default_width: int = 1024
    default_height: int = 1024
    default_steps: int = 50
    default_guidance_scale: float = 4.0
    max_guidance_scale: float = 100.0
    default_strength: float = 0.6
    operations: tuple[str, ...] = FROM_LATENTS
    max_images: int = 3
    max_image_side: int = 2048
    condition_area: int | None = 1024 * 1024
    max_prompt_length: int = 4000
    description: str = ""

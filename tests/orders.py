"""Orders as the API makes them of a customer's body."""

from typing import Any

from marketplace.jobs.orders import JobOrder


def order(**changes: Any) -> JobOrder:
    """256×256, 20 steps and a floor-length prompt cost 100/16·0.4·0.5 = 1.25 Tokens a picture."""
    values = {
        "operation": "generate",
        "model": "kiln-house",
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 256,
        "height": 256,
        "steps": 20,
        "guidance_scale": 3.0,
        "seed": 7,
        "n": 1,
        "service_class": "standard",
        "output_format": "png",
    }
    return JobOrder(**{**values, **changes})

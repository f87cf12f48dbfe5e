"""Times of batches: the published figures of an H200; `agreement` measures those of this machine.

A forward's time depends on its image tokens (guidance runs every row twice) and on how many of them attend to one
another. So a table has one curve, tokens of the forward → seconds, for each length of a row, with linear interpolation
between points and between lengths. Below a curve's first point a forward takes as long as there; beyond the last, the
last slope continues.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from inference.request import Phase
from inference.scheduling.scheduler import Batch

Curve = Sequence[tuple[int, float]]


@dataclass
class StepTimes:
    """A table: `curves` by image tokens of a row; `encode` in seconds a prompt, `decode` in seconds an image token.

    `shared` is the share of the device that a step and codec work beside it take from each other.
    """

    device: str
    max_batch_tokens: int
    curves: Mapping[int, Curve]
    encode: float
    decode: float
    shared: float = 1.0
    _read: dict[tuple[int, int], float] = field(default_factory=dict)

    def seconds(self, batch: Batch) -> float:
        """Return the seconds that the device takes for a batch."""
        request = batch.requests[0]
        passes = 2 if request.guided else 1
        if batch.phase is Phase.DENOISE:
            return self.step(request.image_tokens // passes, len(batch.requests) * request.image_tokens)
        if batch.phase is Phase.ENCODE:
            return self.encode * passes * len(batch.requests)
        return self.decode * len(batch.requests) * request.image_tokens / passes

    def step(self, row: int, tokens: int) -> float:
        """Return the seconds of a forward of so many image tokens in all, in rows of so many."""
        if (row, tokens) not in self._read:
            lengths = sorted(self.curves)
            above = min(bisect_left(lengths, row), len(lengths) - 1)
            below = max(0, above - (lengths[above] > row))
            ends = [_along(self.curves[lengths[end]], tokens) for end in (below, above)]
            share = (row - lengths[below]) / (lengths[above] - lengths[below]) if above > below else 0.0
            self._read[row, tokens] = ends[0] + share * (ends[1] - ends[0])
        return self._read[row, tokens]


# A step of Qwen-Image with guidance, bf16, compiled: github.com/sgl-project/sglang, issue 22183. Not given there, so
# assumed: one row of 4096 tokens (as long as four of 1024), prompts and pictures (both small beside the steps).
H200 = StepTimes(
    "H200",
    8192,
    {
        1024: ((2048, 0.167), (8192, 0.240), (16384, 0.425)),
        4096: ((4096, 0.191), (8192, 0.243), (16384, 0.474), (24576, 0.711)),
    },
    encode=0.03,
    decode=0.1 / 4096,
)


def _along(curve: Curve, tokens: int) -> float:
    place = min(max(1, bisect_left(curve, (tokens, 0.0))), len(curve) - 1)
    (low, first), (high, last) = curve[place - 1], curve[place]
    return max(curve[0][1], first + (last - first) * (tokens - low) / (high - low))

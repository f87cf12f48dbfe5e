"""Everything the engine can raise, as one tree. What an error means over HTTP is not decided here.

InferenceError
├── InvalidRequest      refused at once: a value the model does not accept (`param` names it)
├── InvalidPicture      bytes that are no picture this engine reads, or a picture without a plain meaning
├── AdapterUnavailable  no adapter at that path, not one for this model, or too large for the device
├── ModelUnavailable    no model at that path or name, or not of a kind that this engine runs
│   └── PlanUnavailable no plan of the model, or not one for this library or device
├── InvalidTraining     pictures, captions, hyperparameters or a checkpoint that a training does not accept
├── TrainingDiverged    a loss or a gradient is no longer finite; the last checkpoint still is
├── Canceled            the request was canceled (`steps_run` were done)
├── BrokenPicture       the numbers are no longer finite; there is nothing to show or charge
├── EngineStopped       the engine is not running, or stopped before the picture was done
└── EngineFault         an unexpected exception while the request ran; its cause is chained
"""

from collections.abc import Sequence


class InferenceError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidRequest(InferenceError):
    """A value the model does not accept; `param` is the field's name."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class InvalidPicture(InferenceError):
    """A picture that is not accepted. The message begins with "it", so that the picture's name can go before it."""


class AdapterUnavailable(InferenceError):
    """No usable adapter under the given path."""


class ModelUnavailable(InferenceError):
    """No usable model under the given path or name."""


class PlanUnavailable(ModelUnavailable):
    """No plan here, or not one for this model, library or device."""


class InvalidTraining(InferenceError):
    """What a training does not accept: a picture or its caption, a hyperparameter, or a checkpoint of another one."""


class TrainingDiverged(InferenceError):
    """The numbers of a training are no longer finite; `step` is the first that they spoiled, which was not taken."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the training diverged at step {step}: a loss or a gradient is not finite")
        self.step = step


class Canceled(InferenceError):
    """The request was canceled; `steps_run` denoising steps had been done."""

    def __init__(self, steps_run: int) -> None:
        super().__init__(f"canceled after {steps_run} steps")
        self.steps_run = steps_run


class BrokenPicture(InferenceError):
    """The latents or pixels are not finite; `rows` are the batch's broken rows by number, empty for all of them."""

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class EngineStopped(InferenceError):
    """The engine is not running, or stopped before the picture was done."""


class EngineFault(InferenceError):
    """An unexpected exception while the request ran; see `__cause__`."""

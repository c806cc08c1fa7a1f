"""optax's optimizers and schedules, described as data: `build` turns an optimizer of a config into optax's own."""

import abc
import dataclasses
import math
import numbers
from typing import ClassVar

import optax
import optax.contrib

from jaxvae.checks import require, require_number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    """A schedule of the learning rate."""

    depends_on_num_steps: ClassVar[bool] = True
    """Whether the learning rate of a step depends on how many steps there will be."""

    @abc.abstractmethod
    def build(self, learning_rate: float, *, num_steps: int, steps_per_epoch: int) -> optax.Schedule: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """A constant learning rate."""

    depends_on_num_steps = False

    def build(self, learning_rate: float, *, num_steps: int, steps_per_epoch: int) -> optax.Schedule:
        return optax.constant_schedule(learning_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Linear warmup from 0, then a half cosine that ends after the last step; Loshchilov and Hutter (2017), eq. 5."""

    warmup_epochs: float = 0.0
    """The length of the warmup; at most half of the run."""
    final: float = 0.0
    """The final value, as a fraction of the learning rate."""

    def __post_init__(self) -> None:
        require_number(self, "warmup_epochs", low=0.0)
        require_number(self, "final", low=0.0, high=1.0)

    def build(self, learning_rate: float, *, num_steps: int, steps_per_epoch: int) -> optax.Schedule:
        warmup = round(min(self.warmup_epochs * steps_per_epoch, num_steps // 2))
        end = self.final * learning_rate
        return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup, num_steps, end_value=end)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages(Schedule):
    """A constant factor in each stage; after the last stage its factor stays."""

    depends_on_num_steps = False
    epochs: tuple[int, ...]
    """The length of each stage."""
    factors: tuple[float, ...]
    """The factor of the learning rate in each stage."""

    def __post_init__(self) -> None:
        for name in ("epochs", "factors"):
            value = getattr(self, name)
            require(isinstance(value, tuple | list), f"Stages.{name} is {value!r}; write a tuple, a number for a stage")
            object.__setattr__(self, name, tuple(value))  # a list has no hash
        require(
            len(self.epochs) == len(self.factors) > 0,
            f"Stages has {len(self.epochs)} epochs and {len(self.factors)} factors; write as many of each",
        )
        whole = all(isinstance(e, numbers.Integral) and not isinstance(e, bool) and e > 0 for e in self.epochs)
        require(
            whole and all(isinstance(f, numbers.Real) and 0 < f < math.inf for f in self.factors),
            f"Stages.epochs are {self.epochs} and Stages.factors {self.factors}; write whole, positive epochs and "
            "positive, finite factors",
        )

    def build(self, learning_rate: float, *, num_steps: int, steps_per_epoch: int) -> optax.Schedule:
        # Not beyond the end of the run, whose steps fit in a 32-bit integer.
        ends = [min(sum(self.epochs[: i + 1]) * steps_per_epoch, num_steps) for i in range(len(self.epochs) - 1)]
        return optax.join_schedules([optax.constant_schedule(learning_rate * f) for f in self.factors], ends)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(abc.ABC):
    """An optimizer with a learning rate, its schedule, and gradient clipping."""

    learning_rate: float = 1e-3
    """The learning rate, which the schedule scales."""
    schedule: Schedule = Constant()
    """`Constant()`, `Cosine()` or `Stages()`."""
    clip_norm: float | None = None
    """The global norm to which gradients are clipped; None: they are not."""

    def __post_init__(self) -> None:
        require_number(self, "learning_rate", low=0.0, strict=True)
        require_number(self, "clip_norm", low=0.0, strict=True, optional=True)

    @abc.abstractmethod
    def transformation(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        """The optax optimizer itself."""

    def build(self, *, num_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
        """The optimizer for a run of `num_steps` steps."""
        schedule = self.schedule.build(self.learning_rate, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        return optax.chain(clip, self.transformation(schedule))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Kingma and Ba (2015), algorithm 1; with weight decay as in `optax.adamw`, after Loshchilov and Hutter (2019)."""

    b1: float = 0.9
    """The decay of the first moment."""
    b2: float = 0.999
    """The decay of the second moment."""
    eps: float = 1e-8
    """The constant added to the denominator."""
    weight_decay: float = 0.0
    """Each step subtracts this times the learning rate times the parameter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("b1", "b2"):
            require_number(self, name, low=0.0, below=1.0)
        require_number(self, "eps", low=0.0, strict=True)
        require_number(self, "weight_decay", low=0.0)

    def transformation(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(learning_rate, b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Momentum with orthogonalized matrices, as in `optax.contrib.muon`; Jordan et al. (2024).

    Parameters that are not matrices, such as the kernels of convolutions, are updated by Adam with Nesterov momentum
    and the same learning rate; the means of a `GaussianMixture` prior are a matrix. A step costs some products of
    square matrices more than Adam's, whatever the batch size, so it pays off for batches of several hundred examples.
    """

    learning_rate: float = 0.02
    """The learning rate, which the schedule scales."""
    momentum: float = 0.95
    """The decay of the momentum."""
    weight_decay: float = 0.0
    """Each step subtracts this times the learning rate times the parameter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "momentum", low=0.0, below=1.0)
        require_number(self, "weight_decay", low=0.0)

    def transformation(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.contrib.muon(
            learning_rate,
            beta=self.momentum,
            weight_decay=self.weight_decay,
            adam_weight_decay=self.weight_decay,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum."""

    momentum: float = 0.0
    """The decay of the momentum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number(self, "momentum", low=0.0, below=1.0)

    def transformation(self, learning_rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.sgd(learning_rate, momentum=self.momentum or None)

"""The config is the experiment: one tree of the library's own objects, checked before anything is compiled."""

import dataclasses
import math
import os
import pathlib
import typing
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import typeguard

from jaxvae.checks import place, reason, require, require_number
from jaxvae.data import Data, Dataset, Raw, Source
from jaxvae.estimators import Estimator, Pathwise
from jaxvae.model import VAE
from jaxvae.networks import makes_own_output
from jaxvae.objectives import ELBO, Objective, cyclical_schedule
from jaxvae.optimizers import Adam, Optimizer
from jaxvae.typing import Array, Support

_MOST_STEPS = 2**31 - 1  # steps are counted in 32 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the numbers of a run."""

    model: VAE
    """The networks, the posterior, the prior and the likelihood."""
    data: Data = Data()
    """The examples and their preprocessing."""
    objective: Objective = ELBO()
    """What training maximises. Reports and model selection always use the unit-weight ELBO."""
    estimator: Estimator = Pathwise()
    """How the objective's gradient reaches the parameters of q(z|x)."""
    optimizer: Optimizer = Adam()
    """The optimizer of the parameters."""
    num_epochs: int = 100
    """Passes over the training split, each in a new order. An epoch skips the examples left over for a last batch."""
    batch_size: int = 128
    """Examples in a step."""
    num_parts: int = 1
    """Equal parts of a batch, each with its own draws; their gradients are averaged, one in memory at a time."""
    seed: int = 0
    """The one source of randomness."""
    kl_warmup_epochs: float = 0.0
    """Epochs in which the weight β of the KL rises linearly from 0 to the objective's β."""
    kl_cycles: int = 1
    """How many times the warm-up is repeated during the run, at equal intervals: Fu et al. (2019)."""
    ema_decay: float | None = None
    """The decay per step of an average of the parameters, which is then evaluated in their place; None: no average."""
    data_mean_bias: bool = True
    """Whether a new decoder's output bias starts at the mean of the training data. A decoder that makes its own output
    layer, as `ConvDecoder` does, starts at zero."""
    eval_every_epochs: int = 1
    """How often the ELBO on the validation split is measured, and the best model kept."""
    checkpoint_every_epochs: int = 10
    """How often the run is saved, to be resumed; it is also saved when it is stopped, and at its end."""
    patience: int | None = None
    """Validations without a better ELBO after which the run ends early; None: it runs to its end."""
    start_from: str | None = None
    """The folder of a published model whose parameters (and units) training starts from; None: new ones are drawn."""

    def __post_init__(self) -> None:
        check_types(self)
        whole = ("num_epochs", "batch_size", "num_parts", "kl_cycles", "eval_every_epochs", "checkpoint_every_epochs")
        for name in whole:
            require_number(self, name, low=1, integer=True)
        require_number(self, "seed", low=0, high=2**32 - 1, integer=True)
        require_number(self, "kl_warmup_epochs", low=0)
        require_number(self, "patience", low=1, integer=True, optional=True)
        require_number(self, "ema_decay", low=0.0, below=1.0, optional=True)
        require(
            self.batch_size % self.num_parts == 0,
            f"batch_size is {self.batch_size}, which num_parts={self.num_parts} does not divide; choose others",
        )
        require(
            self.kl_warmup_epochs == 0 or isinstance(self.objective, ELBO),
            f"kl_warmup_epochs is for an ELBO, but the objective is {type(self.objective).__name__}; write "
            "kl_warmup_epochs=0",
        )
        require(
            self.kl_warmup_epochs == 0 or getattr(self.objective, "beta_schedule", None) is None,
            "kl_warmup_epochs and objective.beta_schedule are two schedules of one weight; write one of them",
        )
        require(
            self.kl_cycles == 1 or 0 < self.kl_warmup_epochs * self.kl_cycles <= self.num_epochs,
            f"kl_warmup_epochs={self.kl_warmup_epochs:g} times kl_cycles={self.kl_cycles} must be more than 0 and at "
            f"most num_epochs={self.num_epochs}; write others",
        )

    def absolute(self) -> "Experiment":
        """The same experiment with absolute paths, independent of the working directory."""
        start_from = (
            None if self.start_from is None else str(pathlib.Path(os.path.expanduser(self.start_from)).absolute())
        )
        return dataclasses.replace(self, data=self.data.absolute(), start_from=start_from)

    def fit_to(self, dataset: Source | Dataset) -> "Experiment":
        """Checks the experiment against the data, and gives it with the model's event shape taken from them.

        Raises:
          ValueError: the two do not go together; the message says what to write.
        """
        shape, declared = dataset.event_shape, self.model.event_shape
        require(
            declared is None or declared == shape,
            f"model.event_shape is {declared}, but an example of {self.data.name} has the shape {shape}; leave it out",
        )
        num = dataset.sizes["train"]
        require(
            self.batch_size <= num,
            f"batch_size is {self.batch_size}, but there are {num} training examples; write at most {num}",
        )
        for name in ("num_epochs", "kl_warmup_epochs"):
            most = _MOST_STEPS // (num // self.batch_size)
            require(getattr(self, name) <= most, f"{name} is {getattr(self, name)}; write at most {most:,}")
        require(
            self.patience is None or "validation" in dataset.sizes,
            f"patience needs a validation split, but {self.data.name} has none; write data.num_validation=N",
        )
        _check_values(self, dataset.values)
        self.estimator.check(self.objective, self.model.posterior)
        fitted = dataclasses.replace(self, model=dataclasses.replace(self.model, event_shape=shape))
        objective, part = self.objective.fit_to(num), self.batch_size // self.num_parts
        _check_shapes(fitted, objective, num_examples=part)
        return fitted

    def steps_per_epoch(self, dataset: Dataset) -> int:
        return dataset.sizes["train"] // self.batch_size

    def build_optimizer(self, dataset: Dataset) -> optax.GradientTransformation:
        per_epoch = self.steps_per_epoch(dataset)
        return self.optimizer.build(num_steps=self.num_epochs * per_epoch, steps_per_epoch=per_epoch)

    def build_objective(self, dataset: Dataset) -> Objective:
        """The objective for this training set, with the KL warm-up, or warm-ups, as a schedule of its β."""
        objective = self.objective.fit_to(dataset.sizes["train"])
        warmup = round(self.kl_warmup_epochs * self.steps_per_epoch(dataset))
        if not warmup or not isinstance(objective, ELBO):
            return objective
        rises: Any = optax.linear_schedule(0.0, 1.0, warmup)
        if self.kl_cycles > 1:
            steps = self.num_epochs * self.steps_per_epoch(dataset)
            period = max(1, steps // self.kl_cycles)
            rises = cyclical_schedule(
                warmup_steps=min(warmup, period), period=period, num_cycles=min(self.kl_cycles, steps)
            )
        return dataclasses.replace(objective, beta_schedule=rises)

    @property
    def depends_on_its_length(self) -> str | None:
        """What in the steps depends on `num_epochs`; None: a longer run begins with the very steps of a shorter one."""
        if self.kl_cycles > 1:
            return "the repeated warm-up (kl_cycles)"
        schedule = self.optimizer.schedule
        return f"the learning rate ({type(schedule).__name__}())" if schedule.depends_on_num_steps else None

    @property
    def uses_data_mean(self) -> bool:
        used = self.model.prior.starts_from_data or not makes_own_output(self.model.decoder)
        return self.data_mean_bias and used


def _check_values(experiment: Experiment, stored: Support) -> None:
    """Refuses a likelihood that is not one of the stored values after preprocessing."""
    name, preprocess, likelihood = experiment.data.name, experiment.data.preprocess, experiment.model.likelihood
    try:
        values = preprocess.support(stored)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    of, support = f"{name} after {type(preprocess).__name__}", likelihood.support
    likelihood.check_values(values, of=of, instead=_instead(support, stored, raw=isinstance(preprocess, Raw)))
    # Zeros and ones are grey levels and counts too, but not those of the data.
    binarized = values.integer and values.high <= 1 and not (stored.integer and stored.high <= 1)
    require(
        not (binarized and support.integer and support.high > 1),
        f"{of} has only two values, but {type(likelihood).__name__} is for more; write data.preprocess=Raw()",
    )


def _instead(support: Support, stored: Support, *, raw: bool) -> str:
    """What to write for data that a likelihood of this support does not take."""
    if stored.integer and math.isinf(stored.high):
        return "write model.likelihood=NegativeBinomial(), or, for grey levels, data.high=255"
    if support.integer and support.high > 1 and stored.integer:
        enough = f"write a likelihood of {stored.high + 1:g} values, or data.high, if the largest value is smaller"
        return enough if raw else "write data.preprocess=Raw()"
    if support.integer and support.high <= 1:
        return "write data.preprocess=DynamicBinarization(), or another model.likelihood, such as Gaussian()"
    if stored.integer:
        return "write data.preprocess=Dequantization(), or another model.likelihood, such as Gaussian()"
    return "write another model.likelihood, such as Gaussian()"


def _check_shapes(experiment: Experiment, objective: Objective, *, num_examples: int) -> None:
    """Evaluates the objective's shapes abstractly, which finds what does not fit without compiling anything."""

    model = experiment.model

    def bound() -> tuple[Array, ...]:
        key, event = jax.random.key(0), model.event_shape or ()
        with_mean = experiment.uses_data_mean and experiment.start_from is None
        params = model.init(key, data_mean=jnp.zeros(event) if with_mean else None)
        x, now = jnp.zeros((num_examples, *event)), objective.at(0, objective.start())
        p = model.decode(params, jnp.zeros((1, model.latent_dim)))
        require(
            hasattr(p, "mean"),
            f"{type(p).__name__}, the distribution of {type(model.likelihood).__name__}, has no mean, which figures "
            "show; write the property `mean`, or a centre where there is none",
        )
        q = model.encode(params, x)
        require(
            hasattr(q, "mean") or hasattr(q, "centre"),
            f"{type(q).__name__}, the distribution of {type(model.posterior).__name__}, has no mean, at which examples "
            "are embedded; write the property `mean`, or a `centre` where there is none",
        )
        return experiment.estimator(model, now, params, key, x)[0], p.mean, model.embed(params, x)

    try:
        shape = jax.eval_shape(bound)[0].shape
    except ValueError:
        raise
    except Exception as error:
        require(
            "not a valid JAX type" not in str(error),
            f"{reason(error)}; if that is a distribution, write @pytree (of jaxvae.distributions) above its @dataclass",
        )
        of_what = f"an example of shape {model.event_shape}"
        raise ValueError(f"the model does not fit {of_what} ({reason(error)}{place(error)})") from error
    name = type(objective).__name__
    require(
        shape == (num_examples,),
        f"{name} gives the shape {shape} for {num_examples} examples; write one number for each, ({num_examples},)",
    )


def config_fields(config: Any) -> list[str]:
    """The names of a config object's fields, without linen's own `parent` and `name`."""
    hidden = ("parent", "name") if isinstance(config, nn.Module) else ()
    return [f.name for f in dataclasses.fields(config) if f.init and f.name not in hidden]


def check_types(config: Any, path: str = "config") -> None:
    """Checks every field of a tree of config objects against its annotation.

    Raises:
      ValueError: a field has another type; the message has its path, its value and the expected type.
    """
    hints = typing.get_type_hints(type(config))
    for name in config_fields(config):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_types(value, f"{path}.{name}")
        try:
            typeguard.check_type(value, hints[name])
        except typeguard.TypeCheckError as error:
            plain = f"; write {value.item()!r}" if isinstance(value, np.generic) else ""
            raise ValueError(f"{path}.{name} is {value!r}: {str(error).splitlines()[0]}{plain}") from None

"""New examples from a run's model, and its samplers, which are fitted at their first use and kept in its folder."""

import dataclasses
import pathlib
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import files
from jaxvae.checks import reason, require
from jaxvae.distributions import pytree, sample_and_log_prob
from jaxvae.experiment import console
from jaxvae.experiment.config import Experiment
from jaxvae.experiment.restoring import Trained
from jaxvae.experiment.session import Trainer
from jaxvae.fingerprints import digest, named
from jaxvae.samplers import FlowSampler, GaussianSampler, MixtureSampler, Sampler
from jaxvae.typing import Array, Distribution, Key, Params, Shape

SamplerName = Literal["prior", "gaussian", "mixture", "flow"]
_SAMPLERS: dict[str, Sampler] = {
    "gaussian": GaussianSampler(),
    "mixture": MixtureSampler(),
    "flow": FlowSampler(),
}
_VERSION = "2"  # of the fits: those of another version are made anew
_ENCODED = 1000  # examples encoded at once
_MADE, _ENTRIES = 256, 2**22  # the most examples generated at once, and the most entries


def aggregate_posterior(trainer: Trainer, params: Params, key: Key) -> np.ndarray:
    """A draw from q(z|x) for each training example, [N, D]."""

    @jax.jit
    def draw(params: Params, key: Key, stored: Array) -> Array:
        x_key, z_key = jax.random.split(key)
        q = trainer.experiment.model.encode(params, trainer.preprocess(x_key, stored))
        return sample_and_log_prob(q, z_key)[0]

    x = trainer.dataset.train.x
    starts = range(0, len(x), _ENCODED)
    return np.concatenate([draw(params, jax.random.fold_in(key, i), jnp.asarray(x[i : i + _ENCODED])) for i in starts])


def check(trained: Trained, name: str) -> None:
    """Refuses a sampler that needs more training examples than there are.

    Raises:
      ValueError: there are too few.
    """
    num, fewest = trained.trainer.dataset.sizes["train"], _SAMPLERS[name].fewest
    require(num >= fewest, f"there are {num} training examples, but --sampler={name} needs {fewest}; write another")


def fitted(trained: Trained, name: str, folder: pathlib.Path) -> Distribution:
    """A sampler of a run: read from its folder if it was fitted to these parameters, else fitted now and kept there."""
    sampler, space = _SAMPLERS[name], trained.trainer.experiment.model.posterior.space
    path, sha = folder / "samplers" / f"{name}.safetensors", digest(trained.params)
    params = _read(path, sha)
    if params is None:
        params = _fit(sampler, name, trained)
        _keep(params, path, sha)
    q = sampler.distribution(params)
    return OnSphere(q) if space == "the unit sphere" else q


@pytree
@dataclasses.dataclass(frozen=True)
class OnSphere:
    """The distribution of the directions of another distribution's draws."""

    base: Any

    def sample(self, key: Key, sample_shape: Shape = ()) -> Array:
        """Draws of norm 1, [*sample_shape, D]."""
        z = self.base.sample(key, sample_shape)
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    def log_prob(self, value: Array) -> Array:
        """Always raises: the density is an integral that nothing needs.

        Raises:
          NotImplementedError: always.
        """
        raise NotImplementedError("the directions of these draws have no density in closed form")


def generated(
    experiment: Experiment,
    params: Params,
    key: Key,
    *,
    num: int,
    sample: bool = False,
    codes: Distribution | None = None,
) -> np.ndarray:
    """`num` examples from the model, as the means of p(x|z) or as draws from it: [num, *event].

    They are generated in blocks, each with its own key, so the first examples do not depend on how many follow.

    Raises:
      MemoryError: they do not fit into the host's memory.
    """
    shape = experiment.model.event_shape or ()
    block = max(1, min(_MADE, _ENTRIES // int(np.prod(shape))))
    generate = jax.jit(partial(experiment.model.generate, num=block, sample=sample))
    x = np.empty((num, *shape), jax.eval_shape(generate, params, key, codes=codes).dtype)
    with console.Count(num, title="generate", unit="example") as bar:
        for i, start in enumerate(range(0, num, block)):
            part = x[start : start + block]
            part[:] = generate(params, jax.random.fold_in(key, i), codes=codes)[: len(part)]
            bar.add(len(part))
    return x


def _fit(sampler: Sampler, name: str, trained: Trained) -> Params:
    key = jax.random.fold_in(trained.trainer.keys.figures, 1)
    codes_key, fit_key = jax.random.split(key)
    z = aggregate_posterior(trained.trainer, trained.params, codes_key)
    console.say(f"fitting the {name} sampler to the codes of {len(z):,} training examples")
    if not isinstance(sampler, FlowSampler):
        return sampler.fit(fit_key, jnp.asarray(z))
    with console.Count(sampler.num_steps, title="fit,", unit="step") as bar:
        return sampler.fit(fit_key, jnp.asarray(z), tick=bar.add)


def _keep(params: Params, path: pathlib.Path, sha: str) -> None:
    import safetensors
    import safetensors.numpy

    try:
        path.parent.mkdir(exist_ok=True)
        arrays = named(jax.tree.map(np.asarray, params))
        with files.replacing(path) as whole:
            own = digest(params)
            metadata = {"version": _VERSION, "params_sha256": sha, "own_sha256": own}
            safetensors.numpy.save_file(arrays, whole, metadata=metadata)
    except (OSError, safetensors.SafetensorError) as error:  # SafetensorError if the disk is full
        console.say(f"{path} can't be written ({reason(error)}): the sampler is fitted anew each time")


def _read(path: pathlib.Path, sha: str) -> Params | None:
    """A sampler's parameters if they are whole and this version fitted them to the model with this SHA-256, or None."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if (metadata.get("version"), metadata.get("params_sha256")) != (_VERSION, sha):
                return None
            params: Params = {}
            for name in file.keys():  # noqa: SIM118 - it is not a dict
                *owners, leaf = name.split("/")
                owner = params
                for part in owners:
                    owner = owner.setdefault(part, {})
                owner[leaf] = jnp.asarray(file.get_tensor(name))
            return params if digest(params) == metadata.get("own_sha256") else None
    except (OSError, safetensors.SafetensorError):
        return None

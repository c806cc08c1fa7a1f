"""The model: networks, posterior, prior and likelihood put together, and the pure functions that follow from them."""

import dataclasses
import math
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import networks
from jaxvae.checks import place, reason, require, require_kind, require_number
from jaxvae.distributions import embedding, kl_divergence, kl_per_dimension, sample_and_log_prob
from jaxvae.likelihoods import Bernoulli, Likelihood
from jaxvae.objectives import Evidence
from jaxvae.posteriors import DiagonalGaussian, Posterior
from jaxvae.priors import Prior, StandardNormal
from jaxvae.typing import Array, Distribution, Key, Params, Shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAE:
    """p(x, z) = p(x|z) p(z) with the amortized posterior q(z|x): Kingma and Welling (2014), Rezende et al. (2014).

    It holds choices, not parameters: `init` makes these, and they are passed to all other functions.
    """

    latent_dim: int
    """The number of entries of z."""
    encoder: nn.Module
    """From x to features; the lecture's g1 = h1."""
    decoder: nn.Module
    """From z to features."""
    posterior: Posterior = DiagonalGaussian()
    """The family of q(z|x)."""
    prior: Prior = StandardNormal()
    """p(z)."""
    likelihood: Likelihood = Bernoulli()
    """The family of p(x|z)."""
    event_shape: Shape | None = None
    """The shape of one example; left out in a config, and taken from the data."""

    def __post_init__(self) -> None:
        for name, kind in (("posterior", Posterior), ("prior", Prior), ("likelihood", Likelihood)):
            require_kind(f"model.{name}", getattr(self, name), kind, f"a {kind.__name__}")
        for name in ("encoder", "decoder"):  # WithOutput would call any function, but not train it
            require_kind(f"model.{name}", getattr(self, name), nn.Module, "a flax.linen.Module")
        require(
            self.event_shape is None
            or (isinstance(self.event_shape, tuple) and len(self.event_shape) > 0 and min(self.event_shape) > 0),
            f"VAE.event_shape is {self.event_shape}; write the sizes of an example's axes, such as (784,)",
        )
        fewest, most = self.posterior.dimensions
        require_number(self, "latent_dim", low=fewest, high=most, integer=True)
        self.prior.check(self.posterior)

    def init(self, key: Key, *, data_mean: Array | None = None, data_std: Array | None = None) -> Params:
        """Draws the parameters: a dict of pytrees, one for each of the five parts.

        Args:
          key: the only source of randomness.
          data_mean: [*event], the mean of the training data. With it the decoder's output bias starts where p(x|z) has
            that mean (Burda et al.'s recipe). A decoder that makes its own output layer ignores it.
          data_std: [*event], the standard deviations over the training data. Together with `data_mean` they are the
            units of a `Standardized` likelihood, which without them is the same as the likelihood that it wraps. An
            entry with 0 keeps its unit.

        Raises:
          ValueError: `event_shape` is not set; a moment of the data has another shape or, unless it is traced, is not
            finite in float32; the likelihood cannot have that mean; `data_std` is negative or given without
            `data_mean`; or a network keeps state besides its parameters, draws random numbers or does not fit the
            event.
        """
        keys = dict(
            zip(("encoder", "decoder", "posterior", "prior", "likelihood"), jax.random.split(key, 5), strict=True)
        )
        require(data_std is None or data_mean is not None, "data_std is given without data_mean; write both")
        mean = self._moment("mean", jnp.zeros(self._event) if data_mean is None else data_mean)
        if data_mean is not None and not isinstance(mean, jax.core.Tracer):
            self._check_mean(float(mean.min()), float(mean.max()))
        std = self._moment("std", jnp.ones(self._event) if data_std is None else data_std)
        likelihood = self.likelihood.init(keys["likelihood"])
        if self.likelihood.standardizes:
            likelihood |= {"units": {"mean": mean, "std": jnp.where(std > 0, std, 1.0)}}
        bias = None if data_mean is None else lambda: self.likelihood.initial_outputs(mean).astype(jnp.float32)
        decoder = self._decoder.clone(initial_bias=bias)
        x, z = self._seen(likelihood, mean[None]), jnp.zeros((1, self.latent_dim))
        return {
            "encoder": _init_network("encoder", self._encoder, keys["encoder"], x, self._event),
            "decoder": _init_network("decoder", decoder, keys["decoder"], z, self._event),
            "posterior": self.posterior.init(keys["posterior"], self.latent_dim),
            "prior": self.prior.init(keys["prior"], self.latent_dim, x[0]),
            "likelihood": likelihood,
        }

    def param_shapes(self) -> Params:
        """What `init` returns, as shapes and types; nothing is computed."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def encode(self, params: Params, x: Array) -> Any:
        """q(z|x) for x [B, *event]: a distribution with batch shape [B] over z [D].

        Raises:
          ValueError: x is not a batch of events.
        """
        return self.posterior_of(params, self.variational_parameters(params, x))

    def variational_parameters(self, params: Params, x: Array) -> Array:
        """The encoder's output for x [B, *event]: the parameters of q(z|x), [B, param_size].

        Raises:
          ValueError: x is not a batch of events.
        """
        require(
            x.ndim == len(self._event) + 1 and x.shape[1:] == self._event,
            f"x has the shape {x.shape}; a batch of these events has (batch, {', '.join(map(str, self._event))})",
        )
        return self._encoded(params, self._seen(params["likelihood"], x))

    def _seen(self, likelihood_params: Params, x: Array) -> Array:
        seen = self.likelihood.seen(likelihood_params, x)
        return jnp.where(jnp.isnan(x), 0.0, seen) if self.likelihood.support.missing else seen

    def _encoded(self, params: Params, seen: Array) -> Array:
        outputs: Any = self._encoder.apply({"params": params["encoder"]}, seen)
        return outputs

    def posterior_of(self, params: Params, variational_parameters: Array) -> Any:
        """q(z|x) from its parameters [B, param_size]: the second half of `encode`."""
        return self.posterior.distribution(params["posterior"], variational_parameters, self.latent_dim)

    def embed(self, params: Params, x: Array) -> Array:
        """A deterministic code for each x [B, *event]: the mean of q(z|x), [B, D].

        The mean of a flow is not known; its code is the image of its base's mean.
        """
        return embedding(self.encode(params, x))

    def decode(self, params: Params, z: Array) -> Any:
        """p(x|z) for z [..., D]: a distribution with batch shape [...] over x [*event].

        Raises:
          ValueError: the last axis of z is not of size `latent_dim`.
        """
        require(
            z.ndim >= 1 and z.shape[-1] == self.latent_dim,
            f"z has the shape {z.shape}; write z [..., {self.latent_dim}]",
        )
        outputs: Any = self._decoder.apply(
            {"params": params["decoder"]}, z.reshape(math.prod(z.shape[:-1]), self.latent_dim)
        )
        outputs = outputs.reshape(z.shape[:-1] + outputs.shape[1:])
        return self.likelihood.distribution(params["likelihood"], outputs, len(self._event))

    def prior_distribution(self, params: Params) -> Distribution:
        """p(z), over z [D]."""
        return self.prior.distribution(
            params["prior"], self.latent_dim, lambda seen: self.posterior_of(params, self._encoded(params, seen))
        )

    def evidence(self, params: Params, key: Key, x: Array, *, num_samples: int = 1) -> Evidence:
        """The input of an objective for a batch x [B, *event], from `num_samples` draws of q(z|x).

        Raises:
          ValueError: there are no draws, or x is not a batch of events.
        """
        require(num_samples >= 1, f"num_samples is {num_samples}; write 1 or more")
        q = self.encode(params, x)
        z, log_q = sample_and_log_prob(q, key, (num_samples,))
        return self.weigh(params, q, z, x, log_posterior=log_q)

    def weigh(self, params: Params, q: Any, z: Array, x: Array, *, log_posterior: Array | None = None) -> Evidence:
        """`Evidence` for given draws z [K, B, D]: the second half of `evidence`.

        If the draws' own log q(z|x) [K, B] is given as `log_posterior`, a flow need not be inverted.
        """
        p_z = self.prior_distribution(params)
        # All draws of one example, then those of the next: examples are sharded over devices, and XLA can shard the
        # rows of a product only if the examples come first.
        by_example = jnp.swapaxes(z, 0, 1)
        log_likelihood = self.decode(params, by_example).log_prob(x[:, None])
        log_prior = p_z.log_prob(by_example)
        for choice, log_prob in ((self.likelihood, log_likelihood), (self.prior, log_prior)):
            require(
                log_prob.shape == by_example.shape[:2],
                f"the distribution of {type(choice).__name__} gives a log_prob of shape {log_prob.shape}, not "
                f"{by_example.shape[:2]}, one number per example and draw; sum it over the event (with .to_event "
                "in NumPyro)",
            )
        return Evidence(
            log_likelihood=log_likelihood.T,
            log_prior=log_prior.T,
            log_posterior=q.log_prob(z) if log_posterior is None else log_posterior,
            kl=kl_divergence(q, p_z),
            z=z,
            posterior=q,
            kl_per_dimension=kl_per_dimension(q, p_z),
            prior=p_z,
        )

    def reconstruct(self, params: Params, key: Key, x: Array, *, sample: bool = False) -> Array:
        """The mean of p(x|z) for one draw of z from q(z|x), or with `sample` a draw from it: [B, *event]."""
        z_key, x_key = jax.random.split(key)
        p = self.decode(params, self.encode(params, x).sample(z_key))
        return p.sample(x_key) if sample else p.mean

    def generate(
        self, params: Params, key: Key, *, num: int = 64, sample: bool = False, codes: Distribution | None = None
    ) -> Array:
        """The means of p(x|z) for `num` draws of z from p(z), or with `sample` draws from it: [num, *event].

        With `codes`, a distribution over z [D], z is drawn from that instead: see `jaxvae.samplers`.

        Raises:
          ValueError: `num` is below 1.
        """
        require(num >= 1, f"num is {num}; write 1 or more")
        z_key, x_key = jax.random.split(key)
        p_z = self.prior_distribution(params) if codes is None else codes
        p = self.decode(params, p_z.sample(z_key, (num,)))
        return p.sample(x_key) if sample else p.mean

    def _moment(self, name: str, value: Any) -> Array:
        require(jnp.shape(value) == self._event, f"data_{name} has the shape {jnp.shape(value)}; write {self._event}")
        if not isinstance(value, jax.core.Tracer):
            with np.errstate(over="ignore"):  # values too large for float32 become infinite, and are refused
                value = np.asarray(value, np.float32)
            require(
                bool(np.isfinite(value).all() and (name == "mean" or value.min() >= 0)),
                f"data_{name} is not a {name} that float32 can hold; write that of the observed values, as given by "
                f"jaxvae.data.{name}",
            )
        return jnp.asarray(value, jnp.float32)

    def _check_mean(self, low: float, high: float) -> None:
        support = self.likelihood.support
        slack = 0.01 * (support.high - support.low)  # allows for the rounding of a mean summed in float32
        slack = slack if math.isfinite(slack) else 0.0
        require(
            support.low - slack <= low and high <= support.high + slack,
            f"data_mean has values from {low:g} to {high:g}, but {type(self.likelihood).__name__} takes values in "
            f"{support}; write the mean of the likelihood's inputs",
        )

    @property
    def _event(self) -> Shape:
        if self.event_shape is None:
            raise ValueError("VAE.event_shape is not set; write the shape of one example, such as (28, 28, 1)")
        return self.event_shape

    @property
    def _encoder(self) -> nn.Module:
        return networks.WithOutput(self.encoder, (self.posterior.param_size(self.latent_dim),))

    @property
    def _decoder(self) -> nn.Module:
        *rest, channels = self._event
        return networks.WithOutput(self.decoder, (*rest, self.likelihood.param_size(channels)))


def _init_network(name: str, network: nn.Module, key: Key, x: Array, event: Shape) -> Params:
    try:
        variables = dict(network.init(key, x))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"the {name} does not fit an example of shape {event} ({reason(error)}{place(error)})"
        ) from error
    params = variables.pop("params", {})
    require(
        not variables,
        f"the {name} keeps state in {sorted(variables)}; a network must be a pure function of its parameters: "
        "use LayerNorm or GroupNorm instead of BatchNorm",
    )
    try:
        jax.eval_shape(network.apply, {"params": params}, x)
    except flax.errors.InvalidRngError:
        raise ValueError(
            f"the {name} draws random numbers; a network must be a pure function of its parameters: leave out Dropout"
        ) from None
    return params

"""The trained model behind the page, independent of it."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import latents
from jaxvae.experiment import seeing
from jaxvae.experiment.restoring import Trained
from jaxvae.plots import classes_of, is_quantity, plane

_EXAMPLES = 2000
_MOST_ATTRIBUTES = 50


class Latent:
    """A trained model with what the page needs: codes of examples, a plane onto which to project them, a decoder."""

    def __init__(self, trained: Trained) -> None:
        """Encodes some examples of the test split, and compiles the decoder."""
        trainer, self._params, _ = trained
        self.experiment, dataset = trainer.experiment, trainer.dataset
        self._model = self.experiment.model
        self._on_sphere = self._model.posterior.space == "the unit sphere"
        _, split = dataset.held_out
        x = trainer.preprocess(trainer.keys.figures, jnp.asarray(split.x[:_EXAMPLES]))
        self._x = np.asarray(x)
        mean = jax.jit(lambda params, x: self._model.embed(params, x))(self._params, x)
        self.codes = np.asarray(mean, np.float64)  # [N, D]
        self.labels = None if split.labels is None else split.labels[:_EXAMPLES]
        self.plane = plane(self.codes)
        self._decode = jax.jit(lambda params, z: self._model.decode(params, z).mean)
        self.attributes = self._attributes()
        self.decode(self.codes[0])  # compiles

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The ends of each latent's slider, which cover the prior's bulk and all codes."""
        low, high = np.floor(self.codes.min(axis=0)), np.ceil(self.codes.max(axis=0))
        bulk = 1.0 if self._on_sphere else 3.0
        return [(min(-bulk, a), max(bulk, b)) for a, b in zip(low.tolist(), high.tolist(), strict=True)]

    def nearest_code(self, z: np.ndarray) -> np.ndarray:
        """z [D], scaled to length 1 if the codes lie on the unit sphere."""
        return z / max(np.linalg.norm(z), 1e-12) if self._on_sphere else z

    def decode(self, z: np.ndarray) -> np.ndarray:
        """The mean of p(x|z) for z [D], prepared for display: [*event]; see `seeing.to_eye`."""
        mean = np.asarray(self._decode(self._params, jnp.asarray(z, jnp.float32)))
        return seeing.to_eye(self.experiment, self._params, mean, like=self._x)

    def example(self, i: int) -> np.ndarray:
        """An example as the model sees it, prepared for display: [*event]."""
        return seeing.to_eye(self.experiment, self._params, self._x[i], like=self._x)

    def nearest(self, point: np.ndarray) -> int:
        """The index of the example that is nearest to `point` [2] on the map."""
        return int(np.argmin(np.linalg.norm(self.plane.project(self.codes) - point, axis=1)))

    def draw(self, seed: int) -> np.ndarray:
        """A draw from the prior, [D]."""
        p = self._model.prior_distribution(self._params)
        return np.asarray(p.sample(jax.random.key(seed)), np.float64)

    def between(self, a: int, b: int, t: float, *, arc: bool) -> np.ndarray:
        """The point at t in [0, 1] on the path from one example's code to another's, [D]."""
        path = latents.spherical_path if arc else latents.linear_path
        start, end = (jnp.asarray(self.codes[i], jnp.float32) for i in (a, b))
        return np.asarray(path(start, end, 101)[round(100 * t)], np.float64)

    def _attributes(self) -> dict[str, np.ndarray]:
        """The attribute vector [D] of each label."""
        if self.labels is None:
            return {}
        classes = classes_of(self.labels)
        codes = jnp.asarray(self.codes, jnp.float32)
        if not 2 <= len(classes) <= _MOST_ATTRIBUTES or is_quantity(self.labels):
            return {}
        return {str(c): np.asarray(latents.attribute_vector(codes, self.labels == c), np.float64) for c in classes}

"""The lecture's derivation of the ELBO, line by line, in numbers, for a model with one or two latents.

With so few latents every expectation is an integral that can be computed. The two sides of a line are computed in
different ways: on a grid over the whole latent space, fine where the posterior is; by Gauss–Legendre quadrature, over
the whole space or along q(z|x) by its reparameterization; or in closed form. So each line checks both of its sides.
"""

from jaxvae.derivation.lines import Derivation, Line, check, derive, num_decodings

__all__ = ["Derivation", "Line", "check", "derive", "num_decodings"]

"""The lecture's derivation of the ELBO, line by line, in numbers: for a model with one or two latents.

There every expectation is an integral that can be done. The two sides of a line are found in different ways: on a grid
over the whole latent space, fine where the posterior is; by Gauss–Legendre quadrature, over the whole space and along
q(z|x) by its reparameterization; and in closed form. So a line is a check of both.
"""

from jaxvae.derivation.lines import Derivation, Line, check, derive, num_decodings

__all__ = ["Derivation", "Line", "check", "derive", "num_decodings"]

"""The speed of a config, also as a fraction of the hardware's limits, which are measured in the same process."""

from jaxvae.experiment.benchmark.measure import compare, measure, no_compilation_cache
from jaxvae.experiment.benchmark.products import products
from jaxvae.experiment.benchmark.tables import summary, tables
from jaxvae.experiment.benchmark.variants import AXES

__all__ = ["AXES", "compare", "measure", "no_compilation_cache", "products", "summary", "tables"]

"""Data: the sources of examples, and the keyed step that turns stored values into those that a likelihood takes.

A set is kept as it is stored, and preprocessed inside the training step with an explicit key. So it fits on the device,
and every epoch can see a new binarization or new dequantization noise.
"""

from jaxvae.data.dataset import Dataset, Source, Split
from jaxvae.data.numpy_file import read_examples
from jaxvae.data.preprocess import Dequantization, DynamicBinarization, Preprocess, Raw, Scaling
from jaxvae.data.rows import mean, pieces, std
from jaxvae.data.sources import Data, find, load

__all__ = [
    "Data",
    "Dataset",
    "Dequantization",
    "DynamicBinarization",
    "Preprocess",
    "Raw",
    "Scaling",
    "Source",
    "Split",
    "find",
    "load",
    "mean",
    "pieces",
    "read_examples",
    "std",
]

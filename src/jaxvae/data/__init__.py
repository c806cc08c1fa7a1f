"""Data: where examples come from, and the keyed step that turns stored values into what a likelihood takes.

A set is kept as it is stored and preprocessed inside the training step from a key in the open; so it fits on the
device, and every epoch can see another binarization or another dequantization noise.
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

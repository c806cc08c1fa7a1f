"""Evaluation: bounds on log p(x) and their parts, with error bars, for data of any size in constant memory."""

from jaxvae.evaluation.evaluator import Evaluate, PerExample, make_evaluator, preprocess_each
from jaxvae.evaluation.imputation import impute, multiple_imputations
from jaxvae.evaluation.summary import summarize, summarize_surgery, with_stderr
from jaxvae.evaluation.surgery import Surgery, elbo_surgery, marginal_mmd

__all__ = [
    "Evaluate",
    "PerExample",
    "Surgery",
    "elbo_surgery",
    "impute",
    "make_evaluator",
    "marginal_mmd",
    "multiple_imputations",
    "preprocess_each",
    "summarize",
    "summarize_surgery",
    "with_stderr",
]

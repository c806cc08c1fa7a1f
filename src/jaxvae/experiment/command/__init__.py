"""The command lines of `scripts/`: typed overrides by tyro, one clear line for a mistake, and an exit code.

0: done. 1: the run diverged, memory ran out, or a file could not be read or written. 2: something in the command, the
config or the data is wrong, and nothing was changed.
130, 143, 129: stopped by SIGINT, SIGTERM or SIGHUP; a training run or a sweep was saved first.
"""

from jaxvae.experiment.command.benchmark import benchmark_main
from jaxvae.experiment.command.burda import burda_main
from jaxvae.experiment.command.compare import compare_main
from jaxvae.experiment.command.derive import derive_main
from jaxvae.experiment.command.evaluate import evaluate_main
from jaxvae.experiment.command.explore import explore_main
from jaxvae.experiment.command.generate import generate_main
from jaxvae.experiment.command.impute import impute_main
from jaxvae.experiment.command.inference_gap import inference_gap_main
from jaxvae.experiment.command.parsing import load_config
from jaxvae.experiment.command.publish import publish_main
from jaxvae.experiment.command.report import report_main
from jaxvae.experiment.command.sweep import sweep_main
from jaxvae.experiment.command.train import train_main

__all__ = [
    "benchmark_main",
    "burda_main",
    "compare_main",
    "derive_main",
    "evaluate_main",
    "explore_main",
    "generate_main",
    "impute_main",
    "inference_gap_main",
    "load_config",
    "publish_main",
    "report_main",
    "sweep_main",
    "train_main",
]

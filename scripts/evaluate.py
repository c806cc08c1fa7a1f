"""Measure a trained model: python scripts/evaluate.py --workdir=runs/digits --num-importance-samples=500"""

import sys

from jaxvae.experiment.command import evaluate_main

if __name__ == "__main__":
    sys.exit(evaluate_main())

"""Measure how fast a config is: python scripts/benchmark.py --config=configs/digits.py --compare=dispatch"""

import sys

from jaxvae.experiment.command import benchmark_main

if __name__ == "__main__":
    sys.exit(benchmark_main())

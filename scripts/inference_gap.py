"""Measure the gap between the ELBO and log p(x), and its causes: python scripts/inference_gap.py --workdir=runs/digits"""

import sys

from jaxvae.experiment.command import inference_gap_main

if __name__ == "__main__":
    sys.exit(inference_gap_main())

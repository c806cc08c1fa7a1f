"""Split the gap between log p(x) and the ELBO: python scripts/inference_gap.py --workdir=runs/digits"""

import sys

from jaxvae.experiment.command import inference_gap_main

if __name__ == "__main__":
    sys.exit(inference_gap_main())

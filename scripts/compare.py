"""Measure the lecture's claims about autoencoders and VAEs: python scripts/compare.py --workdir=runs/compare"""

import sys

from jaxvae.experiment.command import compare_main

if __name__ == "__main__":
    sys.exit(compare_main())

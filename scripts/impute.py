"""Fill in the missing entries of examples: python scripts/impute.py --workdir=RUN --input=x.npy --output=filled.npy"""

import sys

from jaxvae.experiment.command import impute_main

if __name__ == "__main__":
    sys.exit(impute_main())

"""Walk through the latent space of a trained model: python scripts/explore.py --workdir=runs/digits"""

import sys

from jaxvae.experiment.command import explore_main

if __name__ == "__main__":
    sys.exit(explore_main())

"""Write a trained model for others to open: python scripts/publish.py --workdir=runs/digits --output=digits-model"""

import sys

from jaxvae.experiment.command import publish_main

if __name__ == "__main__":
    sys.exit(publish_main())

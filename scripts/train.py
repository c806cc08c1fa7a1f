"""Train a VAE from a config file: python scripts/train.py --config=configs/digits.py --workdir=runs/digits"""

import sys

from jaxvae.experiment.command import train_main

if __name__ == "__main__":
    sys.exit(train_main())

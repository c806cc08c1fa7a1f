"""Draw from a trained model: python scripts/generate.py --workdir=runs/digits --num=64 --output=samples.png"""

import sys

from jaxvae.experiment.command import generate_main

if __name__ == "__main__":
    sys.exit(generate_main())

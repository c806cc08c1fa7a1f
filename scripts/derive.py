"""The lecture's derivation in numbers: python scripts/derive.py --workdir=runs/digits2"""

import sys

from jaxvae.experiment.command import derive_main

if __name__ == "__main__":
    sys.exit(derive_main())

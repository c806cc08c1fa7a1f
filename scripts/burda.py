"""Table 1 of Burda et al. (2016): python scripts/burda.py --cell=dynamic-iwae-5 --data-dir=DIR"""

import sys

from jaxvae.experiment.command import burda_main

if __name__ == "__main__":
    sys.exit(burda_main())

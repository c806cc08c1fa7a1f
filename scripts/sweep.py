"""Train several seeds or values of β in one program: python scripts/sweep.py --betas=0.5,1,2 --workdir=runs/sweep"""

import sys

from jaxvae.experiment.command import sweep_main

if __name__ == "__main__":
    sys.exit(sweep_main())

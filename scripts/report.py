"""Write a run's report again: python scripts/report.py --workdir=runs/digits"""

import sys

from jaxvae.experiment.command import report_main

if __name__ == "__main__":
    sys.exit(report_main())

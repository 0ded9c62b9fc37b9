"""``python -m nb_elastic``: the command line.

Runs in: the command line.
"""

import sys

from nb_elastic.cli import main

if __name__ == "__main__":
    sys.exit(main())

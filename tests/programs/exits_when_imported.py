"""A module that leaves the interpreter when it is imported: a script without a guard."""

import sys

sys.exit("usage: exits_when_imported FILE")

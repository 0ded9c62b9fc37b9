"""Prints as many lines as it is told, as fast as it can."""

import os
import sys

for n in range(int(sys.argv[1])):
    print(f"rank {os.environ['RANK']} line {n} {'.' * 50}")

"""Prints what no text file should hold: invalid UTF-8, NUL bytes, a very long line, lone surrogates, carriage returns."""

import os
import sys

out = sys.stdout.buffer
out.write(b"invalid \xff\xfe utf-8\n")
out.write(b"nul \0\0 bytes\n")
out.write(b"x" * 50_000_000 + b"\n")
out.write(b"\rstep 1\rstep 2\n")
print("surrogate \udcff", file=sys.stderr)
print("done")
assert os.environ["RANK"]

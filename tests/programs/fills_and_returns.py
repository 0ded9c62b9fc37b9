"""Fills the disk of its run folder to the last byte, then returns a value."""

import os


def main():
    with open(os.path.join(os.environ["NB_ELASTIC_RUN_DIR"], "filler"), "ab", buffering=0) as file:
        for size in (65_536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return 7

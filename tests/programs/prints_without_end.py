"""Every rank prints as fast as it can, lines of both streams and one that never ends, until somebody stops it."""

import sys


def main():
    print("begins", flush=True)
    sys.stderr.write("an unfinished line ")
    i = 0
    while True:
        print("step", i, "loss", i * 0.001, "some more words to make a usual line of text")
        if i % 100 == 0:
            sys.stderr.write("x" * 1_000)
        i += 1


main()

"""Prints until the disk of its log is full."""


def main():
    while True:
        print("x" * 1000)

"""Closes its stdout and goes on."""

import os

print("before")
os.close(1)
try:
    print("after")
except OSError as e:
    os.write(2, f"told: {e.errno}\n".encode())

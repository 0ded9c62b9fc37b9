"""Writes to fd 1 and 2 through every layer, from a child process, too."""

import ctypes
import os
import subprocess
import sys

os.write(1, b"os.write\n")
print("print")
sys.stdout.buffer.write(b"buffer\n")
libc = ctypes.CDLL(None)
libc.puts(b"puts")
libc.fflush(None)
os.system("echo system")
subprocess.run([sys.executable, "-c", "print('child')"])
print("without newline", end="")
sys.stderr.write("err\n")
os.write(2, b"os.write err\n")

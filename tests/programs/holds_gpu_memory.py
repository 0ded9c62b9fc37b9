"""Holds a gibibyte of a GPU's memory until it is told to end.

Runs in: a rank of the tests.
"""

import os
import signal
from pathlib import Path

import torch

ballast = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
while not (Path(os.environ["NBE_TEST_FOLDER"]) / "end").exists():
    signal.sigtimedwait([], 0.02)

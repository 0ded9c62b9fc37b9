"""A module that starts a helper process when it is imported."""

import subprocess

_helper = subprocess.Popen(["sleep", "600"])

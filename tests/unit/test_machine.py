"""Which machine this is: asked by signal handlers, which may come in the midst of anything.

A user would lose: a launch, because its supervisor looked around while Python was importing a codec.
"""

from __future__ import annotations

import subprocess
import sys

from nb_elastic import machine

IN_THE_MIDST = (
    "import encodings\nencodings._cache['ascii'] = None\nfrom nb_elastic import machine\nprint(machine.boot_id())"
)
"""What Python's table of codecs has while the codec is imported."""


def test_the_boot_can_be_told_while_a_codec_is_being_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IN_THE_MIDST], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, machine.boot_id()), done.stderr

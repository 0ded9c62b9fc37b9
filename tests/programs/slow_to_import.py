"""A module that takes long to be imported: in Python, or in a child that it waits for."""

import os
import subprocess
import sys
import time

with open(os.path.join(os.environ["SLOW_IMPORT_DIR"], "importing"), "w") as f:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    f.write(str(child.pid))
time.sleep(25)

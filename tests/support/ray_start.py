"""``ray start`` without what no test looks at: a page, log forwarding, autoscaling; and with patience on a busy machine.

Runs in: pretended machines, as ``python -m tests.support.ray_start --block ...``. GCS, raylet and its agents are Ray's own.
With NBE_RAY_CLIENT=1 the server of Ray Client (``ray://``) is started, too: it is one more interpreter on two slow cores.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ray._private import node, services
from ray.scripts import scripts

from nb_elastic.engines.ray_local import lightened

RUNTIME_ENV_PORT = "52367"
PATIENCE_S = 240.0
"""Ray itself gives its raylet half a minute."""


def main() -> None:
    """Start what the command line says."""
    get_node = services.get_node

    def patient(*arguments: Any) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    services.get_node = patient
    # A raylet waits 15 s for its agents' ports, and dies on a busy machine; of this one, too.
    sys.argv.append(f"--runtime-env-agent-port={RUNTIME_ENV_PORT}")
    for name in ("start_log_monitor", "start_monitor"):
        setattr(node.Node, name, lambda *_, **__: None)
    if not os.environ.get("NBE_RAY_CLIENT"):
        node.Node.start_ray_client_server = lambda *_: None
    with lightened(node.Node):
        scripts.main()


if __name__ == "__main__":
    main()

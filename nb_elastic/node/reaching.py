"""Whether this node reaches an address: one TCP connection, opened and closed.

Runs in: the node program.
"""

from __future__ import annotations

import socket

from nb_elastic.errors import ElasticError
from nb_elastic.supervisor import addresses

PATIENCE_S = 2.0


def why_not(endpoint: str) -> str:
    """Why ``ip:port`` can't be reached from here; "" if it can."""
    try:
        host, port = addresses.split_endpoint(endpoint, default_port=0)
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except (ElasticError, OSError) as e:
        return str(e) or type(e).__name__
    return ""

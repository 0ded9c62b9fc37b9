"""What several tests of nodes need.

Runs in: the tests.
"""

from __future__ import annotations

import pytest

from nb_elastic.supervisor import addresses


@pytest.fixture
def endpoint():
    """Address that nobody listens at."""
    with addresses.listen("127.0.0.1") as free:
        port = free.getsockname()[1]
    return f"127.0.0.1:{port}"

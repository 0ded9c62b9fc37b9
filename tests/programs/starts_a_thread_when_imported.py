"""A module that starts a thread when it is imported, as some telemetry and progress libraries do."""

import threading

_thread = threading.Thread(target=threading.Event().wait, daemon=True)
_thread.start()

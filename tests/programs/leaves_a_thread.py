"""A module whose import leaves a thread, as BLAS pools and clients of services do."""

import threading
import time

if threading.current_thread() is threading.main_thread():
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()

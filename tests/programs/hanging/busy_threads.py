"""No hang: three threads that call, raise and generate without pause."""

import threading


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def numbers():
    yield from range(3)


def busy():
    while True:
        fib(8)
        list(map(lambda x: x + 1, numbers()))
        sorted(range(20), key=lambda n: -n)
        try:
            raise ValueError
        except ValueError:
            pass


print("ready", flush=True)
for _ in range(2):
    threading.Thread(target=busy, daemon=True).start()
busy()

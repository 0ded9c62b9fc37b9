"""Uses all that an interpreter does at its end: threads, exit functions, open files, __del__, pools."""

import atexit
import concurrent.futures
import multiprocessing
import os
import sys
import threading
import time


class Last:
    def __del__(self):
        print("deleted", flush=True)


def in_child(x):
    return x + 1


def main():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("pool", pool.map(in_child, [41])[0])


if __name__ == "__main__":
    main()
    last = Last()
    unflushed = open("unflushed.txt", "w")
    unflushed.write("all of it")
    atexit.register(lambda: print("atexit"))
    threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
    executor = concurrent.futures.ThreadPoolExecutor()
    executor.submit(lambda: (time.sleep(0.2), print("executor")))
    multiprocessing.get_context("fork").Process(target=lambda: (time.sleep(0.4), os.write(1, b"process\n"))).start()
    print("end", sys.argv[1:], __name__, __file__.endswith("leaves_like_python.py"))

"""Tells, as JSON in the file OUT_<rank>.json, the size of each library's thread pool, and computes with all of them."""

import json
import os
import sys
import threading

import numpy
import scipy.linalg
import sklearn.cluster
import torch
from threadpoolctl import threadpool_info


def tasks():
    return len(os.listdir("/proc/self/task"))


def pools():
    return sorted(
        (os.path.basename(i["filepath"]), i["num_threads"]) for i in threadpool_info()
    ), torch.get_num_threads()


def computes():
    a = numpy.arange(90_000, dtype=float).reshape(300, 300) % 7 + numpy.eye(300) * 1000
    x = torch.from_numpy(a)
    before = tasks()
    close = [
        numpy.allclose(a @ numpy.linalg.inv(a), numpy.eye(300)),
        numpy.allclose(scipy.linalg.solve(a, a), numpy.eye(300)),
        torch.allclose(x @ torch.linalg.inv(x), torch.eye(300, dtype=x.dtype)),
        float(torch.ones(4_000_000).sum()) == 4_000_000,
        sorted(
            sklearn.cluster.KMeans(2, n_init=1)
            .fit(numpy.repeat([[0.0], [9.0]], 5000, axis=0))
            .cluster_centers_.ravel()
            .round()
            .tolist()
        )
        == [0.0, 9.0],
    ]
    return close, tasks() > before or tasks() > 1


def in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: (torch.ones(4_000_000).sum(), found.append(torch.get_num_threads())))
    thread.start()
    thread.join()
    return found


if __name__ == "__main__":
    told = {"pools": pools(), "in a thread": in_a_thread(), "results": computes()}
    with open(f"OUT_{os.environ.get('RANK', '')}.json", "w") as f:
        json.dump(told, f)

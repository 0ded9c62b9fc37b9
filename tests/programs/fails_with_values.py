"""Fails where a notebook's code holds a number, a secret, and a tensor.

Runs in: a rank of the tests.
"""

import linecache

SOURCE = """import torch
def step(batch, password):
    size = batch.shape[0]
    return size / 0
step(torch.zeros(2, 3), "hunter2")
"""

FILE = "Cell In[7]"
linecache.cache[FILE] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), FILE)
exec(compile(SOURCE, FILE, "exec"), {"__name__": "__main__"})

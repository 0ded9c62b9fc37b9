"""Programs that fail by a mistake of their own, in the many ways in which that looks different."""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading
import traceback

import torch
import torch.distributed as dist

RANK = int(os.environ.get("RANK", 0))


def one_rank_raises_while_others_wait(which="2"):
    dist.init_process_group("gloo")
    if RANK == int(which):
        raise ValueError("bad batch")
    dist.all_reduce(torch.ones(1))


def asserts():
    batch = torch.zeros(3, 4)
    assert batch.shape[0] == 4, f"expected 4 rows, got {batch.shape[0]}"


def key_missing_in_one_ranks_data():
    shards = {0: "train-0.bin"}
    dist.init_process_group("gloo")
    name = shards[RANK]
    dist.barrier()
    return name


def shapes_do_not_fit():
    torch.ones(2, 3) @ torch.ones(4, 5)


def raises_in_a_pool_thread():
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(int, ["1", "two", "3"]))


def thread_dies_and_main_gives_up():
    def load():
        raise ValueError("loader thread broke")

    thread = threading.Thread(target=load, name="loader")
    thread.start()
    thread.join()
    sys.exit(1)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 5:
            raise IndexError(f"row {i} is not in the file")
        return torch.ones(2) * i


def raises_in_a_dataloader_worker():
    for _ in torch.utils.data.DataLoader(Rows(), batch_size=2, num_workers=1):
        pass


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        raise ArithmeticError("no gradient for this")


def raises_in_backward():
    x = torch.ones(3, requires_grad=True)
    Doubles.apply(x).sum().backward()


def exits_with_3():
    sys.exit(3)


def exits_at_once_with_7():
    os._exit(7)


def exits_with_text():
    raise SystemExit("no data found in /data/train")


def raises_a_group():
    raise eval("ExceptionGroup")("two at once", [ValueError("a"), KeyError("b")])


class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def raises_what_cannot_be_said():
    raise Unsayable


def recurses():
    return recurses()


def forgets_to_init():
    dist.all_reduce(torch.ones(1))


def file_is_missing():
    with open(f"/nowhere/shard-{RANK}.bin", "rb") as f:
        return f.read()


def child_program_fails():
    subprocess.run([sys.executable, "-c", "raise SystemExit(4)"], check=True)


def reads_a_closed_socket_of_its_own():
    import socket

    ours, theirs = socket.socketpair()
    theirs.close()
    ours.sendall(b"x" * 100)


def raises_its_own_interrupt():
    raise KeyboardInterrupt


def fails_while_it_handles_a_missing_import():
    try:
        import no_such_accelerator  # noqa: F401
    except ImportError:
        return json.loads("{not json")


def evaluates_a_bad_expression():
    return eval("lr * (1 +")


def hides_its_traceback_and_leaves():
    """Rank 1's own word is only on stderr."""
    if RANK == 1:
        try:
            {}["lr"]
        except KeyError:
            traceback.print_exc()
            os._exit(5)


def raises_in_another_session_after_a_fork():
    """A child that the program forked fails; the program sees that and stops."""
    pid = os.fork()
    if pid == 0:
        os._exit(9)
    _, status = os.waitpid(pid, 0)
    raise RuntimeError(f"the helper ended with {os.waitstatus_to_exitcode(status)}")


def times_out_by_its_own_clock():
    event = threading.Event()
    if not event.wait(0.05):
        raise TimeoutError("the data server did not answer in 0.05 s")


def returns_what_cannot_be_pickled():
    """Not a failure: the result is not kept, that is all."""
    return threading.Lock()


def exits_with_0():
    sys.exit(0)

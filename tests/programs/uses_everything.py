"""Uses what starts, stops and watches processes, each in its own function; prints one line for each that worked."""

import asyncio
import concurrent.futures
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info


class Pair:
    """A class of the script's own main module: what a spawned child returns of it must be this class here."""

    def __init__(self, value):
        self.value = value


class Squares(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.tensor([i * i, get_worker_info().id, os.getppid()])


class Noise(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.rand(1, dtype=torch.float64)


def make_pair(value):
    return Pair(value)


def fill(tensor, queue):
    tensor.fill_(7)
    queue.put(multiprocessing.current_process().name.partition("-")[0])


def uses_multiprocessing(method):
    context = torch.multiprocessing.get_context(method)
    tensor, queue = torch.zeros(1000).share_memory_(), context.SimpleQueue()
    child = context.Process(target=fill, args=(tensor, queue))
    child.start()
    name = queue.get()
    child.join()
    with context.Pool(1) as pool:
        found = pool.map(make_pair, [1, 2])
    return name, child.exitcode, tensor.sum().item(), [type(f) is Pair for f in found], [f.value for f in found]


def uses_dataloader(method):
    rows = torch.cat(list(DataLoader(Squares(), batch_size=2, num_workers=2, multiprocessing_context=method)))
    drawn = torch.cat(list(DataLoader(Noise(), num_workers=2, multiprocessing_context=method)))
    return rows[:, 0].tolist(), sorted(set(rows[:, 1].tolist())), len(set(drawn.flatten().tolist()))


def uses_managers_and_executors():
    with multiprocessing.Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = 2
        kept = dict(shared)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        value = pool.submit(make_pair, 5).result().value
    return kept, value


def uses_subprocess():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.stdin.read() + 'y'); sys.exit(3)"],
        input="x",
        capture_output=True,
        text=True,
    )
    state = subprocess.run(
        ["sh", "-c", "trap - PIPE INT; grep -E 'Sig(Blk|Ign)' /proc/self/status"], capture_output=True, text=True
    ).stdout.split()
    # Signals 32 and 33 are the C library's own: whoever started the tests may have blocked them, and nobody can unblock them.
    state = [word if word.endswith(":") else f"{int(word, 16) & ~(3 << 31):016x}" for word in state]
    return done.stdout, done.returncode, state, os.waitstatus_to_exitcode(os.system("exit 4"))


def uses_asyncio():
    async def talk():
        child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = await child.communicate(b"through cat")
        loop = asyncio.get_running_loop()
        got = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, got.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(got.wait(), 60)
        return out, child.returncode, await loop.run_in_executor(None, sum, (1, 2))

    return asyncio.run(talk())


def uses_signals():
    told = []
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        told.append("KeyboardInterrupt")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
        before = signal.signal(number, lambda n, _frame: told.append(signal.Signals(n).name))
        told.append(before.name)
        os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_DFL)
    r, w = os.pipe()
    os.close(r)
    try:
        os.write(w, b"x")
    except BrokenPipeError:
        told.append("BrokenPipeError")
    r, w = os.pipe()
    os.set_blocking(w, False)
    told.append(signal.set_wakeup_fd(w))
    signal.signal(signal.SIGUSR2, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR2)
    told.append(os.read(r, 9) == bytes([signal.SIGUSR2]))
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGALRM, lambda *_: told.append("alarm"))
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while told[-1] != "alarm":
        time.sleep(0.001)
    return told[:-1]


def uses_faulthandler():
    ended = threading.Event()
    with open("traceback.txt", "w") as f:
        faulthandler.dump_traceback_later(0.01, file=f, exit=False)
        while "uses_faulthandler" not in open("traceback.txt").read():
            ended.wait(0.01)
    faulthandler.cancel_dump_traceback_later()
    faulthandler.register(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    faulthandler.unregister(signal.SIGUSR1)
    return faulthandler.is_enabled()


def finds_a_module_written_just_now():
    with open("written_just_now.py", "w") as f:
        f.write("word = 'found'\n")
    import importlib

    importlib.invalidate_caches()
    sys.path.insert(0, os.getcwd())
    import written_just_now

    import written_before

    return written_just_now.word, written_before.word


def forks():
    pid = os.fork()
    if pid == 0:
        torch.ones(300, 300) @ torch.ones(300, 300)
        os._exit(6)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main():
    tell("signals", uses_signals())
    tell("subprocess", uses_subprocess())
    tell("asyncio", uses_asyncio())
    tell("faulthandler", uses_faulthandler())
    tell("module", finds_a_module_written_just_now())
    tell("fork", forks())
    tell("managers", uses_managers_and_executors())
    for method in ("fork", "spawn", "forkserver"):
        tell(f"multiprocessing {method}", uses_multiprocessing(method))
        tell(f"dataloader {method}", uses_dataloader(method))


def tell(name, value):
    print(name, value, sep=": ", flush=True)


if __name__ == "__main__":
    main()

"""The kernel driver shows what a notebook shows: text in order, errors, interrupts."""

from __future__ import annotations

from tests.support.kernel import Kernel


def test_a_real_kernel_runs_fails_and_is_interrupted():
    with Kernel() as kernel:
        done = kernel.ok("print('one')\n2")
        failed = kernel.run("1/0")
        running = kernel.start("import time\nprint('here', flush=True)\ntime.sleep(60)")
        kernel.wait_for(running, "here")
        kernel.interrupt()
        stopped = kernel.wait(running)
        alive = kernel.ok("print('alive')")
    assert [done.text, failed.error, stopped.reply["ename"], alive.stdout] == [
        "one\n2",
        "ZeroDivisionError: division by zero",
        "KeyboardInterrupt",
        "alive\n",
    ]

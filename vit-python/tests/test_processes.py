"""Threads, forks, new processes, signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import FASHION, GOLDENS, SAMPLES
from numpy.typing import NDArray

import vit_engine as vit


def pixels(batch: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((batch, 1, 28, 28), np.float32)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_eight_threads_get_the_bits_of_one(threads: int) -> None:
    model, alone = vit.load(FASHION, threads=threads), vit.load(FASHION, threads=1)
    x = pixels(8)
    want = {(n, f): alone(x[:n], features=f) for n in [1, 3, 8] for f in ["logits", "patches", "layer:2"]}
    start = threading.Barrier(8)

    def calls(worker: int) -> None:
        start.wait()
        for i in range(40):
            n, f = list(want)[(worker + i) % len(want)]
            assert np.array_equal(model(x[:n], features=f), want[n, f])
            if i % 10 == 0:
                assert model.classify(SAMPLES[0]) == model.classify(SAMPLES[0])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))


def test_the_gil_is_released() -> None:
    model = vit.load(FASHION, threads=1)
    x = pixels(400)
    counted, done = 0, threading.Event()

    def call() -> None:
        model(x, features="patches")
        done.set()

    thread = threading.Thread(target=call)
    thread.start()
    while not done.is_set():
        counted += 1
        time.sleep(0.001)
    thread.join()
    # One call takes 100 ms and more; with the GIL held all the while, at most a few steps are made.
    assert counted > 20


def test_embeddings_leave_room_for_calls() -> None:
    model = vit.load(FASHION, threads=1)
    x, finished = pixels(1), threading.Event()
    want = model(x)

    def embed() -> None:
        model.embed(SAMPLES * 200, batch=4)
        finished.set()

    thread = threading.Thread(target=embed)
    thread.start()
    assert np.array_equal(model(x), want)
    assert not finished.is_set()
    thread.join()


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_forked_child_makes_its_own_threads() -> None:
    done = run(
        """
        import os, sys, threading, time
        import numpy as np
        import vit_engine as vit

        model = vit.load(sys.argv[1], threads=4)
        x = np.random.default_rng(3).standard_normal((64, 1, 28, 28), np.float32)
        want = model(x)
        stop = False

        def compute():
            while not stop:
                model(x)

        thread = threading.Thread(target=compute)
        thread.start()
        for round in range(10):
            time.sleep(0.01 * round)
            child = os.fork()
            if child == 0:
                same = np.array_equal(model(x), want) and model(x, features="patches").shape == (64, 49, 64)
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if np.array_equal(model(x), want) else 3)
                _, status = os.waitpid(grandchild, 0)
                del model  # its threads end here
                os._exit(2 if not same else os.waitstatus_to_exitcode(status))
            start = time.monotonic()
            while True:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - start > 10:
                    os.kill(child, 9)
                    sys.exit("the child hangs")
                time.sleep(0.005)
            if os.waitstatus_to_exitcode(status) != 0:
                sys.exit(f"the child ended with {os.waitstatus_to_exitcode(status)}")
        stop = True
        thread.join()
        assert np.array_equal(model(x), want)
        """,
        FASHION,
    )
    assert done.returncode == 0, done.stderr


def test_a_fork_while_another_thread_looks_up_a_size() -> None:
    done = run(
        """
        import os, sys, threading, time
        import numpy as np
        import vit_engine as vit

        model = vit.load(sys.argv[1], threads=2)
        size = model.config.patch_size[0]
        def call(rows):
            return model(np.ones((1, 3, size * rows, size * 2), np.float32), features="class")

        want = {rows: call(rows) for rows in (2, 3, 5)}
        stop = False

        def compute():
            while not stop:
                call(3)

        threads = [threading.Thread(target=compute) for _ in range(3)]
        for thread in threads:
            thread.start()
        for rows in range(6, 60):
            child = os.fork()
            if child == 0:
                # Known sizes, and one that is new.
                same = all(np.array_equal(call(rows), y) for rows, y in want.items())
                os._exit(0 if same and np.isfinite(call(rows)).all() else 2)
            start = time.monotonic()
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() - start > 10:
                    os.kill(child, 9)
                    sys.exit("the child hangs")
                time.sleep(0.001)
        stop = True
        for thread in threads:
            thread.join()
        """,
        GOLDENS / "dinov2-model",
    )
    assert done.returncode == 0, done.stderr


def test_a_child_that_does_not_use_the_model_ends() -> None:
    done = run(
        """
        import os, sys
        import numpy as np
        import vit_engine as vit

        model = vit.load(sys.argv[1], threads=4)
        model(np.zeros((2, 1, 28, 28), np.float32))
        child = os.fork()
        if child == 0:
            del model  # threads that are not there are not waited for
            sys.exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        FASHION,
    )
    assert done.returncode == 0, done.stderr


def logits_of(model: vit.Model, seed: int) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal((2, 1, 28, 28), np.float32)
    return model(x)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_processes(method: str, fashion: vit.Model) -> None:
    want = [logits_of(fashion, seed) for seed in range(4)]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        got = pool.map(logits_of, [fashion] * 4, range(4), timeout=60)
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


LONG = """
import os, signal, sys, threading, time
import numpy as np
import vit_engine as vit

# What was started in the background ignores SIGINT, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
model = vit.load(sys.argv[1], threads=int(sys.argv[2]))
pictures = [np.zeros((280, 280), np.uint8)] * 100_000
x = np.zeros((20_000, 1, 28, 28), np.float32)
want = model(x[:3])
sent = 0.0

def interrupt():
    global sent
    time.sleep(0.7)
    sent = time.monotonic()
    os.kill(os.getpid(), signal.SIGINT)

for _ in range(3):
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        {call}
    except KeyboardInterrupt:
        took = time.monotonic() - sent
    else:
        sys.exit("it ended before it was interrupted")
    thread.join()
    print(took)
    assert np.array_equal(model(x[:3]), want), "other numbers after an interruption"
    assert len(model.embed(pictures[:5]).kept) == 5
"""


CALLS = ["model.embed(pictures)", "model(x, features='patches')", "model.preprocess(pictures)"]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c(call: str, threads: int) -> None:
    done = run(LONG.replace("{call}", call), FASHION, str(threads))
    assert done.returncode == 0, done.stdout + done.stderr
    took = [float(line) for line in done.stdout.split()]
    assert len(took) == 3
    # The median, for a machine that is busy with other work.
    assert sorted(took)[1] < 0.2, took


def test_a_handler_that_does_not_raise_stops_nothing() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: calls.append(number))
    try:
        model = vit.load(FASHION, threads=1)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        e = model.embed(SAMPLES * 100)
        timer.join()
        assert len(e.kept) == 100 * len(SAMPLES)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_thread_of_a_model_that_is_gone() -> None:
    for _ in range(20):
        model = vit.load(GOLDENS / "timm-token", threads=3)
        model.plan()
        del model
    model = vit.load(FASHION, threads=3)
    results = []
    thread = threading.Thread(target=lambda model: results.append(model(pixels(200))), args=(model,))
    thread.start()
    del model
    thread.join()
    assert results[0].shape == (200, 10)

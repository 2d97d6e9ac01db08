"""The race's side of a worker process: pins it, stops it between its turns, sends requests line by line."""

import json
import os
import select
import signal
import subprocess
import tempfile

# Seconds to wait for an answer; even a slow machine takes less.
PATIENCE = 600


class WorkerError(Exception):
    """Why a worker failed."""


class Worker:
    """An engine in its own process, on the given cores. It is stopped, except within `with worker:`."""

    def __init__(self, command, cores):
        threads = str(len(cores))
        names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "RTEN_NUM_THREADS", "CANDLE_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        self.log = tempfile.TemporaryFile("w+")
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # A new process inherits it.
        try:
            # With its own process group, the kernel ends even a stopped worker when the race is killed.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                env=environment,
                process_group=0,
                bufsize=0,
            )
        finally:
            os.sched_setaffinity(0, allowed)
        self.unread = b""
        try:
            self.ready = self._answer()
        except BaseException:
            self.kill()
            raise
        self._signal(signal.SIGSTOP)

    def __enter__(self):
        self._signal(signal.SIGCONT)
        return self

    def __exit__(self, *_):
        self._signal(signal.SIGSTOP)

    def run(self, count):
        """Runs the model `count` times; returns the milliseconds of each run."""
        return self._ask(f"run {count}")["ms"]

    def save_output(self, path):
        """Writes the last run's output as a .npy."""
        self._ask(f"output {path}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()

    def _signal(self, which):
        if self.process.poll() is None:
            self.process.send_signal(which)

    def _ask(self, request):
        try:
            self.process.stdin.write(f"{request}\n".encode())
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        return self._answer()

    def _answer(self):
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
                raise WorkerError(f"no answer for {PATIENCE} s")
            read = self.process.stdout.read(1 << 16)
            if not read:
                raise WorkerError(self._last_words())
            self.unread += read
        line, _, self.unread = self.unread.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            raise WorkerError(f"the answer is not JSON: {line[:80]!r}") from None
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self):
        code = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"{how}: {lines[-1]}" if lines else how

"""A line on a terminal that says how far a run is."""

import sys
import time


class Bar:
    """Shows how many pictures are done, on stderr if that is a terminal, else nowhere."""

    def __init__(self) -> None:
        """Take the time."""
        self.start = time.monotonic()
        self.shown = 0.0
        # A program without a console has no stderr.
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self.dirty = False

    def __call__(self, done: int, total: int) -> None:
        """Show the numbers, at most ten times a second, and the last."""
        now = time.monotonic()
        if not self.is_terminal or (now - self.shown < 0.1 and done < total):
            return
        self.shown, self.dirty = now, True
        seconds = max(now - self.start, 1e-9)
        left = (total - done) * seconds / max(done, 1)
        sys.stderr.write(f"\r\x1b[K{done}/{total} pictures  {done / seconds:.1f}/s  {left:.0f} s left")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line."""
        if self.dirty:
            sys.stderr.write("\n")
            sys.stderr.flush()

"""Times the engines in turns: every round gives each engine one turn."""

import math
import statistics
import time

from process import WorkerError

# The length of a turn in seconds, and its fewest runs.
TURN_S = 0.3
FEWEST_RUNS = 3
# The pause between turns, so that threads of the last engine have come to rest.
PAUSE_S = 0.1
# Even if the race is short.
FEWEST_ROUNDS = 3


class Entry:
    """An engine in the race, and its times."""

    def __init__(self, name, worker):
        self.name, self.worker = name, worker
        self.difference = self.cosine = self.agrees = None  # To, of and with PyTorch's output; None until checked.
        self.error = None  # Why it left the race.
        self.runs = FEWEST_RUNS
        self.rounds = []  # For each round, the milliseconds of its runs.

    def times(self):
        return [ms for turn in self.rounds for ms in turn]

    def calibrate(self):
        """Sets the number of runs that fill a turn."""
        with self.worker:
            self.worker.run(1)
            ms = statistics.median(self.worker.run(FEWEST_RUNS))
            warm = self.worker.run(max(1, int(TURN_S * 1e3 / ms)))
        self.runs = max(FEWEST_RUNS, math.ceil(TURN_S * 1e3 / statistics.median(warm)))

    def turn(self):
        with self.worker:
            # Untimed: a tenth of a turn refills the caches and wakes the threads.
            self.worker.run(math.ceil(self.runs / 10))
            self.rounds.append(self.worker.run(self.runs))


def race(entries, seconds):
    """Runs rounds until every engine has been timed for `seconds`. An engine that fails leaves the race."""

    def each(act, order):
        for entry in order:
            if entry.error is None:
                try:
                    act(entry)
                except WorkerError as error:
                    entry.error = str(error)
                time.sleep(PAUSE_S)

    def unfinished():
        return any(e.error is None and sum(e.times()) < seconds * 1e3 for e in entries)

    each(Entry.calibrate, entries)
    number = 0
    while unfinished() or number < FEWEST_ROUNDS:
        # A different engine starts each round; every second round runs in reverse, so that neighbours change.
        first = number % len(entries)
        order = entries[first:] + entries[:first]
        each(Entry.turn, order[:: -1 if number % 2 else 1])
        number += 1


def ratio_by_rounds(entry, to):
    """How many times as long as another engine it takes: the median over the rounds of the ratio of their medians.
    Within a round, the machine's speed changes little."""
    pairs = zip(entry.rounds, to.rounds)
    return statistics.median(statistics.median(mine) / statistics.median(other) for mine, other in pairs)


def percentile(values, percent):
    values = sorted(values)
    return values[(len(values) - 1) * percent // 100]

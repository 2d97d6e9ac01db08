"""Turns: all engines in every round, one at a time."""

import math
import statistics
import time

from process import WorkerError

# A turn lasts about that long, and has at least so many runs.
TURN_S = 0.3
FEWEST_RUNS = 3
# Between turns, so that what the last one left running has come to rest.
PAUSE_S = 0.1
# However short a race is.
FEWEST_ROUNDS = 3


class Entry:
    """An engine that takes part, and its times."""

    def __init__(self, name, worker):
        self.name, self.worker = name, worker
        self.difference = self.agrees = None  # With PyTorch, once it is checked.
        self.error = None  # Why it has left the race.
        self.runs = FEWEST_RUNS
        self.rounds = []  # Milliseconds: a list of runs a round.

    def times(self):
        return [ms for turn in self.rounds for ms in turn]

    def calibrate(self):
        """Finds out how many runs fill a turn."""
        with self.worker:
            self.worker.run(1)
            ms = statistics.median(self.worker.run(FEWEST_RUNS))
            warm = self.worker.run(max(1, int(TURN_S * 1e3 / ms)))
        self.runs = max(FEWEST_RUNS, math.ceil(TURN_S * 1e3 / statistics.median(warm)))

    def turn(self):
        with self.worker:
            # The others had the caches since; a tenth of a turn brings them and the threads back.
            self.worker.run(math.ceil(self.runs / 10))
            self.rounds.append(self.worker.run(self.runs))


def race(entries, seconds):
    """Rounds until every engine has been timed for that long. One that fails is left out from then on."""

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
        # Everyone starts a round once, and in every second one everyone has other neighbours.
        first = number % len(entries)
        order = entries[first:] + entries[:first]
        each(Entry.turn, order[:: -1 if number % 2 else 1])
        number += 1


def ratio_by_rounds(entry, to):
    """How many times as long as another it takes: the median over the rounds, in each of which both saw much the same
    machine, of the ratio of their medians."""
    pairs = zip(entry.rounds, to.rounds)
    return statistics.median(statistics.median(mine) / statistics.median(other) for mine, other in pairs)


def percentile(values, percent):
    values = sorted(values)
    return values[(len(values) - 1) * percent // 100]

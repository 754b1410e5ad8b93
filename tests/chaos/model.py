"""Which versions may answer, at each moment: what the one who deploys says before and after each step.
The clients hold every answer against it. One thread writes, any reads."""

import threading
import time


class Serving:
    """may({3, 4}) from now on; allowed(begin, end): what was allowed at any moment between."""

    def __init__(self):
        self.lock = threading.Lock()
        self.steps = [(0.0, frozenset())]

    def may(self, versions):
        with self.lock:
            self.steps.append((time.monotonic(), frozenset(versions)))
            if len(self.steps) > 4000:
                del self.steps[:2000]

    def now(self):
        with self.lock:
            return self.steps[-1][1]

    def allowed(self, begin, end):
        with self.lock:
            out, at = set(), len(self.steps) - 1
            while at >= 0:
                since, versions = self.steps[at]
                if since <= end:
                    out |= versions
                if since <= begin:
                    break
                at -= 1
            return out


class Shelf:
    """The files that were deployed, by number and by hash, and what has become of each."""

    def __init__(self):
        self.number = 0
        self.sha = {}          # number -> SHA-256
        self.quarantined = set()
        self.good = []         # numbers that have been fully active, in their order

    def add(self, sha):
        self.number += 1
        self.sha[self.number] = sha
        return self.number

    def of(self, text):
        """The number of an id or a SHA-256; None."""
        return next((n for n in range(self.number, 0, -1) if self.sha[n][:12] == text[:12]), None)

    def served(self, number):
        self.quarantined.discard(number)
        if number in self.good:
            self.good.remove(number)
        self.good.append(number)

    def barred(self, number):
        self.quarantined.add(number)
        if number in self.good:
            self.good.remove(number)

"""Engines as harness/run/worker.py takes them: this file imports NumPy and nothing of the project."""

import os
import signal
import sys
import time

import numpy as np


class Doubling:
    """Shows what it makes of its noise in two steps of each unit, and goes on with what `show` returns."""

    def __init__(self, checkpoint, numerics):
        self.folder = checkpoint.folder
        self.numerics = numerics

    def describe(self):
        return {"version": "1", "checkpoint": str(self.folder), "dtype": str(self.numerics.dtype)}

    def sites(self):
        return ["input.noise", "velocity", "latent"]

    def session(self, scenario):
        for unit in range(scenario.units):
            x = np.asarray(scenario.tensors["noise"][unit])
            for step in range(2):
                yield unit, "denoise", step, 1.0 - step / 2
                self.before(unit, step)
                x = self.show("input.noise", x) if step == 0 else x
                x = self.show("latent", x + self.show("velocity", x))

    def before(self, unit, step):
        pass


class Branching(Doubling):
    """Two branches in one pass."""

    def session(self, scenario):
        yield 0, "denoise", 0, None, ("with", "without")
        self.show("velocity", {"with": np.ones(3, np.float32), "without": np.zeros(3, np.float32)})
        self.show("latent", [np.ones(2, np.int64), np.zeros(2, np.int64)])


class OneByOne(Doubling):
    """A number, a boolean array, half precision, and a picture."""

    def session(self, scenario):
        yield 0, "denoise", 0
        self.show("velocity", 3)
        self.show("latent", np.array([[True, False]]))
        self.show("input.noise", np.float16([0.5, 1e-7]))


class Printing(Doubling):
    def before(self, unit, step):
        print("a word on standard output")
        os.write(1, b"and one from C\n")


class Stubborn(Doubling):
    """It takes no value in the place of its own."""

    def sites(self):
        return {name: (None, lambda output, inputs: output) for name in super().sites()}


class Unwilling(Doubling):
    """It fails of what is put in the place of a value."""

    def sites(self):
        def refuse(official, output):
            raise KeyboardInterrupt

        return {name: (None, lambda output, inputs: output, refuse) for name in super().sites()}


class Failing(Doubling):
    def before(self, unit, step):
        if unit == 1:
            raise RuntimeError("out of memory")


class Leaving(Doubling):
    def before(self, unit, step):
        sys.exit(0)


class Gone(Doubling):
    def before(self, unit, step):
        print("the last word", file=sys.stderr)
        sys.stderr.flush()
        os._exit(0)


class Killed(Doubling):
    def before(self, unit, step):
        os.kill(os.getpid(), signal.SIGKILL)


class Stopped(Doubling):
    def before(self, unit, step):
        os.kill(os.getpid(), signal.SIGSTOP)


class Hanging(Doubling):
    def before(self, unit, step):
        time.sleep(60)


class Misspelling(Doubling):
    def before(self, unit, step):
        self.show("latnt", np.zeros(1))


class Wordy(Doubling):
    def before(self, unit, step):
        self.show("latent", "a word")


class Odd(Doubling):
    def session(self, scenario):
        yield "first", 0


class NoSession(Doubling):
    def session(self, scenario):
        return None


class Interrupting(Doubling):
    def before(self, unit, step):
        raise KeyboardInterrupt

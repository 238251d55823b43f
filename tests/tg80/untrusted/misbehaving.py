"""Readers of a file that do what libhdf5 does on some damaged ones."""

import os
import signal


def crash(path: str) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def loop(path: str) -> None:
    while True:
        pass


def eat(path: str) -> bytes:
    return bytes(1 << 40)

"""The engine's program with a dirty log that it takes and never marks: what a test of the log must catch."""

import sys

from ringblk.engine.dispatcher.dispatcher import Dispatcher
from ringblk.engine.program.cli import backend_program

PROGRAM = (sys.executable, "-P", __file__)  # not with the rigs among the modules

if __name__ == "__main__":
    Dispatcher._set_log = lambda *_: None  # type: ignore[method-assign]
    backend_program()

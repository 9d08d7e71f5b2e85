"""The engine's program with workers that end soon after their last request, for tests of coming and going."""

import sys

from ringblk.engine.program.cli import backend_program
from ringblk.engine.supervisor import workforce

PROGRAM = (sys.executable, "-P", __file__)  # not with the rigs among the modules
IDLE_S = 0.002

if __name__ == "__main__":
    workforce.WORKER_IDLE_S = IDLE_S
    backend_program()

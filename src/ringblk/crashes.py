"""Power failures for tests: record what any program does to its files, then make what may be left.

    with RecordedFolder(folder, record) as recorded:
        ...                                # any programs use the files in the folder
        recorded.mark("order 7 is kept")   # once one of them has said so
    for state in Recording.read(record).states(1000):
        state.make(target)                 # a folder as it may be found after a power failure
        ...                                # look at it: all that `state.marks` names must be there

docs/crashes.md has the fault model. `python -m ringblk.crashes` is `ringblk crashes`; the fixture
`recorded_folder` is in `ringblk.engine.crashes.fixture`.
"""

from ringblk.engine.crashes.history import Mark
from ringblk.engine.crashes.recorded_folder import CannotRecord, RecordedFolder
from ringblk.engine.crashes.states import Recording, State

__all__ = ["CannotRecord", "Mark", "RecordedFolder", "Recording", "State"]

if __name__ == "__main__":
    import sys

    from ringblk.engine.program.cli import main

    sys.argv[1:1] = ["crashes"]
    main()

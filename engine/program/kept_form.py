"""What a program must have in common with another to go on with its drives.

Imports all that such programs keep and say: not before a zygote is forked.
"""

import msgspec

from ringblk.engine.base.digest import short_digest
from ringblk.engine.dispatcher.messages import FromDispatcher, FromOrphan, ToDispatcher
from ringblk.engine.drives.kept_drive import KeptDrive
from ringblk.engine.options.config import EngineConfig
from ringblk.engine.program.adoption import Form
from ringblk.engine.supervisor.kept_processes import KeptProcesses
from ringblk.engine.zygote.messages import FromZygote, ToZygote
from ringblk.shm.state.segment import LAYOUT_VERSION
from ringblk.workers.process.messages import ToWorker

KEPT_FORM = 1
"""Raised where what is kept or said comes to mean something else, though its types stay."""
_TYPES = (
    EngineConfig,
    KeptProcesses,
    KeptDrive,
    ToDispatcher,
    FromDispatcher,
    FromOrphan,
    ToWorker,
    ToZygote,
    FromZygote,
)


def current_form() -> Form:
    """That of this program: takes some milliseconds."""
    described = "\n".join(map(repr, msgspec.inspect.multi_type_info(_TYPES)))
    return Form(kept=KEPT_FORM, segment=LAYOUT_VERSION, types=short_digest(described.encode()))

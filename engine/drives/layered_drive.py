"""Which drives have layers: the others' engines load nothing of them."""

from typing import TYPE_CHECKING

from ringblk.engine.drives.changes import DriveChanges
from ringblk.engine.drives.plan import DrivePlan
from ringblk.engine.supervisor.drive_processes import DriveProcesses

if TYPE_CHECKING:
    from ringblk.engine.drives.layer_turns import LayerTurns
    from ringblk.engine.drives.layers import DriveLayers


def layers_of(plan: DrivePlan, processes: DriveProcesses, changes: DriveChanges) -> "DriveLayers | None":
    """A drive's layers; None: it is no copy-on-write drive."""
    layered = plan.backend.layered
    if layered is None:
        return None
    from ringblk.engine.drives.layers import DriveLayers  # only for those drives

    def reserve_files(count: int) -> None:
        workers = processes.worker_count or plan.config.workers
        plan.open_files.reserve(plan.name, workers, plan.config.num_queues, count)

    return DriveLayers(layered, plan.config.direct, processes, changes, reserve_files, plan.hold)


def layer_turns_of(
    plan: DrivePlan, processes: DriveProcesses, changes: DriveChanges, layers: "DriveLayers | None"
) -> "LayerTurns | None":
    """What is done with them when its guest moves."""
    layered = plan.backend.layered
    if layered is None or layers is None:
        return None
    from ringblk.engine.drives.layer_turns import LayerTurns  # only for those drives

    return LayerTurns(layered, plan.config.direct, layers, processes, plan.hold, changes)

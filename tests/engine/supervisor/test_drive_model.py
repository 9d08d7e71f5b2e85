"""What a new process is told of a drive."""

from ringblk.engine.supervisor.drive_model import DriveModel
from ringblk.shm.memory.region import MemoryRegion
from ringblk.shm.sync.channel import MAX_FDS
from ringblk.workers.process.messages import MapRegions

PAGE = 4096


def test_no_message_to_a_worker_is_ahead_of_the_regions_that_it_was_told() -> None:
    """It may serve between two of them: a request's epoch tells it to read on."""
    model = DriveModel()
    count = 2 * MAX_FDS + 2
    for place in range(count):
        model.new_region(MemoryRegion(place * PAGE, PAGE, place * PAGE, 0), fd=-1)
    model.regions[0] = model.regions.pop(0)  # as custody may give them back
    del model.regions[count - 1]  # the newest is gone: requests may still carry its epoch
    told: set[int] = set()
    said_epoch = 0
    for message, fds in model.worker_setup():
        assert isinstance(message, MapRegions)
        assert len(fds) == len(message.regions) <= MAX_FDS
        told |= {added.epoch for added in message.regions}
        said_epoch = max(said_epoch, message.epoch, *(added.epoch for added in message.regions), 0)
        there = {mapped.message.epoch for mapped in model.regions.values()}
        assert {epoch for epoch in there if epoch <= said_epoch} <= told
    assert said_epoch == model.epoch == count
    assert len(told) == count - 1


def test_a_worker_is_told_nothing_of_no_memory() -> None:
    assert DriveModel().worker_setup() == []

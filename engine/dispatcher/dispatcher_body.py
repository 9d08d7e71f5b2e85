"""The body of a dispatcher process, from what it may do to its loop."""

from ringblk.engine.dispatcher.dispatcher import Dispatcher
from ringblk.engine.dispatcher.dispatcher_setup import DispatcherSetup
from ringblk.engine.dispatcher.messages import ToDispatcher
from ringblk.shm.sync.channel import Channel


def run_dispatcher(setup: DispatcherSetup, channel: Channel[ToDispatcher]) -> None:
    """The body of a dispatcher process."""
    setup.confinement.privileges.drop()
    if setup.inline_limit_ns:
        setup.backend.start_dispatcher()
    if setup.confinement.privileges.confines:
        setup.backend.confine_process()
    setup.confinement.confine(setup.ruleset_fd)
    Dispatcher(setup, channel).run()

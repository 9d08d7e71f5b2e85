"""A model of a tree against a shared folder, through the driver's side, with queues, kills and reconnects.

Fault model: SIGKILL of one or all of the drive's processes just before a request, a front end that goes and
another one that begins anew. Each request is answered as the model says, once, and in the end the host's
folder is the model's tree. Files that have lost their last name are used as long as the guest knows them.
"""

import contextlib
import errno
import os
import shutil
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.rigs.share import ROOT, SETATTR, Entry, ShareError, ShareFrontend, share_engine
from tests.stress.counts import counts

NAMES = st.sampled_from(["a", "b", "c", "ü", "n" * 255])
SIZES = st.sampled_from([0, 1, 4095, 4096, 70_000])
OFFSETS = st.sampled_from([0, 1, 4096, 10_000])
DIR, FILE, LINK = "dir", "file", "link"


class Node:
    """One inode of the model; `node_id` and `count` are what the guest knows of it."""

    def __init__(self, kind: str, content: bytes = b"") -> None:
        self.kind = kind
        self.content = content
        self.children: dict[str, Node] = {}
        self.name_count = 1
        self.node_id = 0
        self.count = 0

    def learn(self, entry: Entry) -> None:
        assert self.node_id in (0, entry.node_id)
        self.node_id = entry.node_id
        self.count += 1


class ShareMachine(RuleBasedStateMachine):
    """One engine for all examples; each begins with an empty folder and a new front end."""

    engine: Any
    folder: Path

    @initialize(queue_index=st.sampled_from([1, 2]))
    def begin(self, queue_index: int) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        counts["examples"] += 1
        self.root = Node(DIR)
        self.nameless: list[Node] = []
        self.guest = ShareFrontend(self.engine, queue_count=3)
        self.guest.queue_index = queue_index
        self.root.node_id = ROOT

    # What the model has.

    def nodes(self, kind: str = "") -> list[Node]:
        """All that have a name, the root first."""
        found, waiting = [], [self.root]
        while waiting:
            node = waiting.pop(0)
            if node not in found:
                found.append(node)
                waiting += node.children.values()
        return [node for node in found if not kind or node.kind == kind]

    def id_of(self, node: Node) -> int:
        """Its node id, looked up where the guest does not know it."""
        if not node.node_id:
            for parent in self.nodes(DIR):
                for name, child in parent.children.items():
                    if child is node:
                        node.learn(self.guest.lookup(name, self.id_of(parent)))
                        return node.node_id
        return node.node_id

    def is_below(self, node: Node, folder: Node) -> bool:
        return node is folder or any(self.is_below(node, child) for child in folder.children.values())

    def lose_name(self, node: Node) -> None:
        node.name_count -= 1
        if node.name_count == 0 and node.kind == FILE and node.node_id:
            self.nameless.append(node)

    def expect(self, expected: int, ask: Callable[[], Any]) -> Any:
        """Ask for something that is to be answered so."""
        result, answered = None, 0
        counts["requests"] += 1
        try:
            result = ask()
        except ShareError as error:
            answered = error.errno or 0
        assert answered == expected, f"{answered} instead of {expected}"
        return result

    def pick(self, data: st.DataObject, kind: str = "") -> Node:
        return data.draw(st.sampled_from(self.nodes(kind)))

    # What the guest asks for.

    @rule(data=st.data(), name=NAMES, kind=st.sampled_from([DIR, FILE, LINK]))
    def make(self, data: st.DataObject, name: str, kind: str) -> None:
        parent = self.pick(data, DIR)
        parent_id = self.id_of(parent)
        asks = {
            DIR: lambda: self.guest.mkdir(name, parent_id),
            FILE: lambda: self.guest.create(name, parent_id),
            LINK: lambda: self.guest.symlink(name, "to nowhere", parent_id),
        }
        entry = self.expect(errno.EEXIST if name in parent.children else 0, asks[kind])
        if entry is not None:
            parent.children[name] = node = Node(kind, b"to nowhere" if kind == LINK else b"")
            node.learn(entry)

    @precondition(lambda self: len(self.nodes(FILE)) > 0)
    @rule(data=st.data(), name=NAMES)
    def link(self, data: st.DataObject, name: str) -> None:
        parent, node = self.pick(data, DIR), self.pick(data, FILE)
        ids = self.id_of(node), self.id_of(parent)
        expected = errno.EEXIST if name in parent.children else 0
        entry = self.expect(expected, lambda: self.guest.link(ids[0], name, ids[1]))
        if entry is not None:
            node.learn(entry)
            node.name_count += 1
            parent.children[name] = node
            assert entry.attr.nlink == node.name_count

    @rule(data=st.data(), name=NAMES)
    def remove(self, data: st.DataObject, name: str) -> None:
        parent = self.pick(data, DIR)
        node, parent_id = parent.children.get(name), self.id_of(parent)
        if node is not None and node.kind == DIR:
            expected = errno.ENOTEMPTY if node.children else 0
            self.expect(expected, lambda: self.guest.rmdir(name, parent_id))
        else:
            expected = 0 if node else errno.ENOENT
            self.expect(expected, lambda: self.guest.unlink(name, parent_id))
        if not expected and node is not None:
            del parent.children[name]
            self.lose_name(node)

    @rule(data=st.data(), name=NAMES, new_name=NAMES)
    def rename(self, data: st.DataObject, name: str, new_name: str) -> None:
        parent, new_parent = self.pick(data, DIR), self.pick(data, DIR)
        node, there = parent.children.get(name), new_parent.children.get(new_name)
        if node is not None and self.is_below(new_parent, node):
            return  # which no guest asks for
        if there is not None and there is not node and self.is_below(parent, there) and there.kind == DIR:
            return
        ids = self.id_of(parent), self.id_of(new_parent)
        expected = 0
        if node is None:
            expected = errno.ENOENT
        elif there is not None and there is not node:
            if node.kind == DIR and there.kind != DIR:
                expected = errno.ENOTDIR
            elif node.kind != DIR and there.kind == DIR:
                expected = errno.EISDIR
            elif there.children:
                expected = errno.ENOTEMPTY
        self.expect(expected, lambda: self.guest.rename(name, new_name, *ids))
        if expected or node is None or there is node:
            return  # two names of one file stay
        del parent.children[name]
        new_parent.children[new_name] = node
        if there is not None:
            self.lose_name(there)

    @rule(data=st.data(), offset=OFFSETS, size=SIZES)
    def write_and_read(self, data: st.DataObject, offset: int, size: int) -> None:
        files = self.nodes(FILE) + self.nameless
        if not files:
            return
        node = data.draw(st.sampled_from(files))
        node_id, text = self.id_of(node), os.urandom(16) * (size // 16 + 1)
        assert self.guest.write(node_id, text[:size], offset) == size
        if size:
            content = node.content.ljust(offset, b"\0")
            node.content = content[:offset] + text[:size] + content[offset + size :]
        assert self.guest.read(node_id, 1 << 18) == node.content
        assert self.guest.getattr(node_id).size == len(node.content)

    @rule(data=st.data(), size=SIZES)
    def cut(self, data: st.DataObject, size: int) -> None:
        files = self.nodes(FILE) + self.nameless
        if files:
            node = data.draw(st.sampled_from(files))
            fields = struct.pack("<IIQQ64x", 8, 0, 0, size)
            self.guest.ask(SETATTR, self.id_of(node), fields, room=104)
            node.content = node.content[:size].ljust(size, b"\0")

    @rule(data=st.data(), name=NAMES)
    def look(self, data: st.DataObject, name: str) -> None:
        parent = self.pick(data, DIR)
        parent_id, node = self.id_of(parent), parent.children.get(name)
        assert sorted(self.guest.names_in(parent_id)) == sorted(parent.children)
        entries = self.guest.entries_in(parent_id)
        for found, entry in entries.items():
            parent.children[found].learn(entry)
        entry = self.expect(0 if node else errno.ENOENT, lambda: self.guest.lookup(name, parent_id))
        if node is not None:
            node.learn(entry)
            if node.kind == LINK:
                assert self.guest.readlink(node.node_id) == "to nowhere"

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        known = [node for node in self.nodes() + self.nameless if node.count]
        if known:
            node = data.draw(st.sampled_from(known))
            self.guest.forget(node.node_id, node.count)
            node.node_id = node.count = 0
            if node in self.nameless:
                self.nameless.remove(node)

    @rule(queue_index=st.sampled_from([1, 2]))
    def change_queue(self, queue_index: int) -> None:
        self.guest.queue_index = queue_index

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """Nobody waits for others in their place: the next request is on its way before."""
        self.guest.getattr(ROOT)  # or an engine would give up whose processes die again and again
        children = sorted(self.engine.children())
        counts["kills"] += 1
        for pid in children if data.draw(st.booleans()) else children[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @rule()
    def reconnect(self) -> None:
        """What the guest knew is nothing that the next one knows."""
        queue_index = self.guest.queue_index
        self.guest.close()
        self.guest = ShareFrontend(self.engine, queue_count=3)
        self.guest.queue_index = queue_index
        for node in self.nodes()[1:] + self.nameless:
            node.node_id = node.count = 0
        self.nameless = []

    def teardown(self) -> None:
        if hasattr(self, "guest"):
            self._compare(self.root, self.folder)
            self.guest.close()

    def _compare(self, node: Node, folder: Path) -> None:
        assert sorted(os.listdir(folder)) == sorted(node.children)
        for name, child in node.children.items():
            if child.kind == DIR:
                self._compare(child, folder / name)
            elif child.kind == LINK:
                assert os.readlink(folder / name) == "to nowhere"
            else:
                assert (folder / name).read_bytes() == child.content


ShareMachine.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=40,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@contextlib.contextmanager
def shared_folder() -> Iterator[None]:
    """The engine of all examples, with a folder in memory."""
    with tempfile.TemporaryDirectory(prefix="ringblk-share-", dir="/dev/shm") as folder:
        options = ("--num-request-queues=2", "--workers=2", "--io-engine=psync")
        with share_engine(Path(folder), *options) as engine:
            ShareMachine.engine, ShareMachine.folder = engine, Path(folder)
            yield

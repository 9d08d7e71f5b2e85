"""Backends found by name, and what is said when they can't be."""

import sys
from pathlib import Path

import pytest

from ringblk.workers.backends.file import FileBackend
from ringblk.workers.backends.interface import BackendError, BlockBackend
from ringblk.workers.backends.loader import load_backend
from ringblk.workers.backends.memory import MemoryBackend
from ringblk.workers.backends.null import NullBackend
from ringblk.workers.backends.python import PythonBackend

MODULE = """
from __future__ import annotations
import functools
from pathlib import Path
from ringblk.workers.backends.interface import BackendError
from ringblk.workers.backends.memory import MemoryBackend

class Disk:
    read_only = False
    def __init__(self, size_bytes: int = 512, *, fast: bool = False, ratio: float | None = None,
                 where: Path = Path("."), label="x", plain: str = "y", pair: tuple[int, int] = (1, 2)):
        self.size_bytes = size_bytes
        self.values = (fast, ratio, where, label, plain)
    def read_at(self, offset_bytes, buffer): pass
    def write_at(self, offset_bytes, buffer): pass
    def flush(self): pass

class Needy(Disk):
    def __init__(self, size_bytes: int, path: Path): super().__init__(size_bytes)

class Open(Disk):
    def __init__(self, **rest: int): super().__init__(); self.rest = rest

class Raising(Disk):
    def __init__(self): raise RuntimeError("no luck\\ntoday")

class Refusing(Disk):
    def __init__(self): raise BackendError("not here")

class Writeless(Disk):
    write_at = None

class OddDiscard(Disk):
    discard = 5

class Unclear(Disk):
    read_only = 0

class NoName(Disk):
    def __init__(self, path: Nowhere): pass

class Outer:
    class Inner(Disk): pass

class AsyncWrite(Disk):
    async def write_at(self, offset_bytes, buffer): pass

class AsyncFlush(Disk):
    async def flush(self): pass

class AsyncDiscard(Disk):
    async def discard(self, offset_bytes, size_bytes): pass

class AsyncStart(Disk):
    async def start_worker(self): pass

class AsyncClose(Disk):
    async def close(self): pass

class YieldingRead(Disk):
    def read_at(self, offset_bytes, buffer): yield

class AsyncYieldingWrite(Disk):
    async def write_at(self, offset_bytes, buffer): yield

class AsyncCall:
    async def __call__(self, offset_bytes, buffer): pass

class AsyncObject(Disk):
    write_at = AsyncCall()

class AsyncPartial(Disk):
    def __init__(self):
        super().__init__()
        self.read_at = functools.partial(self.fetch, 1)
    async def fetch(self, number, offset_bytes, buffer): pass

class ShortRead(Disk):
    def read_at(self, offset_bytes): pass

class LongWrite(Disk):
    def write_at(self, offset_bytes, buffer, durable): pass

class LongFlush(Disk):
    def flush(self, why): pass

class LongClose(Disk):
    def close(self, why): pass

class NamedOnly(Disk):
    def write_zeroes(self, *, offset_bytes, size_bytes): pass

class BoolSize(Disk):
    def __init__(self): self.size_bytes = True

class FloatSize(Disk):
    def __init__(self): self.size_bytes = 512.0

class RaisingSize(Disk):
    def __init__(self): pass
    @property
    def size_bytes(self): raise OSError("no\\nserver")

class RaisingFlag(Disk):
    @property
    def read_only(self): raise KeyError("ro")

class RaisingMethod(Disk):
    @property
    def write_at(self): raise RuntimeError("not yet")

class ChangingSize(Disk):
    sizes = [1024, -1, 0.5]
    def __init__(self): pass
    @property
    def size_bytes(self): return self.sizes.pop(0)

class Overridden(MemoryBackend):
    def __init__(self): super().__init__(512)
    def write_at(self, offset_bytes, buffer): pass

class Extended(MemoryBackend):
    def __init__(self): super().__init__(512)
    def start_worker(self): pass
    def close(self): pass

class Closing(Disk):
    closed = []
    def __init__(self): self.size_bytes = 7
    def close(self): self.closed.append(1)

class WrappedAsync(Disk):
    @functools.wraps(AsyncFlush.flush)
    def flush(self): pass

async def make_async(): return Disk()
def make_memory(size_bytes: int): return MemoryBackend(size_bytes)
number = 3
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current directory with modules in it, forgotten again afterwards."""
    (tmp_path / "my_disk.py").write_text(MODULE)
    (tmp_path / "bad_disk.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "worse_disk.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("my_disk", "bad_disk", "worse_disk"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_built_in() -> None:
    memory = load_backend("memory", {"size_bytes": "0x1000"})
    assert isinstance(memory, MemoryBackend)
    assert memory.size_bytes == 4096
    assert isinstance(load_backend("null", {"size_bytes": "1_048_576"}), NullBackend)


def test_class() -> None:
    arguments = {
        "size_bytes": "1024",
        "fast": "Yes",
        "ratio": "0.5",
        "where": "/somewhere",
        "label": "7",
        "plain": "8",
    }
    backend = load_backend("my_disk:Disk", arguments)
    assert isinstance(backend, PythonBackend)
    assert backend.size_bytes == 1024
    assert isinstance(backend.backend, BlockBackend)
    assert vars(backend.backend)["values"] == (True, 0.5, Path("/somewhere"), "7", "8")
    assert load_backend("my_disk:Disk", {}).size_bytes == 512


def test_other_callables() -> None:
    assert load_backend("my_disk:Outer.Inner", {}).size_bytes == 512
    assert isinstance(load_backend("my_disk:make_memory", {"size_bytes": "512"}), MemoryBackend)
    backend = load_backend("my_disk:Open", {"a": "1", "b": "2"})
    assert isinstance(backend, PythonBackend)
    assert vars(backend.backend)["rest"] == {"a": 1, "b": 2}


def test_native_backends_are_block_backends(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(512))
    for backend in (MemoryBackend(512), NullBackend(512), FileBackend(tmp_path / "image")):
        assert isinstance(backend, BlockBackend)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nothing", {}, "neither memory, null nor package.module:Class"),
        (":Disk", {}, "neither memory, null nor package.module:Class"),
        ("my_disk:", {}, "neither memory, null nor package.module:Class"),
        ("no_disk:Disk", {}, "can't import no_disk: ModuleNotFoundError: No module named 'no_disk'"),
        ("bad_disk:Disk", {}, "can't import bad_disk: ModuleNotFoundError: No module named 'no_such_module"),
        ("worse_disk:Disk", {}, "can't import worse_disk: SyntaxError"),
        ("my_disk:Disc", {}, "my_disk has no Disc"),
        ("my_disk:number", {}, "number is no class"),
        ("my_disk:Disk", {"colour": "red"}, "no argument colour (it has size_bytes, fast, ratio, where,"),
        ("my_disk:Disk", {"size_bytes": "big"}, "argument size_bytes=big: not an integer"),
        ("my_disk:Disk", {"fast": "perhaps"}, "argument fast=perhaps: not true or false"),
        ("my_disk:Disk", {"ratio": "half"}, "argument ratio=half: not a number"),
        ("my_disk:Disk", {"pair": "1,2"}, "argument pair=1,2: can't be given as text: it is a tuple"),
        ("my_disk:Needy", {"size_bytes": "512"}, "argument path is missing"),
        ("my_disk:NoName", {"path": "x"}, "can't tell its arguments: NameError"),
        ("my_disk:Raising", {}, "RuntimeError: no luck today"),
        ("my_disk:Writeless", {}, "has no method write_at"),
        ("my_disk:OddDiscard", {}, "discard is no method"),
        ("my_disk:Unclear", {}, "read_only is 0, not True or False"),
        ("my_disk:AsyncWrite", {}, "write_at is `async def`, which nothing waits for: make it a plain"),
        ("my_disk:AsyncFlush", {}, "flush is `async def`"),
        ("my_disk:AsyncDiscard", {}, "discard is `async def`"),
        ("my_disk:AsyncStart", {}, "start_worker is `async def`"),
        ("my_disk:AsyncClose", {}, "close is `async def`"),
        ("my_disk:AsyncObject", {}, "write_at is `async def`"),
        ("my_disk:AsyncPartial", {}, "read_at is `async def`"),
        ("my_disk:make_async", {}, "is made by `async def`, which nothing waits for"),
        ("my_disk:YieldingRead", {}, "read_at has a `yield` in it, so a call does nothing"),
        ("my_disk:AsyncYieldingWrite", {}, "write_at has a `yield` in it"),
        ("my_disk:ShortRead", {}, "read_at can't be called as read_at(offset_bytes, buffer): too many"),
        ("my_disk:LongWrite", {}, "write_at can't be called as write_at(offset_bytes, buffer): missing a"),
        ("my_disk:LongFlush", {}, "flush can't be called as flush(): missing a required argument: 'why'"),
        ("my_disk:LongClose", {}, "close can't be called as close(): missing a required argument: 'why'"),
        ("my_disk:NamedOnly", {}, "write_zeroes can't be called as write_zeroes(offset_bytes, size_bytes)"),
        ("my_disk:BoolSize", {}, "size_bytes is True, not a multiple of 512 above 0"),
        ("my_disk:FloatSize", {}, "size_bytes is 512.0, not a multiple of 512 above 0"),
        ("my_disk:RaisingSize", {}, "size_bytes can't be read: OSError: no server"),
        ("my_disk:RaisingFlag", {}, "read_only can't be read: KeyError: 'ro'"),
        ("my_disk:RaisingMethod", {}, "write_at can't be read: RuntimeError: not yet"),
        ("my_disk:Overridden", {}, "write_at would never be called: what it is made from is compiled"),
        ("my_disk:Disk", {"size_bytes": "1000"}, "size_bytes is 1000, not a multiple of 512 above 0"),
        ("my_disk:Disk", {"size_bytes": "0"}, "size_bytes is 0, not a multiple of 512 above 0"),
        ("my_disk:Disk", {"size_bytes": "-512"}, "size_bytes is -512, not a multiple of 512 above 0"),
        ("my_disk:Disk", {"size_bytes": str(1 << 64)}, "not a multiple of 512 above 0"),
    ],
)
def test_one_clear_line(name: str, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError) as caught:
        load_backend(name, arguments)
    text = str(caught.value)
    assert text.startswith(f"backend {name}: ")
    assert message in text
    assert "\n" not in text


def test_what_is_read_once_may_change_afterwards() -> None:
    assert load_backend("my_disk:ChangingSize", {}).size_bytes == 1024


def test_a_compiled_backend_may_have_hooks_of_its_own() -> None:
    assert isinstance(load_backend("my_disk:Extended", {}), MemoryBackend)


def test_what_only_wraps_an_async_method_is_a_plain_one() -> None:
    assert load_backend("my_disk:WrappedAsync", {}).size_bytes == 512


def test_an_object_that_is_refused_is_closed() -> None:
    with pytest.raises(BackendError, match="size_bytes is 7"):
        load_backend("my_disk:Closing", {})
    assert sys.modules["my_disk"].Closing.closed == [1]


@pytest.mark.parametrize("name", ["memory", "null"])
@pytest.mark.parametrize("size_bytes", ["0", "-512", "513", str(1 << 70)])
def test_built_in_sizes(name: str, size_bytes: str) -> None:
    with pytest.raises(BackendError, match=f"{name} backend: .*{size_bytes}"):
        load_backend(name, {"size_bytes": size_bytes})


def test_the_backends_own_refusal_is_kept() -> None:
    with pytest.raises(BackendError, match=r"^not here$"):
        load_backend("my_disk:Refusing", {})

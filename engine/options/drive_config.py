"""What one drive is to be: every setting that it is begun with."""

import os
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.number_text import read_sizes
from ringblk.engine.base.printable_text import printable
from ringblk.engine.base.program_error import ProgramError
from ringblk.engine.options.id_ranges import read_id_ranges
from ringblk.engine.options.rate_limiter_config import (
    LIMIT_NAMES,
    PositiveCount,
    RateLimiterError,
    WholeBucket,
    buckets_from_patch,
    decode_rate_limiter,
    read_limit_sizes,
    settings_from_config,
    with_limits,
)
from ringblk.engine.options.system_fault import system_fault
from ringblk.shm.layout.sizes import MAX_QUEUE_SIZE, MIN_QUEUE_SIZE, power_of_two_fault, queue_size_fault
from ringblk.shm.platform.descriptors import kind_of
from ringblk.shm.rates.group import group_name_fault
from ringblk.shm.rates.limit_settings import RateLimitSettings
from ringblk.shm.state.segment import MAX_QUEUES, MAX_WORKERS
from ringblk.workers.backends.direct_open import descriptor_of
from ringblk.workers.backends.topology import MAX_LOGICAL_BLOCK_BYTES, MAX_PHYSICAL_BLOCK_BYTES, SECTOR_BYTES
from ringblk.workers.fetch.source_form import BadSource, check_uri, is_uri

# One word of a kernel command line, and short enough for the drive's record.
PartitionId = Annotated[str, Meta(pattern=r"^[!-~]{1,64}\Z")]

CacheMode = Literal["writeback", "writethrough", "unsafe"]
"""What becomes of a write before it is done: `DeviceFace.set_cache`."""

GuestCache = Literal["auto", "always", "never", "metadata"]
"""How long a guest goes by what it knows of a shared folder: virtiofsd's `--cache`."""
MAX_TAG_BYTES = 36
"""Virtio 1.2, 5.11.4."""

_NOT_OF_CLASSES = {
    "xattr": "a class has getxattr or it has not",
    "posix_acl": "access control lists are the host's",
    "allow_direct_io": "there is no page cache of the host's",
    "killpriv_v2": "whoever writes takes set-user-id away, and that is the class",
    "translate_uid": "the class is told the guest's own numbers",
    "translate_gid": "the class is told the guest's own numbers",
}
"""Options of folders, and why a class that is a file system has no use for them."""

MAX_PATH_BYTES = 4095
"""Linux's limit (PATH_MAX)."""
MAX_FD = (1 << 31) - 1
"""Of a C int."""

MAX_RECONNECT_S = 1e9
"""Seconds: longer than anybody waits."""
MAX_CONNECTIONS = 8
"""As many have a place in a drive's ledger (workers/nbd/ledger.pxd)."""

BLOCK_SIZES = {
    "logical_block_size": MAX_LOGICAL_BLOCK_BYTES,
    "physical_block_size": MAX_PHYSICAL_BLOCK_BYTES,
}
"""Options that are the bytes of a block, and how many they may be at the most."""
PATHS = (
    *("socket_path", "blk_file", "track_changes", "base", "base_cache", "base_manifest", "overlay", "cgroup"),
    "shared_dir",
)
"""Options that are one path; a base may be a URI."""
SIZE_OPTIONS = (*BLOCK_SIZES, "overlay_size", "base_cache_size", "dax_window")
"""Options that are bytes and no limits."""


@with_limits(PositiveCount | WholeBucket | None, PositiveCount | None, None)
class DriveConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One drive and its limits: in a configuration file, on the command line, in the control API."""

    socket_path: str | None = None
    """Listen here; or"""
    fd: Annotated[int, Meta(ge=0, le=MAX_FD)] | None = None
    """an inherited socket, connected or listening."""
    kind: Literal["block", "fs"] = "block"
    """What its guest gets: a disk, or a shared folder."""
    shared_dir: str | None = None
    """The folder that is shared, or"""
    file_system: str | None = None
    """a class that is a file system (`package.module:Class`), with `backend_arg`;"""
    tag: str | None = None
    """and what the guest mounts it by."""
    guest_cache: GuestCache = "auto"
    xattr: bool = False
    """Whether the guest may see and set extended attributes,"""
    posix_acl: bool = False
    """and access control lists, which are some."""
    allow_direct_io: bool = False
    """Whether a guest's O_DIRECT goes past the host's page cache, too."""
    killpriv_v2: bool = False
    """Whether the host takes set-user-id and set-group-id from what is written to, for the guest."""
    writeback: bool = False
    """Whether the guest gathers what is written."""
    translate_uid: list[str] = msgspec.field(default_factory=list)
    """Which users of the guest are which here, as `read_id_ranges` takes them;"""
    translate_gid: list[str] = msgspec.field(default_factory=list)
    """and which groups."""
    dax: Literal["never", "inode", "always"] = "never"
    """Whether files are mapped into the guest's address space, in a window"""
    dax_window: Annotated[int, Meta(ge=1)] = 1 << 30
    """of so many bytes."""
    blk_file: str | None = None
    """The image: a regular file or block device; or"""
    format: Literal["probe", "raw"] = "probe"
    """What image or base is taken for: raw whatever it looks like, or refused if it is in another format."""
    track_changes: str | None = None
    """A folder that keeps what has changed of the image since a point, made where it isn't there."""
    overlay: str | None = None
    """a folder that keeps what is written, made where it isn't there, on"""
    base: str | None = None
    """the image that the rest is read from, and that any number of drives may have; or"""
    base_snapshot: str | None = None
    """Which snapshot, where the base is the folder of another drive's overlay."""
    base_cache: str | None = None
    """Where the base is a URI: the folder for what is fetched of it, the same for all drives of a host,"""
    base_cache_size: Annotated[int, Meta(ge=1)] | None = None
    """how many bytes all that is fetched may have there, from now on; None: as it was said last,"""
    base_manifest: str | None = None
    """and a file with the digests of its pieces (`ringblk image manifest`)."""
    overlay_size: Annotated[int, Meta(ge=SECTOR_BYTES)] | None = None
    """How large a new overlay is; None: as its base."""
    uri: str | None = None
    """storage elsewhere, `nbd://HOST/EXPORT` for one; or"""
    reconnect_s: Annotated[float, Meta(ge=0, le=MAX_RECONNECT_S)] | None = None
    """After how long without its server requests fail; None: they wait."""
    connections: Annotated[int, Meta(ge=1, le=MAX_CONNECTIONS)] | None = None
    """How many to have to an NBD server that allows several; None: one."""
    rbd_conf: str | None = None
    """The Ceph cluster's configuration file, for an `rbd:` one; None: where Ceph's own programs look."""
    rbd_user: str | None = None
    """Whom the cluster knows it as, without `client.`; None: `admin`."""
    backend: str | None = None
    """a backend by name: `memory`, `null`, or `package.module:Class`."""
    backend_arg: dict[str, str] = msgspec.field(default_factory=dict)
    """Arguments of the backend's constructor."""
    read_only: bool = False
    workers: Annotated[int, Meta(ge=1, le=MAX_WORKERS)] = 4
    num_queues: Annotated[int, Meta(ge=1, le=MAX_QUEUES)] = 1
    queue_size: Annotated[int, Meta(ge=MIN_QUEUE_SIZE, le=MAX_QUEUE_SIZE)] = 128
    cache: CacheMode = "writeback"
    direct: Literal["auto", "on", "off"] = "auto"
    lock: Literal["auto", "running", "always"] = "auto"
    """When the image is held: `ImageHold`."""
    io_engine: Literal["auto", "psync", "io_uring", "io_uring_inline", "sync"] = "auto"
    poll_us: Annotated[int, Meta(ge=0, le=10000)] = 50
    rate_limiter: dict[str, object] | None = None
    """Firecracker's form of the limits, in place of the plain numbers."""
    rate_group: str | None = None
    """Share the limit with the drives of this group; the first one's settings hold."""
    user: str | None = None
    """Run as this user, or `user:group`, once everything is open."""
    cgroup: str | None = None
    """Have its processes in this control group: a folder of cgroup v2."""
    sandbox: Literal["auto", "on", "off"] = "auto"
    """Keep workers and dispatcher to what they need (docs/sandbox.md)."""
    sandbox_allow: list[str] = msgspec.field(default_factory=list)
    """What a backend of a user's own may open besides, for reading and writing."""
    drive_id: str = "ringblk"
    is_root_device: bool = False
    """Kept for front ends that build a kernel command line, like the next."""
    partuuid: PartitionId | None = None
    logical_block_size: Annotated[int, Meta(ge=SECTOR_BYTES, le=MAX_LOGICAL_BLOCK_BYTES)] | None = None
    """None: 512 for a regular file, a block device's own."""
    physical_block_size: Annotated[int, Meta(ge=SECTOR_BYTES, le=MAX_PHYSICAL_BLOCK_BYTES)] | None = None
    """None: what the storage prefers."""

    def check(self) -> None:
        """Raise `ProgramError` for what the types cannot say."""
        if (self.socket_path is None) == (self.fd is None):
            raise ProgramError("give one of --socket-path and --fd")
        if self.socket_path == "":  # Linux would listen on a name of its own choice
            raise ProgramError("--socket-path is empty")
        paths = {name: getattr(self, name) for name in PATHS}
        for name, path in (*paths.items(), *(("sandbox_allow", path) for path in self.sandbox_allow)):
            check_path(name, path)
        self._check_storage()
        if self.backend_arg and self.backend is None and self.file_system is None:
            raise ProgramError("--backend-arg needs --backend or --file-system")
        if self.sandbox_allow and self.sandbox == "off":
            raise ProgramError("--sandbox-allow needs a sandbox, and --sandbox is off")
        if self.direct == "on" and (self.backend is not None or self.uri is not None):
            raise ProgramError("--direct on: only for --blk-file and --overlay")
        if not self.drive_id.isprintable():
            raise ProgramError(f"--drive-id {printable(self.drive_id)}: not of printable characters")
        if self.format == "raw" and self.backend is not None:
            raise ProgramError("--format raw: only for --blk-file and --base")
        if fault := queue_size_fault(self.queue_size):
            raise ProgramError(f"--queue-size {fault}")
        for name, most_bytes in BLOCK_SIZES.items():
            block_bytes = getattr(self, name) or SECTOR_BYTES
            if fault := power_of_two_fault(block_bytes, SECTOR_BYTES, most_bytes):
                raise ProgramError(f"{option_of(name)} {fault}")
        if self.rate_group is not None and (fault := group_name_fault(self.rate_group)):
            raise ProgramError(f"--rate-group {self.rate_group!r}: {fault}")
        self.rate_limits()
        if fault := system_fault(self):
            raise ProgramError(fault, ExitStatus.FAILED)

    @property
    def virtqueue_count(self) -> int:
        """Those of the device: a shared folder has one for what must not wait, besides."""
        return self.num_queues + (self.kind == "fs")

    def _check_tracking(self) -> None:
        if self.blk_file is None:
            raise ProgramError("--track-changes: only for --blk-file; an overlay tells it by its snapshots")
        if self.read_only:
            raise ProgramError("--track-changes: not with --read-only, of which nothing changes")
        if self.lock == "running":
            raise ProgramError("--lock running: not with --track-changes, which one engine does for good")
        if self.track_changes == "":
            raise ProgramError("--track-changes is empty")

    def _check_storage(self) -> None:
        if self.kind == "fs":
            self._check_share()
            return
        for name in ("shared_dir", "file_system", "tag"):
            if getattr(self, name) is not None:
                raise ProgramError(f"{option_of(name)} needs --kind fs")
        if [self.blk_file, self.overlay, self.uri, self.backend].count(None) != 3:
            raise ProgramError("give one of --blk-file, --overlay, --uri and --backend")
        if self.uri is not None and not self.uri.isprintable():
            raise ProgramError(f"--uri {printable(self.uri)}: not of printable characters")
        scheme = (self.uri or "").partition(":")[0]
        if self.reconnect_s is not None and not scheme.startswith("nbd"):
            raise ProgramError("--reconnect-s needs --uri=nbd:...")
        if self.connections is not None and not scheme.startswith("nbd"):
            raise ProgramError("--connections needs --uri=nbd:...")
        for name in ("rbd_conf", "rbd_user"):
            if getattr(self, name) is not None and scheme != "rbd":
                raise ProgramError(f"{option_of(name)} needs --uri=rbd:...")
        if scheme == "rbd" and self.io_engine not in ("auto", "psync"):
            raise ProgramError(f"--io-engine {self.io_engine}: not with --uri=rbd:..., which has a worker")
        if self.base is not None and self.overlay is None:
            raise ProgramError("--base needs --overlay")
        if self.base is None and self.base_snapshot is not None:
            raise ProgramError("--base-snapshot needs --base")
        self._check_fetched()
        if self.track_changes is not None:
            self._check_tracking()
        if self.overlay is None:
            if self.overlay_size is not None:
                raise ProgramError("--overlay-size needs --overlay")
            return
        if self.overlay == "":
            raise ProgramError("--overlay is empty")
        if self.read_only:
            raise ProgramError("--read-only: not with --overlay; --blk-file serves a base as it is")
        if self.overlay_size is not None and self.overlay_size % SECTOR_BYTES:
            raise ProgramError(f"--overlay-size {self.overlay_size} is no multiple of {SECTOR_BYTES}")

    def _check_fetched(self) -> None:
        """A base that is elsewhere."""
        if self.base is None or not is_uri(self.base):
            for name in ("base_cache", "base_cache_size", "base_manifest"):
                if getattr(self, name) is not None:
                    raise ProgramError(f"{option_of(name)} needs --base=URI")
            return
        try:
            check_uri(self.base)
        except BadSource as error:
            raise ProgramError(f"--base {printable(str(error))}") from None
        if not self.base_cache:
            raise ProgramError("--base=URI needs --base-cache: a folder for what is fetched of it")
        if self.base_snapshot is not None:
            raise ProgramError("--base-snapshot: not with --base=URI, which has no snapshots")
        if self.io_engine == "sync":
            raise ProgramError("--io-engine sync: not with --base=URI, for which somebody has to wait")

    def _check_share(self) -> None:
        if (self.shared_dir is None) == (self.file_system is None) or self.tag is None:
            raise ProgramError("give --tag, and one of --shared-dir and --file-system")
        if self.file_system is not None:
            self._check_file_system()
        for name in ("blk_file", "track_changes", "base", "overlay", "uri", "backend"):
            if getattr(self, name) is not None:
                raise ProgramError(f"{option_of(name)}: not with --kind fs")
        if not 0 < len(self.tag.encode()) <= MAX_TAG_BYTES or "\0" in self.tag:
            raise ProgramError(f"--tag {printable(self.tag)}: not 1 to {MAX_TAG_BYTES} bytes, or one is NUL")
        if self.virtqueue_count > MAX_QUEUES:
            raise ProgramError(f"--num-queues {self.num_queues}: a folder has at most {MAX_QUEUES - 1}")
        if self.dax != "never" and self.read_only:
            raise ProgramError(f"--dax {self.dax}: not with --read-only: front ends map what is writable")
        if fault := power_of_two_fault(self.dax_window, 1 << 21, 1 << 36):
            raise ProgramError(f"--dax-window {fault}")
        if self.posix_acl and not self.xattr:
            raise ProgramError("--posix-acl needs --xattr")
        if self.writeback and self.guest_cache in ("never", "metadata"):
            raise ProgramError(
                f"--writeback: not with --guest-cache {self.guest_cache}, which caches no data"
            )
        for name in ("translate_uid", "translate_gid"):
            read_id_ranges(option_of(name), getattr(self, name))

    def _check_file_system(self) -> None:
        """What of a folder a class has not, or by itself."""
        if self.dax != "never":
            raise ProgramError(f"--dax {self.dax}: not with --file-system, which has no files to be mapped")
        for name, reason in _NOT_OF_CLASSES.items():
            if getattr(self, name):
                raise ProgramError(f"{option_of(name)}: not with --file-system: {reason}")

    @property
    def storage_option(self) -> str:
        """The option that names the storage, and what it says."""
        if self.file_system is not None:
            return f"--file-system {self.file_system}"
        if self.shared_dir is not None:
            return f"--shared-dir {self.shared_dir}"
        if self.blk_file is not None:
            return f"--blk-file {self.blk_file}"
        if self.overlay is not None:
            return f"--overlay {self.overlay}"
        return f"--uri {self.uri}" if self.uri is not None else f"--backend {self.backend}"

    @property
    def storage_name(self) -> str:
        """What statistics call the storage: the path of image or overlay, the URI, or the backend's name."""
        path = self.shared_dir or (self.overlay if self.blk_file is None else self.blk_file)
        if path is None:
            return self.uri or self.backend or self.file_system or ""
        if (given := descriptor_of(path)) is not None and (kind := kind_of(given)):
            return kind
        try:
            return os.path.join(os.getcwd(), path)
        except FileNotFoundError:  # the folder that it was started in has been removed
            return path

    @property
    def runs_user_code(self) -> bool:
        """Whether a user's class is its backend or file system (`package.module:Class`)."""
        return self.file_system is not None or ":" in (self.backend or "")

    def rate_limits(self) -> RateLimitSettings:
        """The limits of the drive or its group. Raises `ProgramError`."""
        plain = {name: value for name in LIMIT_NAMES if (value := getattr(self, name)) is not None}
        try:
            if self.rate_limiter is None:
                return RateLimitSettings(**buckets_from_patch(plain))
            if plain:
                raise ProgramError(f"give one of --rate-limiter and {option_of(next(iter(plain)))}")
            return settings_from_config(decode_rate_limiter(self.rate_limiter))
        except RateLimiterError as error:
            raise ProgramError(_with_limit_names(str(error))) from error


def read_config_sizes(fields: dict[str, object]) -> dict[str, object]:
    """The same fields of a drive, with numbers for bytes that are written as sizes."""
    return read_sizes(read_limit_sizes(fields), SIZE_OPTIONS)


def check_path(field_name: str, path: str | None) -> None:
    """Raise `ProgramError` for what no path can be."""
    if path is None:
        return
    if "\0" in path:
        raise ProgramError(f"{option_of(field_name)} {printable(path)}: no path has a NUL in it")
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        text = f"{printable(path[:40])}..."
        raise ProgramError(f"{option_of(field_name)} {text}: no path has more than {MAX_PATH_BYTES} bytes")


def option_of(field_name: str) -> str:
    """A field as an option of the command line."""
    return f"--{field_name.replace('_', '-')}"


def _with_limit_names(text: str) -> str:
    """A limit's fault in the command line's words."""
    if text.startswith("rate_limiter"):
        return f"{option_of('rate_limiter')}: {text.removeprefix('rate_limiter').lstrip('.: ')}"
    return " ".join(option_of(word) if word.rstrip(":") in LIMIT_NAMES else word for word in text.split(" "))

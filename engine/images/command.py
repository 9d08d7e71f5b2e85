"""`ringblk image`: create, import, export and look at images, past the page cache."""

import argparse
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from ringblk.engine.base.exit_status import ExitStatus
from ringblk.engine.base.number_text import parse_size
from ringblk.engine.base.printable_text import printable, utf8_text
from ringblk.engine.images import changes_command, manifest_command, overlay_command
from ringblk.engine.images.copy import CopyResult, copy_spans, copy_to_file
from ringblk.engine.images.error import ContainerFound, ImageError
from ringblk.engine.images.file_access import FileAccess, read_access
from ringblk.engine.images.format import (
    COMPRESSIONS,
    FORMATS,
    QEMU_FORMATS,
    WRITTEN_FORMATS,
    ImageFormat,
    content_format_of_name,
    format_of_name,
)
from ringblk.engine.images.info import ImageInfo, read_image_info
from ringblk.engine.images.overlay import OverlayImage, OverlaySource, is_overlay
from ringblk.engine.images.partial import PartialFile
from ringblk.engine.images.progress import CopyProgress, format_bytes
from ringblk.engine.images.sink import PipeSink
from ringblk.engine.images.source import ImageSource, open_raw_source, open_source
from ringblk.engine.options.command_line import print_help
from ringblk.shm.platform.shared_memory import reserve
from ringblk.workers.backends.image_lock import ImageLocked
from ringblk.workers.backends.topology import SECTOR_BYTES

MAX_IMAGE_BYTES = (1 << 63) - SECTOR_BYTES
"""What an off_t reaches, in whole sectors."""


def parse_size_bytes(text: str) -> int:
    """Parse "10G", "512MiB" or a plain number of bytes, as argparse wants it: ValueError if it is none."""
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size_bytes == 0 or size_bytes % SECTOR_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {SECTOR_BYTES} bytes")
    if size_bytes > MAX_IMAGE_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is more than a file can hold ({MAX_IMAGE_BYTES} bytes)")
    return size_bytes


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `image` and its commands to what `add_subparsers` returned; `run` carries them out."""
    image: argparse.ArgumentParser = subparsers.add_parser(
        "image", help="create, import, export and look at images", description=__doc__
    )
    image.set_defaults(run=partial(print_help, image))  # where no command is given
    commands = image.add_subparsers(dest="image_command", metavar="COMMAND")

    create = commands.add_parser("create", help="make an empty raw image, or an overlay on a base")
    create.add_argument("image", type=Path)
    create.add_argument(
        "size", type=parse_size_bytes, nargs="?", help="such as 10G (of an overlay: its base's)"
    )
    create.add_argument(
        "--base", metavar="FILE", help="make an overlay on this raw image, block device, or other overlay"
    )
    create.add_argument("--base-snapshot", metavar="SNAPSHOT", help="which snapshot of that overlay")
    create.add_argument("--preallocate", action="store_true", help="take up its room on the disk now")
    _add_force(create)

    into = commands.add_parser(
        "import", help="copy an image of any format into a raw one, or apply a delta to an overlay"
    )
    into.add_argument("source", help="a file, a block device, or - for standard input")
    into.add_argument("image", type=Path)
    into.add_argument("--format", choices=FORMATS, help="of the source (told from its content)")
    into.add_argument("--chain", action="store_true", help="a qcow2 image and those below it, as an overlay")
    into.add_argument("--base", metavar="FILE", help="of a chain: a raw image with what its lowest image has")
    _add_copy_options(into)

    out = commands.add_parser("export", help="copy a raw image or an overlay into an image of any format")
    out.add_argument("image")
    out.add_argument("target", help="a file, or - for standard output (raw)")
    out.add_argument("--format", choices=WRITTEN_FORMATS, help="of the target (told from its name)")
    out.add_argument(
        "--source-format", choices=["raw"], help="take the image for raw, whatever it looks like"
    )
    overlay_command.add_states(out)
    out.add_argument(
        "--chain", action="store_true", help="all layers of an overlay, as qcow2 images in a folder"
    )
    _add_copy_options(out)

    info = commands.add_parser("info", help="say what an image is")
    info.add_argument("image", type=Path)
    info.add_argument("--format", choices=FORMATS, help="of the image (told from its content)")
    info.add_argument("--json", action="store_true", help="print JSON")
    for command in (
        create,
        into,
        out,
        info,
        *overlay_command.add_parsers(commands),
        *changes_command.add_parsers(commands),
        *manifest_command.add_parsers(commands),
    ):
        command.set_defaults(run=run)
    return image


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")


def _add_copy_options(parser: argparse.ArgumentParser) -> None:
    _add_force(parser)
    parser.add_argument("--verify", action="store_true", help="read the target back and compare digests")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command, return the exit status: 1, with one line on standard error, if it fails."""
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "create": _create,
        "import": _import,
        "export": _export,
        "info": _info,
        "diff": _diff,
        "point": _set_point,
        "manifest": manifest_command.print_manifest,
        "check": _on_overlay(overlay_command.check),
        "commit": _on_overlay(overlay_command.commit_changes),
        "rebase": _on_overlay(overlay_command.change_base),
        "flatten": _on_overlay(overlay_command.change_base),
    }
    try:
        with _interruptible():
            commands[arguments.image_command](arguments)
    except KeyboardInterrupt as interrupt:
        print("ringblk image: interrupted", file=sys.stderr)
        return 128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT)
    except OSError as error:
        at = f"{error.filename}: " if error.filename is not None else ""
        print(f"ringblk image: {printable(f'{at}{error.strerror or error}')}", file=sys.stderr)
        return ExitStatus.FAILED
    except (ImageError, ImageLocked) as error:
        print(f"ringblk image: {printable(str(error))}", file=sys.stderr)
        return ExitStatus.FAILED
    return ExitStatus.DONE


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP clean up as an interrupt does, and that one even in the background."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup(1)
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Begin an error's line with the image that it is about."""
    try:
        yield
    except (ImageError, ImageLocked) as error:
        raise ImageError(f"{os.fspath(path)}: {error}") from error
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def _on_overlay(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """A command that is for overlays alone."""

    def run_named(arguments: argparse.Namespace) -> None:
        if not is_overlay(arguments.image):
            raise ImageError(f"{arguments.image}: is no overlay, which is a folder")
        command(arguments)

    return run_named


def _diff(arguments: argparse.Namespace) -> None:
    if changes_command.is_tracker(arguments.image):
        changes_command.diff(arguments)
    else:
        _on_overlay(overlay_command.diff)(arguments)


def _set_point(arguments: argparse.Namespace) -> None:
    if not changes_command.is_tracker(arguments.image):
        raise ImageError(f"{arguments.image}: tracks no changes: an engine with --track-changes makes it")
    changes_command.set_point(arguments)


def _create(arguments: argparse.Namespace) -> None:
    if arguments.base is not None:
        if arguments.preallocate or arguments.force:
            raise ImageError("an overlay takes room as it is written to, and replaces nothing")
        overlay_command.create(arguments)
        return
    if arguments.size is None:
        raise ImageError("a raw image needs a size, an overlay a --base")
    if arguments.base_snapshot is not None:
        raise ImageError("--base-snapshot goes with --base")
    target = Path(os.path.realpath(arguments.image))
    with _naming(arguments.image):
        partial = PartialFile(target, replace=arguments.force)
        try:
            if arguments.preallocate:
                reserve(partial.fileno(), 0, arguments.size)
            else:
                os.ftruncate(partial.fileno(), arguments.size)
            os.fsync(partial.fileno())
            partial.commit()
        except BaseException:
            partial.discard()
            raise


def _import(arguments: argparse.Namespace) -> None:
    if arguments.chain:
        with _naming(arguments.source):
            overlay_command.import_as_chain(arguments)
        return
    if arguments.base is not None:
        raise ImageError("--base goes with --chain")
    if overlay_command.is_delta_file(arguments.source):
        with _naming(arguments.source):
            overlay_command.import_changes(arguments)
        return
    with _naming(arguments.source):
        source = open_source(arguments.source, arguments.format)
    try:
        target = Path(os.path.realpath(arguments.image))
        with CopyProgress("import", quiet=arguments.quiet) as progress, _naming(arguments.image):
            result = copy_to_file(
                source,
                target,
                "raw",
                progress,
                replace=arguments.force,
                verify=arguments.verify,
                source_access=_source_access(arguments.source),
            )
    finally:
        source.close()
    _summarise(arguments, result, sys.stdout)


def _export(arguments: argparse.Namespace) -> None:
    if arguments.chain:
        with _naming(arguments.target):
            _on_overlay(overlay_command.export_as_chain)(arguments)
        return
    if arguments.since is not None:
        _on_overlay(overlay_command.export_changes)(arguments)
        return
    with _naming(arguments.image):
        source = _open_exported(arguments)
    try:
        with CopyProgress("export", quiet=arguments.quiet) as progress, _naming(arguments.target):
            if arguments.target == "-":
                result = _export_to_pipe(arguments, source, progress)
            else:
                target = Path(os.path.realpath(arguments.target))
                image_format = arguments.format or _format_of_target(target)
                result = copy_to_file(
                    source,
                    target,
                    image_format,
                    progress,
                    replace=arguments.force,
                    verify=arguments.verify,
                    source_access=_source_access(arguments.image),
                )
    finally:
        source.close()
    _summarise(arguments, result, sys.stderr if arguments.target == "-" else sys.stdout)


def _source_access(source: str) -> FileAccess | None:
    """Read who may read the source; None for a pipe, which has nobody."""
    access = read_access(sys.stdin.fileno() if source == "-" else source)
    mode = os.fstat(sys.stdin.fileno()).st_mode if source == "-" else os.stat(source).st_mode
    is_somebodys = stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)  # an overlay is a folder
    return access if is_somebodys else None


def _open_exported(arguments: argparse.Namespace) -> ImageSource:
    if is_overlay(arguments.image):
        return OverlaySource(OverlayImage(arguments.image, arguments.snapshot))
    if arguments.snapshot is not None:
        raise ImageError("a raw image has no snapshots")
    try:
        return open_raw_source(arguments.image, insist=arguments.source_format == "raw")
    except ContainerFound as error:
        raise ImageError(f"{error}; --source-format raw exports it as it is") from error


def _format_of_target(target: Path) -> ImageFormat:
    """Tell the format from the target's name. Raises ImageError where it says none."""
    image_format = format_of_name(target)
    if image_format is None:
        raise ImageError(f"its name says no format: --format, one of {', '.join(WRITTEN_FORMATS)}")
    if image_format in COMPRESSIONS and content_format_of_name(target) in QEMU_FORMATS | COMPRESSIONS:
        raise ImageError("only a raw image is compressed: name it .raw, or give --format")
    return image_format


def _export_to_pipe(arguments: argparse.Namespace, source: ImageSource, progress: CopyProgress) -> CopyResult:
    if arguments.format not in (None, "raw") or arguments.verify:
        raise ImageError("only a raw image goes to standard output, and cannot be verified there")
    sink = PipeSink(sys.stdout.fileno())
    result = copy_spans(source, sink, None, progress)
    sink.finish()
    return result


def _info(arguments: argparse.Namespace) -> None:
    if changes_command.is_tracker(arguments.image):
        changes_command.info(arguments)
        return
    if is_overlay(arguments.image):
        overlay_command.info(arguments)
        return
    with _naming(arguments.image):
        info = read_image_info(arguments.image, arguments.format)
    if arguments.json:
        info = msgspec.structs.replace(
            info, path=utf8_text(info.path), outside_files=[utf8_text(name) for name in info.outside_files]
        )
        print(msgspec.json.format(msgspec.json.encode(info)).decode())
    else:
        print("\n".join(f"{name:<15} {printable(value)}" for name, value in _info_lines(info)))


def _info_lines(info: ImageInfo) -> list[tuple[str, str]]:
    lines = [
        ("image", info.path),
        ("format", info.format),
        (
            "size",
            "unknown"
            if info.size_bytes is None
            else f"{format_bytes(info.size_bytes)} ({info.size_bytes} bytes)",
        ),
        ("on disk", f"{format_bytes(info.disk_bytes)} ({info.disk_bytes} bytes)"),
        ("direct I/O", f"aligned to {info.alignment_bytes} bytes" if info.direct else "refused"),
        ("locked", "by a running engine or another program" if info.locked else "no"),
    ]
    return lines + [("continues in", name) for name in info.outside_files]


def _summarise(arguments: argparse.Namespace, result: CopyResult, stream: Any) -> None:
    if arguments.quiet:
        return
    print(f"{format_bytes(result.size_bytes)}, {format_bytes(result.data_bytes)} of it data", file=stream)
    if result.digest is not None:
        print(f"sha256 {result.digest}, read back and compared", file=stream)

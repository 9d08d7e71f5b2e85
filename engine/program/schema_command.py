"""`ringblk schema`: the JSON schema of the configuration file."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add it to what `add_subparsers` returned; `run` carries it out."""
    parser = subparsers.add_parser("schema", help="print the JSON schema of the configuration file")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    import msgspec  # not for --help, and neither is what the schema is made from

    from ringblk.engine.base.exit_status import ExitStatus
    from ringblk.engine.options.config_schema import config_schema

    print(msgspec.json.format(msgspec.json.encode(config_schema())).decode())
    return ExitStatus.DONE

"""`ringblk image`, in this process."""

import argparse

from ringblk.engine.images.command import add_parser, run


def run_image(*arguments: object) -> int:
    """Run it with these arguments; its exit status."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    return run(parser.parse_args(["image", *map(str, arguments)]))

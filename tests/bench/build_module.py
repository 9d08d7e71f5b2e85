"""build_module.py NAME: compiles NAME.pyx in place, against the declarations of the package."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup  # type: ignore[import-untyped]

TESTS = Path(__file__).parent.parent

if __name__ == "__main__":
    os.chdir(TESTS)  # where no pyproject.toml says what else there is to build
    name = sys.argv[1]
    extension = Extension(f"bench.{name}", [f"bench/{name}.pyx"], extra_compile_args=["-O3", "-Wall"])
    setup(
        name=name.replace("_", "-"),
        packages=[],
        script_args=["build_ext", "--inplace", "--build-temp=../build/bench", "--build-lib=../build/bench"],
        ext_modules=cythonize(  # type: ignore[no-untyped-call]
            [extension], include_path=["../src"], build_dir="../build/bench"
        ),
    )

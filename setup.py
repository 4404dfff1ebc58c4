"""Copies the shipped configs into the wheel, as lafp/configs, and compiles the parser of VP8.

All else stands in pyproject.toml.
"""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import Extension, setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Builds the packages, and the configs beside them."""

    def run(self) -> None:
        """Builds."""
        super().run()
        if not self.editable_mode:  # the checkout holds them
            target = Path(self.build_lib, "lafp", "configs")
            rmtree(target, ignore_errors=True)  # an older build may hold configs that are gone
            copytree("configs", target)


# A plain library that is loaded with ctypes, so Python's headers need not be there.
VP8 = Extension(
    "lafp.video.damage.vp8_entropy",
    ["lafp/video/damage/vp8_entropy.c"],
    depends=["lafp/video/damage/vp8_tables.h"],
    extra_compile_args=["-O2"],
    py_limited_api=True,  # hence one wheel is for every version of Python
    optional=True,  # without a compiler lafp installs too, and notices less damage in VP8
)

setup(
    cmdclass={"build_py": BuildWithConfigs},
    ext_modules=[VP8],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

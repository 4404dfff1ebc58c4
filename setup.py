"""Copies the shipped configs into the wheel, as lafp/configs, and compiles what is written in C.

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


# Plain libraries that are loaded with ctypes, so Python's headers need not be there.
PARSERS = [
    Extension(
        f"lafp.video.damage.{name}",
        [f"lafp/video/damage/{name}.c"],
        depends=tables,
        extra_compile_args=["-O2"],
        py_limited_api=True,  # hence one wheel is for every version of Python
        optional=True,  # without a compiler lafp installs too, and notices less damage
    )
    for name, tables in (
        ("vp8_entropy", [f"lafp/video/damage/{name}.h" for name in ("vp8_tables", "vpx_reader")]),
        ("mjpeg_entropy", []),
        (
            "hevc_entropy",
            [
                f"lafp/video/damage/hevc_{part}.h"
                for part in ("tables", "cabac", "sets", "headers", "state", "residual")
            ],
        ),
        (
            "vp9_entropy",
            [
                *(
                    f"lafp/video/damage/vp9_{part}.h"
                    for part in ("modes", "headers", "state", "probs", "tables")
                ),
                "lafp/video/damage/vpx_reader.h",
            ],
        ),
    )
]

setup(
    cmdclass={"build_py": BuildWithConfigs},
    ext_modules=PARSERS,
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

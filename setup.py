"""Copies the shipped configs into the wheel, as lafp/configs. All else stands in pyproject.toml."""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import setup
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


setup(cmdclass={"build_py": BuildWithConfigs})

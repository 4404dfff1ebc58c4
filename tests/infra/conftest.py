"""Where the files under test are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"

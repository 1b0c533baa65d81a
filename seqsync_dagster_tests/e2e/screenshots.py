"""README's pictures, taken anew: ``python -m seqsync_dagster_tests.e2e.screenshots``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from .office import ROOT, browser_page, office
from .scenes import SCENES

PICTURES = ROOT / "images"


def main() -> None:
    """Play every scene, and keep what it shows."""
    with TemporaryDirectory() as folder, office(Path(folder) / "office", PICTURES) as opened, browser_page() as page:
        for scene in SCENES:
            print(scene.__name__.replace("_", " "), flush=True)
            scene(opened, page)


if __name__ == "__main__":
    main()

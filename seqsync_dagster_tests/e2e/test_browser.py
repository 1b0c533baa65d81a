"""The web UI as a person uses it, in a real browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .office import browser_page, chromium, office
from .scenes import SCENES


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    chromium() is None and "CI" not in os.environ, reason="no chromium here: apt-get install chromium, say"
)
def test_a_day_with_the_web_ui(tmp_path: Path, subtests: pytest.Subtests) -> None:
    with office(tmp_path) as opened, browser_page() as page:
        for scene in SCENES:
            with subtests.test(scene.__name__):
                scene(opened, page)

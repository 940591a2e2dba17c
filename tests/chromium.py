"""What the tests that need Chromium share."""

import pytest

from benchmarks.chromium import CHROMEDRIVER, CHROMIUM

needs_chromium = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")

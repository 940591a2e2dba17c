"""Where the weights lie that come with the code."""

from pathlib import Path

# Beside this package, in a checkout as in an installation.
SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "dpmambair-light"

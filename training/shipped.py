"""Where the weights lie that come with the code, and what lies beside them."""

from pathlib import Path

# Beside this package, in a checkout as in an installation.
SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "dpmambair-tiny"
# Names title, author, licence and source of every photograph that weights were trained on.
ATTRIBUTION = "ATTRIBUTION.csv"

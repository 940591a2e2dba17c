"""Where the weights lie that come with the code, and what lies beside them."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
# A wheel holds them inside this package, a checkout beside it.
_IN_WHEEL, _IN_CHECKOUT = _HERE / "weights", _HERE.parent / "checkpoints" / "dpmambair-light"
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT
# Names title, author, licence and source of every photograph that weights were trained on.
ATTRIBUTION = "ATTRIBUTION.csv"

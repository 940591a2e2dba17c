"""Restore degraded photographs: the version, the shipped weights and the restorer, for `pip install dpmambair`.

The model itself is `modeling_dpmambair`. Importing this package alone brings no torch, so that command lines answer at
once.
"""

from typing import TYPE_CHECKING

from .shipped import SHIPPED

if TYPE_CHECKING:
    from modeling_dpmambair import Restorer

# pyproject.toml reads it from here.
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `Restorer`, and torch with it, when it is first asked for."""
    if name != "Restorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modeling_dpmambair import Restorer

    return Restorer


__all__ = ["SHIPPED", "Restorer", "__version__"]

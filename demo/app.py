"""Serve the demonstration page: `python demo/app.py`, or this folder as a Space of the Hub.

`DPMAMBAIR_MODEL` names the model: a local folder, or a repository of the Hub as `OWNER/NAME` or `OWNER/NAME@REVISION`.
By default the page takes `checkpoints/dpmambair-light`, which lies beside this folder in the repository.
"""

import os
import sys
import threading
from pathlib import Path

# Read by Gradio when it is imported: nothing about visitors leaves this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from restoration_page.page import STYLES, build_page, draw_theme  # noqa: E402
from restoration_page.pictures import MAX_FILE_SIZE, SWEEP  # noqa: E402
from restoration_page.restorer import Restorer  # noqa: E402

HERE = Path(__file__).resolve().parent
# By its path in the repository and in a Space, where nothing else of the repository can be imported.
SHIPPED = "checkpoints/dpmambair-light"


def find(name: str) -> Path:
    """Return the path of what a Space holds beside this file, and the repository one folder above."""
    return HERE / name if (HERE / name).exists() else HERE.parent / name


def sweep(restorer: Restorer, interval: float = SWEEP) -> threading.Event:
    """Have old pictures forgotten every so many seconds, until what is returned is set; Gradio deletes their files."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(interval):
            restorer.forget()

    threading.Thread(target=work, daemon=True).start()
    return ended


def main() -> None:
    """Load the model, warm it up, and serve until stopped."""
    source = os.environ.get("DPMAMBAIR_MODEL") or str(find(SHIPPED))
    print(f"Loading {source}", flush=True)
    try:
        restorer = Restorer.from_source(source)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("Restoring a first picture; on a new machine this compiles the kernels, which takes a while", flush=True)
    page = build_page(restorer, find("examples"))
    sweep(restorer)
    page.launch(
        share=False, show_error=False, ssr_mode=False, pwa=False, mcp_server=False, run_history=False,
        enable_monitoring=False, max_file_size=MAX_FILE_SIZE, footer_links=["api"],
        theme=draw_theme(), css_paths=STYLES,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""The demonstration page: what `app.py` serves."""

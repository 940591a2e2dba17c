"""What the tests of the tables share: a machine that nobody has, and Markdown tables read back."""

MACHINE = {"cpu": "Model X", "cores": 2, "device": "cpu", "processes": 1, "threads": 2, "torch": "2.15.0"}


def markdown_rows(text):
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]

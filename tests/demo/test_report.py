from xml.etree import ElementTree

from restoration_page.report import SILENT, draw_report, name_kind

from tests.demo.conftest import KINDS


def read(report):
    """Return the rows of a report: class, kind, and for each bar its class, width and text."""
    rows = [row for row in ElementTree.fromstring(report).iter("tr") if row.get("class")]
    return [(row.get("class"), row.find("th").text, *map(read_bar, row.findall("td"))) for row in rows]


def read_bar(cell):
    return cell.get("class"), cell.find("span/span").get("style"), cell.find("b").text


def test_every_kind_has_a_bar_for_presence_and_one_for_severity():
    found = {kind: {"presence": 0.1 * place, "severity": 1 - 0.1 * place} for place, kind in enumerate(KINDS)}
    rows = read(draw_report(found))
    assert [row[1] for row in rows] == ["Noise", "JPEG", "Blur", "Low light", "Snow", "Rain", "Haze"]
    assert rows[0][2:] == (("presence", "width: 60%", "60%"), ("severity", "width: 40%", "40%"))
    assert rows[-1][2:] == (("presence", "width: 0%", "0%"), ("severity", "width: 100%", "100%"))


def test_kinds_that_are_likelier_there_than_not_stand_out():
    found = {"rain": {"presence": 0.5, "severity": 0.2}, "snow": {"presence": 0.49, "severity": 0.9}}
    assert [row[0] for row in read(draw_report(found))] == ["likely", "unlikely"]


def test_model_that_does_not_describe_says_so_politely():
    report = ElementTree.fromstring(draw_report(None))
    assert report.find("p").text == SILENT
    assert report.find("table") is None


def test_names_read_like_words_and_cannot_become_markup():
    assert [name_kind(kind) for kind in ("low_light", "jpeg", "rain")] == ["Low light", "JPEG", "Rain"]
    assert read(draw_report({"<b>": {"presence": 1, "severity": 1}}))[0][1] == "<b>"

from waypoint_parity.reports.table import Table, TableCell, fixed, scientific


def test_a_number_keeps_its_value_beside_its_text() -> None:
    table = Table.of([{"site": "latent", "error": 1.23456e-7}], {"error": scientific}, {(0, "error"): "bad"})
    assert list(table.rows()) == [
        [TableCell("site", "latent", None, ""), TableCell("error", "1.23e-07", 1.23456e-7, "bad")]
    ]
    assert table.numbers == {"error"}


def test_a_whole_number_stays_one_and_none_is_shown_as_nothing() -> None:
    table = Table.of([{"frame": 3, "psnr": None}, {"frame": 4, "psnr": 40.5}], {"psnr": fixed(1)})
    assert [[entry.text for entry in row] for row in table.rows()] == [["3", "-"], ["4", "40.5"]]
    assert [[entry.value for entry in row] for row in table.rows()] == [[3, None], [4, 40.5]]


def test_a_cell_of_markdown_keeps_to_itself_and_a_mark_is_bold() -> None:
    table = Table.of([{"name": "a|b\nc <i>", "verdict": "DIVERGED"}], marks={(0, "verdict"): "bad"})
    assert table.markdown().splitlines()[2] == "| a\\|b c &lt;i&gt; | **DIVERGED** |"


def test_a_table_without_rows_is_false() -> None:
    assert not Table.of([])
    assert Table.of([{"a": None}])

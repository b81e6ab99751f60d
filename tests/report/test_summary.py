import io

import pytest
from rich.console import Console

from fionalm.errors import UserError
from fionalm.report import Claim, exact, measure, print_summary, write_claims, write_report


def shown(folder, **options):
    console = Console(file=io.StringIO(), **options)
    print_summary(folder, console=console)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_log_gets_one_plain_line_a_claim(run_folder):
    write_report(run_folder)
    lines = shown(run_folder, width=40).splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("supported     qk-layernorm-survives: 10 times [3.3, 30], supported if above 2 times")
    assert lines[1].startswith("contradicted  warm-up-lowers-sensitivity: 0.08 nats [0.02, 0.13]")
    assert "0.31 no interval" in lines[3] and "0 exact" in lines[4]
    assert lines[5].endswith("instabilities, 38 min 32 s: 2 supported, 1 contradicted, 2 inconclusive")
    assert lines[6] == f"report: {run_folder / 'report.html'}"
    assert "\x1b" not in "".join(lines)


def test_a_terminal_gets_a_coloured_table(run_folder):
    text = shown(run_folder, width=140, force_terminal=True, color_system="standard")
    assert "\x1b[1;32m✓ supported" in text and "\x1b[1;31m✗ contradicted" in text and "\x1b[33m~ inconclusive" in text
    assert "╭" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits_the_terminal(run_folder, width):
    text = shown(run_folder, width=width, force_terminal=True, color_system=None)
    table = [line for line in text.splitlines() if line[:1] in "╭│├╰"]
    assert table and max(len(line) for line in table) <= width


def test_several_studies_are_summed_up(studies_folder):
    text = shown(studies_folder)
    assert "Scaling exponents" in text and "all 2 studies: 3 supported, 2 contradicted, 3 inconclusive" in text


def test_a_folder_without_report_says_how_to_get_one(tmp_path):
    (tmp_path / "config.json").write_text('{"title": "Check"}')
    text = shown(tmp_path)
    assert "Check: no claims were measured" in text and f"fiona report {tmp_path}" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_foreign_text_is_neither_markup_nor_control(tmp_path, terminal):
    hostile = "[red]x[/red] [/] \x1b[2J\x07\n\r\u202e [link=http://example.invalid]y"
    claim = Claim("[bold]", hostile, hostile, hostile, "greater", 1.0, unit=hostile)
    write_claims(tmp_path, [measure(claim, exact(2.0), detail=hostile)])
    (tmp_path / "config.json").write_text('{"title": "[blink]\\u001b]0;t"}')
    text = shown(tmp_path, width=200, force_terminal=terminal, color_system=None)
    assert "[red]x[/red]" in text and "[blink]" in text
    assert not any(letter in text for letter in "\x1b\x07\r\u202e")
    assert terminal or len(text.splitlines()) == 3


def test_no_run_is_a_user_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="folder"):
            print_summary(path)

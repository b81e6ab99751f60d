import json
import math
import re
import shutil
from dataclasses import replace

import pytest

from fionalm.errors import UserError
from fionalm.report import (
    Claim,
    Section,
    Table,
    exact,
    measure,
    read_claims,
    save_figure,
    write_claims,
    write_index,
    write_report,
    write_sections,
)
from fionalm.report.figures import Line, lines_with_intervals
from fionalm.report.svg import INKS, inline_figure, interval_svg
from fionalm.statistics import Interval

HOSTILE = (
    "<script>window.ran=1</script>\"'><img src=http://example.invalid/x onerror=ran=1>{{ 7*7 }}&amp;\x00\ud800\x1b[2J"
)


@pytest.fixture
def hostile_folder(tmp_path):
    """A run in which every text that a report shows wants to break out."""
    claim = Claim("an-id", HOSTILE, HOSTILE, HOSTILE, "greater", 1.0, unit=HOSTILE, samples=HOSTILE)
    write_claims(tmp_path, [measure(replace(claim, id=HOSTILE), Interval(2.0, 0.5, 3.0), detail=HOSTILE, n=3)])
    texts = {"title": HOSTILE, "command": HOSTILE, "scale": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    paper = {"title": HOSTILE, "authors": HOSTILE, "url": "javascript:alert(1)"}
    (tmp_path / "config.json").write_text(json.dumps({**texts, "paper": paper}))
    (tmp_path / "environment.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (tmp_path / "run.json").write_text(json.dumps({HOSTILE: HOSTILE, "finished": HOSTILE}))
    write_sections(tmp_path, [Section(HOSTILE, HOSTILE, [Table([HOSTILE], [[HOSTILE]], HOSTILE, folded=True)], [])])
    printable = "</text><script>ran=1</script>&"
    chart = lines_with_intervals([Line(printable, [1, 2], [1, 2])], x_label=printable, y_label=printable)
    path = save_figure(
        chart, tmp_path / "figures", "figure", HOSTILE, title=HOSTILE, alt=HOSTILE, data=[{printable: printable}]
    )
    svg = path.read_text()
    attack = (
        "<script>window.ran=1</script>"
        '<foreignObject><img xmlns="http://www.w3.org/1999/xhtml" src="x"/></foreignObject>'
        '<use href="http://example.invalid/a.svg#x"/><image href="http://example.invalid/b.png"/>'
        '<g onclick="ran=1" style="fill: url(http://example.invalid/c)"/>'
        '<a href="javascript:ran=1"><text>x</text></a>'
    )
    path.write_text(svg.replace("</svg>", attack + "</svg>"))
    return tmp_path


def test_folded_tables_show_their_caption(tmp_path, check_html):
    (tmp_path / "config.json").write_text("{}")
    tables = [Table(["a"], [["open"]], "first"), Table(["a"], [["hidden"]], "second", folded=True)]
    write_sections(tmp_path, [Section("Long", "", tables)])
    page = write_report(tmp_path).read_text()
    words = check_html(page)
    assert "<details><summary>second</summary>" in page and "<summary>first</summary>" not in page
    assert "hidden" in words


def test_a_report_is_valid_and_holds_what_the_run_holds(run_folder, check_html):
    page = write_report(run_folder).read_text()
    words = check_html(page)
    for entry in read_claims(run_folder):
        assert entry.claim.claim in words and entry.claim.paper in words
        assert f"supported if {entry.claim.criterion}" in words
    assert "fiona reproduce training-instabilities --scale laptop --seeds 3" in words
    assert "model.d_model 64" in words and "packages.torch 2.13.0" in words and "38 min 32 s" in words
    assert re.search(r"supported 2 contradicted 1 inconclusive 2", words)
    assert page.count("<figure") == 5 and "LR sensitivity of each intervention, in nats" in words
    assert "10 times [3.3, 30]" in words and "0.31 no interval" in words and "0 exact" in words


def test_a_report_reaches_no_other_host(run_folder):
    page = write_report(run_folder).read_text()
    page = re.sub(r'<a href="https://arxiv\.org/abs/2309\.14322"', "<a", page)
    assert not re.search(r"(?:src|href|srcset|action|poster|data)=\"(?!#|data:|\.\./)", page)
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page and "<script" not in page


def test_the_same_folder_gives_the_same_bytes(run_folder):
    assert write_report(run_folder).read_bytes() == write_report(run_folder).read_bytes()


def test_inks_follow_the_scheme_of_the_reader(run_folder):
    page = write_report(run_folder).read_text()
    drawn = page[page.index("<figure") :]
    assert not any(color in drawn for color in INKS.values())
    assert drawn.count("var(--ink)") > 50


def test_text_that_wants_to_be_markup_stays_text(hostile_folder, check_html):
    page = write_report(hostile_folder).read_text()
    check_html(page)
    assert "<script" not in page and "<img" not in page and "<foreignObject" not in page
    assert "javascript:" not in page and 'href="http' not in page and "(http" not in page
    assert "49" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).split("</style>")[1]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", page)
    assert page.count("&lt;script&gt;") > 15


def test_hostile_studies_in_one_index(hostile_folder, tmp_path_factory, check_html):
    folder = tmp_path_factory.mktemp("index")
    shutil.copytree(hostile_folder, folder / "a<b>&'\"#?%")
    page = write_index(folder).read_text()
    check_html(page)
    assert "<script" not in page and "<img" not in page
    assert 'href="a%3Cb%3E%26%27%22%23%3F%25/report.html"' in page


def test_an_index_sums_up_its_studies(studies_folder, check_html):
    path = write_report(studies_folder)
    assert path == studies_folder / "report.html"
    words = check_html(path.read_text())
    assert "2 studies" in words and "8 claims" in words and "1 h 17 min" in words
    assert re.search(r"supported 3 contradicted 2 inconclusive 3", words)
    for name in ("training-instabilities", "scaling exponents"):
        assert (studies_folder / name / "report.html").exists()
        assert f'href="{name.replace(" ", "%20")}/report.html"' in path.read_text()
    assert 'href="../report.html"' in (studies_folder / "scaling exponents" / "report.html").read_text()


def test_the_command_for_all_studies_lies_in_their_folder(tmp_path, make_run, check_html):
    make_run(tmp_path / "one")
    (tmp_path / "config.json").write_text('{"title": "All of them", "command": "fiona reproduce all --scale quick"}')
    (tmp_path / "run.json").write_text('{"seconds": 60}')
    words = check_html(write_report(tmp_path).read_text())
    assert "All of them" in words and "1 study" in words and "5 claims" in words and "1 min 0 s wall time" in words
    assert "fiona reproduce all --scale quick" in words


def test_a_study_is_not_taken_for_several(tmp_path, make_run):
    run = make_run(tmp_path / "run")
    make_run(run / "trial")
    assert "Claims of the paper" in write_report(run).read_text()
    assert not (run / "trial" / "report.html").exists()


def test_a_study_that_did_not_finish_is_listed_as_such(tmp_path, make_run, check_html):
    make_run(tmp_path / "done")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "config.json").write_text('{"title": "Killed early"}')
    words = check_html(write_index(tmp_path).read_text())
    assert "Killed early" in words and "no claims yet" in words


def test_a_command_without_claims_has_a_report(tmp_path, check_html):
    (tmp_path / "config.json").write_text(
        '{"title": "Coordinate check", "paper": "A paper by its name alone, arXiv 2407.05872"}'
    )
    words = check_html(write_report(tmp_path).read_text())
    assert "measured no claims" in words and "recorded no command" in words and "recorded no environment" in words
    assert "A paper by its name alone" in words
    assert '<a href="https://arxiv.org/abs/2407.05872"' in (tmp_path / "report.html").read_text()


def test_a_section_cannot_name_a_figure_that_is_not_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    write_sections(tmp_path, [Section("S", figures=["missing"])])
    with pytest.raises(UserError, match="'missing'"):
        write_report(tmp_path)


@pytest.mark.parametrize("text", ["", "<svg", "<p>no</p>", '<html xmlns="http://www.w3.org/1999/xhtml"/>'])
def test_a_broken_figure_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "bad.svg").write_text(text)
    with pytest.raises(UserError, match=r"bad\.svg"):
        write_report(tmp_path)


def test_folders_without_runs_are_user_errors(tmp_path):
    for write in (write_report, write_index):
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(UserError, match="folder"):
                write(path)


def test_long_data_is_shown_in_part_and_saved_whole(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    line = Line("a", list(range(500)), list(range(500)))
    save_figure(lines_with_intervals([line], x_label="x", y_label="y"), tmp_path / "figures", "long", "c")
    page = write_report(tmp_path).read_text()
    assert page.count("<tr><td>") == 200 and "the first 200 of 500 rows" in page
    assert len(re.findall(r"data:text/csv;charset=utf-8;base64,[A-Za-z0-9+/=]{5000,}", page)) == 1


def test_figures_keep_their_references_inside_themselves(run_folder):
    svg = run_folder / "figures" / "best-lr.svg"
    first, width = inline_figure(svg, "one-", "A figure")
    second, _ = inline_figure(svg, "two-", "A figure")
    ids = [set(re.findall(r'\sid="([^"]+)"', markup)) for markup in (first, second)]
    assert ids[0] and not ids[0] & ids[1]
    for markup, known in zip((first, second), ids, strict=True):
        used = set(re.findall(r'href="#([^"]+)"', markup)) | set(re.findall(r"url\(#([^)]+)\)", markup))
        assert used and used <= known
    assert 300 < width < 340 and 'aria-label="A figure"' in first and "<style" not in first


@pytest.mark.parametrize("direction", ["greater", "less", "within"])
@pytest.mark.parametrize(
    ("interval", "paper"),
    [(Interval(2, 1, 3), None), (Interval(2, 1, 3), 1e9), (Interval(2, 1, 3), 2.5), (exact(0.5), -1e9),
     (exact(1e16), 1.0), (Interval(math.nan, math.nan, math.nan), None),
     (Interval(1.0, math.nan, math.nan), 0.0)],
)  # fmt: skip
def test_the_drawing_of_an_interval_stays_in_its_frame(direction, interval, paper):
    claim = Claim("a", "c", "p", "s", direction, 0.5, paper_effect=paper)
    markup = str(interval_svg(measure(claim, interval)))
    places = [float(x) for x in re.findall(r'\b(?:x|x1|x2|cx)="([-\d.]+)"', markup)]
    assert all(0 <= x <= 220 for x in places) and "nan" not in markup and "inf" not in markup
    assert ('class="estimate"' in markup) == math.isfinite(interval.estimate)
    assert ('class="paper"' in markup) == (paper is not None)
    assert f"supported if {claim.criterion}" in markup

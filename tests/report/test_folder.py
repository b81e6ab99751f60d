import json

import pytest

from fionalm.errors import UserError
from fionalm.report import Run, Section, Table, read_run, write_run_facts, write_sections
from fionalm.report.folder import flatten, study_folders


def test_a_run_folder_is_read_whole(run_folder):
    run = read_run(run_folder)
    assert run.title == "Small-scale proxies for large-scale instabilities"
    assert run.command.startswith("fiona reproduce training-instabilities")
    assert run.seconds == 2312.4
    assert run.claims is not None and len(run.claims) == 5
    assert [figure.name for figure in run.figures] == [
        "sensitivity", "loss-against-lr", "best-lr", "attention-logits", "extrapolation",
    ]  # fmt: skip
    assert run.figures[1].columns[:2] == ["panel", "series"] and len(run.figures[1].rows or ()) == 56


def test_sections_survive_the_file(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    sections = [
        Section("A", "text", [Table(["a", "b"], [["x", 1.5], [None, True]], "c", folded=True)], []),
        Section("B"),
    ]
    write_sections(tmp_path, sections)
    again = read_run(tmp_path).sections
    assert again == [sections[0], Section("B", "", [], [])]


def test_a_run_without_claims_is_a_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"command": ["fiona", "coord-check", "a b"]}))
    run = read_run(tmp_path)
    assert run.claims is None and run.environment == {} and run.seconds is None
    assert run.command == "fiona coord-check 'a b'"
    assert run.title == tmp_path.name


def test_what_a_study_nests_is_found_too(tmp_path):
    run = Run(tmp_path, config={"config": {"seeds": 5}}, environment={"command": "fiona reproduce x"})
    assert run.seeds == 5 and run.command == "fiona reproduce x"
    assert Run(tmp_path, config={"seeds": 2, "config": []}).seeds == 2 and Run(tmp_path).seeds is None


def test_facts_hold_the_wall_time(tmp_path):
    write_run_facts(tmp_path, seconds=1.5, trials=3)
    assert json.loads((tmp_path / "run.json").read_text()) == {"seconds": 1.5, "trials": 3}
    assert Run(tmp_path, facts={"seconds": True}).seconds is None


@pytest.mark.parametrize("name", ["config.json", "environment.json", "run.json", "sections.json", "figures/x.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "3", '{"order": "first"}'])
def test_a_file_that_is_no_such_file_is_named(tmp_path, name, text):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.svg").write_text("<svg/>")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(text)
    if text == '{"order": "first"}' and name in ("config.json", "environment.json", "run.json"):
        return  # there it is an object like any other
    with pytest.raises(UserError, match=name.split("/")[-1].replace(".", r"\.")):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "section",
    [{}, {"title": "t", "bogus": 1}, {"title": "t", "figures": 3},
     {"title": "t", "tables": [{"columns": ["a"]}]},
     {"title": "t", "tables": [{"columns": ["a"], "rows": [["1", "2"]]}]},
     {"title": "t", "tables": [{"columns": ["a"], "rows": 3}]}],
)  # fmt: skip
def test_a_section_that_is_no_section_is_a_user_error(tmp_path, section):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sections.json").write_text(json.dumps([section]))
    with pytest.raises(UserError, match=r"sections\.json"):
        read_run(tmp_path)


def test_what_is_no_run_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        read_run(tmp_path / "nowhere")


def test_studies_are_the_run_folders_below(studies_folder):
    assert [path.name for path in study_folders(studies_folder)] == [
        "scaling exponents",
        "training-instabilities",
    ]
    assert study_folders(studies_folder / "nowhere") == []


def test_a_nested_config_becomes_dotted_names():
    config = {"a": {"b": 1, "c": {}}, "d": [1, "x"], "e": [{"f": None}], "g": []}
    assert flatten(config) == [("a.b", 1), ("a.c", "none"), ("d", "1, x"), ("e[0].f", None), ("g", "none")]

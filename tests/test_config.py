from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocr_onnx import config
from ocr_onnx.config import Config, load, save, to_yaml
from ocr_onnx.errors import OptionError
from ocr_onnx.options import DetOptions, InputOptions, ModelOptions, Options, RuntimeOptions


def write(folder: Path, text: str) -> Path:
    file = folder / "ocr.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_are_those_of_the_option_types() -> None:
    assert load() == Config()
    assert load().options == Options()


def test_flags_beat_assignments_beat_the_file_beats_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "det:\n  thresh: 0.1\n  box_thresh: 0.1\n  unclip_ratio: 1.1\n")
    assignments = ["det.thresh=0.2", "det.box_thresh=0.15", "det.box_thresh=0.2"]
    det = load(file, assignments, {"det.thresh": 0.3, "det.dilate": None}).det
    assert det == DetOptions(thresh=0.3, box_thresh=0.2, unclip_ratio=1.1)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "det:\n", "det: {}\n", "---\n"])
def test_a_file_without_values_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text)) == Config()


def test_every_section_of_options_is_a_section_of_the_file() -> None:
    chosen = load(None, ["input.dpi=72", "crop.order=reference", "cls.enabled=true", "rec.batch_size=1"])
    assert chosen.options == Options(chosen.input, chosen.det, chosen.crop, chosen.cls, chosen.rec)
    assert chosen.options.input == InputOptions(dpi=72)
    assert chosen.options.crop.order == "reference"
    assert chosen.options.cls.enabled
    assert chosen.options.rec.batch_size == 1
    assert {section.name for section in fields(Options)} < {section.name for section in fields(Config)}


def test_every_key_has_a_description_and_no_other() -> None:
    keys = [
        f"{section.name}.{option.name}"
        for section in fields(Config)
        for option in fields(getattr(Config(), section.name))
    ]
    assert list(config.DESCRIPTIONS) == keys


def test_the_written_file_holds_every_key_once_and_explains_it() -> None:
    text = to_yaml(Config())
    for key, description in config.DESCRIPTIONS.items():
        assert text.count(f"  # {description}\n  {key.split('.')[1]}: ") == 1


awkward_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=40, deadline=None)
@given(
    path=awkward_text,
    password=awkward_text,
    thresh=st.floats(0, 1),
    unclip=st.floats(0, 10),
    max_bytes=st.integers(1, 10**30),
    offline=st.booleans(),
)
def test_what_is_written_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    path: str,
    password: str,
    thresh: float,
    unclip: float,
    max_bytes: int,
    offline: bool,
) -> None:
    wanted = Config(
        models=ModelOptions(rec=path, offline=offline),
        input=InputOptions(password=password, max_bytes=max_bytes),
        det=DetOptions(thresh=thresh, unclip_ratio=unclip),
    )
    file = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    file.write_text(to_yaml(wanted), encoding="utf-8", newline="\n")
    assert load(file) == wanted


def test_whole_numbers_pass_as_floats_and_become_floats() -> None:
    thresh = load(None, ["det.thresh=1"]).det.thresh
    assert thresh == 1.0
    assert type(thresh) is float


@pytest.mark.parametrize(
    ("assignment", "password"),
    [
        ("input.password=0123", "0123"),
        ("input.password=true", "true"),
        ("input.password=1:30", "1:30"),
        ("input.password='quoted'", "quoted"),
        ("input.password=", ""),
        ("input.password=a=b", "a=b"),
        ("input.password=[#: &x", "[#: &x"),
    ],
)
def test_an_assigned_text_stays_as_typed(assignment: str, password: str) -> None:
    assert load(None, [assignment]).input.password == password


def test_spaces_around_an_assignment_do_not_matter() -> None:
    assert load(None, [" runtime.threads = 3 "]).runtime == RuntimeOptions(threads=3)


@pytest.mark.parametrize(
    ("text", "subject", "problem", "remedy"),
    [
        ("dett:\n  thresh: 1\n", "dett", "not a known section", "did you mean det?"),
        ("det:\n  treshold: 1\n", "det.treshold", "not a known key", "did you mean det.thresh?"),
        ("det:\n  xyzzyplugh1234567: 1\n", "det.xyz", "not a known key", "`ocr-onnx config` lists them"),
        ("qqq:\n  a: 1\n", "qqq", "not a known section", "`ocr-onnx config` lists them"),
        ("3:\n  a: 1\n", ": 3", "not a known section", "`ocr-onnx config` lists them"),
        ("det:\n  thresh: high\n", "det.thresh", "is the text 'high'", "give a number"),
        ("det:\n  thresh: true\n", "det.thresh", "is true", "give a number"),
        ("det:\n  thresh:\n", "det.thresh", "is empty", "give a number"),
        ("det:\n  max_candidates: 2.5\n", "det.max_candidates", "is the number 2.5", "give a whole number"),
        ("det:\n  max_candidates: false\n", "det.max_candidates", "is false", "give a whole number"),
        ("det:\n  dilate: 1\n", "det.dilate", "is the number 1", "give true or false"),
        ("det:\n  score_mode: [fast]\n", "det.score_mode", "is a list", "give one of fast, slow"),
        ("input:\n  pages: 7\n", "input.pages", "is the number 7", "give text, in quotes"),
        ("input:\n  pages: 2026-01-01\n", "input.pages", "is a value of type date", "give text, in quotes"),
        ("rec:\n  width: {a: 1}\n", "rec.width", "is a mapping", "give one of tight, reference"),
        ("det:\n  thresh: 1.5\n", "det.thresh", "1.5 is out of range", "between 0 and 1"),
        ("det:\n  thresh: .nan\n", "det.thresh", "nan is out of range", "between 0 and 1"),
        (f"det:\n  thresh: 1{'0' * 400}\n", "det.thresh", "inf is out of range", "between 0 and 1"),
        ("det:\n  score_mode: quick\n", "det.score_mode", "'quick' is not a choice", "fast, slow"),
        ("input:\n  password: 1234\n", "input.password", "has the wrong type", "give text, in quotes"),
        ("models:\n  dictionary: d.txt\n", "models.dictionary", "without a rec model", "models.rec"),
        ("just words\n", "", "holds the text 'just words' where sections", "section: value"),
        ("2026-01-01\n", "", "holds a value of type date where sections", "section: value"),
        ("- det\n", "", "holds a list where sections", "section: value"),
        ("det: 0.5\n", ": det", "holds the number 0.5 where keys", "key: value"),
    ],
)
def test_a_bad_file_is_named_with_key_problem_and_remedy(
    tmp_path: Path, text: str, subject: str, problem: str, remedy: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(OptionError) as caught:
        load(file)
    assert caught.value.subject.startswith(str(file))
    assert subject in caught.value.subject
    assert problem in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("det:\n  thresh: 0.3\n  box_thresh: [0.5\nrec:\n", "in line 4"),
        ("det: {thresh: 0.3\n", "in line 2"),
        ("a: 2024-13-45\n", "is not valid YAML"),
        ("a: !!python/object:os.system {}\n", "in line 1"),
        ("a: \x00\n", "is not valid YAML"),
        ("[" * 600, "is not valid YAML"),
        ("1" * 5_000, "is not valid YAML"),
    ],
)
def test_broken_yaml_is_reported_with_its_line(tmp_path: Path, text: str, place: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(OptionError) as caught:
        load(file)
    assert caught.value.subject == str(file)
    assert place in caught.value.problem


def test_bytes_that_are_no_text_are_no_yaml(tmp_path: Path) -> None:
    file = tmp_path / "ocr.yaml"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(OptionError, match="is not valid YAML"):
        load(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no\.yaml: can't be read \(no such file or directory\)"):
        load(tmp_path / "no.yaml")
    with pytest.raises(OptionError, match="can't be read"):
        load(tmp_path)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is larger than 1048576 bytes"):
        load(write(tmp_path, "#" * (config.MAX_FILE_BYTES + 1)))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("det.thresh", "has no '='"),
        ("det.tresh=1", "--set: det.tresh: is not a known key; did you mean det.thresh?"),
        ("thresh=1", "is not a known key"),
        ("det.thresh=[1", "is not valid YAML"),
        ("det.thresh=", "--set: det.thresh: is empty; give a number"),
        ("det.thresh=7", "--set: det.thresh: 7.0 is out of range"),
    ],
)
def test_a_bad_assignment_is_named(assignment: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        load(None, [assignment])
    assert message in str(caught.value)


def test_the_place_named_is_the_one_that_counted(tmp_path: Path) -> None:
    file = write(tmp_path, "det:\n  thresh: 0.5\n")
    with pytest.raises(OptionError, match=r"^command line: det\.thresh: 9\.0 is out of range"):
        load(file, (), {"det.thresh": 9})


def test_a_value_that_a_later_one_replaces_is_not_judged(tmp_path: Path) -> None:
    file = write(tmp_path, "det:\n  thresh: high\n")
    assert load(file, ["det.thresh=0.2"]).det.thresh == 0.2


def test_a_config_can_be_changed_by_replacing() -> None:
    changed = replace(Config(), det=DetOptions(thresh=0.2))
    assert "thresh: 0.2\n" in to_yaml(changed)


def test_a_section_must_be_of_its_own_type() -> None:
    with pytest.raises(OptionError, match=r"^config\.det: is a value of type RuntimeOptions; .*DetOptions"):
        Config(det=RuntimeOptions())  # type: ignore[arg-type]


def test_devices_that_do_not_work_are_not_advertised() -> None:
    assert "," not in config.DESCRIPTIONS["runtime.device"].replace(", ", "")


def test_a_saved_file_reads_back_equal_and_its_folders_are_made(tmp_path: Path) -> None:
    wanted, file = Config(models=ModelOptions(rec="中文.onnx")), tmp_path / "new" / "deep" / "ocr.yaml"
    save(wanted, file)
    assert load(file) == wanted
    assert [path.name for path in file.parent.iterdir()] == ["ocr.yaml"]


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    file = write(tmp_path, "# mine\n")
    with pytest.raises(OptionError, match=r"ocr\.yaml: exists already; .* --force"):
        save(Config(), file)
    assert file.read_text() == "# mine\n"
    save(Config(), file, overwrite=True)
    assert file.read_text(encoding="utf-8") == to_yaml(Config())


def test_a_link_to_nowhere_exists_too(tmp_path: Path) -> None:
    link = tmp_path / "ocr.yaml"
    link.symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(OptionError, match="exists already"):
        save(Config(), link)


def test_half_a_file_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    file = write(tmp_path, "# mine\n")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OptionError, match=r"can't be written \(No space left on device\)"):
        save(Config(), file, overwrite=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["# mine\n"]


@pytest.mark.parametrize("name", ["", "plain/ocr.yaml"])
def test_what_cant_be_written_is_an_option_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").write_text("a file, no folder")
    with pytest.raises(OptionError, match="can't be written"):
        save(Config(), tmp_path / name, overwrite=True)

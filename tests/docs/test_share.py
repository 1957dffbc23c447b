"""The page on sharing lists the files and arguments that there are."""

from energyflow_mlx.inference.formats.folder import OURS
from tests.build.tiny import make_codec
from tests.docs.pages import names_in, section, table_rows
from tests.inference.test_encoder import LIBRARY

PAGE = "docs/share.md"


def test_a_folder_holds_the_files_of_its_table(tmp_path):
    rows = table_rows(section(PAGE, "One folder"), "File")
    make_codec().save_pretrained(tmp_path / "m")
    named = {name for row in rows for name in names_in(row[0])}
    assert named == {path.name for path in (tmp_path / "m").iterdir()} <= OURS


def test_every_argument_of_the_library_is_told_same_differs_or_not_applicable():
    rows = table_rows(
        section(PAGE, "Encoding as sentence-transformers does"), "Argument"
    )
    assert {names_in(name)[0]: kind for name, kind, _ in rows} == LIBRARY
    assert all(why for _, _, why in rows)

"""Names that every file system takes, and names as they are printed."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guidxmage.files.names import LONGEST, digest_of, folded, folder_name, shown, with_suffix

RESERVED = ["con", "PRN", "aux", "NUL", "com1", "LPT9", "com¹", "con.tar", "CONOUT$"]


@pytest.mark.parametrize(
    "name", ["chelsea", "ünïcode", "two words", "写真", "a.b", "-v", "x" * 255][:]
)
def test_names_that_are_safe_stay(name: str) -> None:
    assert folder_name(name) == name


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("..", "photo"),
        (".", "photo"),
        ("", "photo"),
        (". .", "photo"),
        (".hidden", "hidden"),
        ("tail. ", "tail"),
        ("a/b\\c", "a_b_c"),
        ('<>:"|?*', "_______"),
        ("new\nline\x00\x7f\x9b", "new_line___"),
        ("bytes\udcff", "bytes_"),
        ("turned\u202egnp", "turned_gnp"),
        ("par\u2029agraph", "par_agraph"),
        *((name, f"{name}_") for name in RESERVED),
        ("console", "console"),
        ("é" * 200, "é" * 127),
    ],
)
def test_other_names_are_made_safe(stem: str, expected: str) -> None:
    assert folder_name(stem) == expected


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_every_name_is_one_that_can_be_made(stem: str) -> None:
    name = folder_name(stem)
    assert name == name.strip(". ")
    assert 0 < len(name.encode("utf-8")) <= LONGEST
    assert os.path.basename(name) == name
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in name)
    assert folder_name(name) == name
    longer = with_suffix(name, "0123abcd")
    assert longer.endswith("-0123abcd")
    assert len(longer.encode("utf-8")) <= LONGEST
    line = shown(stem)
    assert line.encode("utf-8").decode() == line
    assert len(line.splitlines()) <= 1


def test_every_name_can_be_made_here(tmp_path: Path) -> None:
    for stem in [*RESERVED, "..", "a\nb", "\udcff", "é" * 300, "x" * 300, "q" * 246]:
        for name in (folder_name(stem), with_suffix(folder_name(stem), "0" * 64)):
            (tmp_path / name).mkdir(exist_ok=True)
            assert (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_names_that_some_file_system_takes_for_one() -> None:
    composed, apart = (
        unicodedata.normalize("NFC", "Ångström"),
        unicodedata.normalize("NFD", "ångström"),
    )
    assert composed != apart
    assert folded(composed) == folded(apart)
    assert digest_of("PHOTO", 16) == digest_of("photo", 16) != digest_of("photo2", 16)
    assert folded("straße") == folded("STRASSE")

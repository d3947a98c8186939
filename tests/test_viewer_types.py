"""The viewer's modules can be joined into one, and are typed."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from guidxmage.viewer.page_files import (
    exports_of,
    in_order,
    inline,
    module_of,
    script_of,
    viewer_module,
    viewer_script,
)
from tests.viewer_tools import ASSETS, missing, program

MODULES = sorted(path.stem for path in ASSETS.glob("*.js"))
IMPORT = re.compile(r'import \{ (\w+(?:, \w+)*),? \} from "\./([a-z_]+)\.js";')
DECLARED = re.compile(
    r"^(?:export )?(?:async function\*?|function\*?|class|const|let|var) ([\w$]+)", re.MULTILINE
)
# Both are this one version, so that a check made today says the same tomorrow.
TYPESCRIPT = "typescript@5.9.3"


def text_of(name: str) -> str:
    return (ASSETS / f"{name}.js").read_text(encoding="utf-8")


def entries() -> list[str]:
    """The modules that nobody imports."""
    imported = {other for name in MODULES for _, other in _imports(name)}
    return [name for name in MODULES if name not in imported]


def _imports(name: str) -> list[tuple[list[str], str]]:
    one_line = re.sub(r"\{\s*([^}]*?),?\s*\} from", _on_one_line, text_of(name))
    return [(names.split(", "), other) for names, other in IMPORT.findall(one_line)]


def _on_one_line(found: re.Match[str]) -> str:
    return "{ " + ", ".join(part.strip() for part in found[1].split(",")) + " } from"


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_small_and_import_in_one_form(name: str) -> None:
    text = text_of(name)
    assert len(text.splitlines()) <= 400
    found = _imports(name)
    assert len(re.findall(r"^import\b", text, re.MULTILINE)) == len(found), "another form of import"
    for names, other in found:
        assert other in MODULES
        assert set(names) <= set(exports_of(other)), f"{name} imports what {other} does not export"
    exports = re.findall(r"^export\b.*$", text, re.MULTILINE)
    assert len([line for line in exports if line != "export {};"]) == len(exports_of(name))
    # A name taken apart at the top would be seen by no one who looks for names.
    assert not re.search(r"^(?:export )?(?:const|let|var) [\[{]", text, re.MULTILINE)
    assert not re.search(r"\bimport\(\"(?!\./)", text)
    assert not re.search(r"^(?!\s*(?:\*|//|/\*)).*\bawait import\(", text, re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_functions_can_be_seen_whole(name: str) -> None:
    """From where one begins to the brace that closes it in the same column."""
    lines = text_of(name).splitlines()
    begins = re.compile(
        r"^(\s*)(?:export )?(?:static )?(?:async )?(?:function\b.*|get |set )?[\w$]*\(.*\) \{$"
    )
    for number, line in enumerate(lines):
        found = begins.match(line)
        word = line.strip().split("(")[0].split(" ")[0]
        if found and word not in ("if", "for", "while", "switch", "catch"):
            close = f"{found[1]}}}"
            after = lines[number + 1 :]
            end = next((n for n, one in enumerate(after) if one.startswith(close)), 0)
            assert end < 60, f"{name}.js: {line.strip()}"


def test_no_two_modules_share_a_name() -> None:
    """But for those that never come into one page together."""
    for entry in entries():
        names = [one for name in in_order(entry) for one in DECLARED.findall(text_of(name))]
        assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("entry", entries())
def test_joined_modules_are_read(entry: str, tmp_path: Path) -> None:
    """Node parses them: a name that is declared twice, or a lost import, is no module."""
    node = program("node")
    for name, text in {"one.mjs": module_of(entry), "one.cjs": script_of(entry)}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        arguments = [node, "--check", str(tmp_path / name)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_viewer_has_one_door(tmp_path: Path) -> None:
    assert viewer_module().rstrip().splitlines()[-1].startswith("export { mount")
    assert "window.guidXmage = { ...window.guidXmage, mount" in viewer_script()
    assert not re.search(r"^(?:import|export) (?!\{ mount)", viewer_module(), re.MULTILINE)


def test_nothing_in_a_script_ends_it() -> None:
    text = 'const a = "</script>", b = "<!-- <SCRIPT>", c = 1 < 2;'
    safe = inline(text)
    assert not re.search(r"</?script|<!--", safe, re.IGNORECASE)
    assert "1 < 2" in safe
    assert inline(viewer_script()).count("</script") == 0


def test_modules_in_a_circle_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a.js": 'import { b } from "./b.js";\n', "b.js": 'import { a } from "./a.js";\n'}
    monkeypatch.setattr("guidxmage.viewer.page_files.asset", texts.__getitem__)
    with pytest.raises(ValueError, match="a → b → a"):
        in_order("a")


def test_types_are_clean() -> None:
    """TypeScript reads the types in the modules' comments; it comes by npm, which may have it."""
    npx = program("npx")
    start = [npx, "--yes", "--package", TYPESCRIPT, "tsc"]
    there = subprocess.run([*start, "--version"], capture_output=True, text=True, check=False)
    if there.returncode:
        missing(f"{TYPESCRIPT} (by npx)")
    settings = Path(__file__).parents[1] / "tsconfig.json"
    assert json.loads(settings.read_text())["compilerOptions"]["strict"]
    arguments = [*start, "--project", str(settings)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout

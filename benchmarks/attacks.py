"""How small the perturbations of our attack and of other libraries' attacks are, and their cost.

    python benchmarks/attacks.py --network robust --norms l2 --attacks guid-xmage,DDN

Every attack gets the same images and a network that counts the passes. Every sample is checked by
the network itself, and its norm is computed here. See the README for what the columns mean.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import result_table
import torch
from attack_table import OURS, SUMMARY, TABLES, insert, markdown, summary
from competitors import NORMS, competitors, versions
from measured import Row, checked, measure
from subjects import NAMES, Subject, subject

from guidxmage import __version__
from guidxmage.adversarial import attack

BUDGETS, BUDGETS_LARGE = (16, 40, 100, 300, 1000), (16, 40, 100)
README = Path(__file__).parent / "README.md"


def ours(target: Subject, norm: str, budget: int) -> Row:
    """Our attack; its passes are those it states, since it runs the network without calling it."""
    start = time.process_time()
    result = attack(target.ours, target.images, target.labels, norm=norm, budget=budget)
    seconds = time.process_time() - start
    norms = checked(target.network, target.images, target.labels, result.adversarial, norm)
    return Row(
        network=target.name,
        norm=norm,
        attack=str(budget),
        library=OURS,
        norms=norms,
        forwards=result.forwards,
        backwards=result.backwards,
        seconds=seconds / len(target.images),
    )


def run(target: Subject, norm: str, chosen: Sequence[str], missing: set[str]) -> Iterator[Row]:
    """The rows of one network and norm; libraries that are missing are added to `missing`."""
    for budget in BUDGETS_LARGE if target.large else BUDGETS:
        if _wanted(chosen, OURS, str(budget)):
            yield ours(target, norm, budget)
    if chosen == [OURS]:
        return
    found, left_out = competitors(norm, target.large)
    missing.update(left_out)
    for one in found:
        if _wanted(chosen, one.library, one.name):
            if one.warm_up:
                measure(one.run, target.network, target.images[:1], target.labels[:1], norm)
            fields = measure(one.run, target.network, target.images, target.labels, norm)
            yield Row(target.name, norm, one.name, one.library, **fields)


def _wanted(chosen: Sequence[str], library: str, name: str) -> bool:
    """Whether one of the given words is the library or part of the attack's full name."""
    return not chosen or any(word.lower() in f"{library} {name}".lower() for word in chosen)


# --- the file ------------------------------------------------------------------------------------


def read(file: Path | None) -> dict[str, Any]:
    """What an earlier run has written, or the empty start of it."""
    if file is None or not file.is_file():
        return {"conditions": {}, "networks": {}, "rows": []}
    conditions, rows = result_table.read(file)
    networks = conditions.pop("networks")
    return {"conditions": conditions, "networks": networks, "rows": [Row(**row) for row in rows]}


def write(file: Path, content: dict[str, Any]) -> None:
    """The rows, to seven digits, and which images they are about."""
    conditions = {**content["conditions"], "networks": content["networks"]}
    result_table.write(file, conditions, [_rounded(asdict(row)) for row in content["rows"]])


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return {key: _rounded(part) for key, part in value.items()} if type(value) is dict else value


def enter(content: dict[str, Any], row: Row) -> None:
    """Replace the row of the same attack, or add it beside the rows of its network and norm."""
    rows = [old for old in content["rows"] if _key(old) != _key(row)] + [row]
    order = {norm: position for position, norm in enumerate(NORMS)}
    rows.sort(key=lambda one: (NAMES.index(one.network), order[one.norm], one.library != OURS))
    content["rows"] = rows


def _key(row: Row) -> tuple[str, str, str, str]:
    return (row.network, row.norm, row.library, row.attack)


def conditions() -> dict[str, str | int]:
    """What the times depend on."""
    return {
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "guid-xmage": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        **versions(),
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default=",".join(NAMES), help="names, separated by commas")
    parser.add_argument("--norms", default=",".join(NORMS), help="names, separated by commas")
    parser.add_argument(
        "--attacks", "--only", default="", help='libraries or parts of names, "ours"; default all'
    )
    parser.add_argument("--samples", type=int, help="the first so many images (default all)")
    parser.add_argument("--json", type=Path, help="results; rows that are not run are kept")
    parser.add_argument(
        "--readme", action="store_true", help="also rewrite the tables of the READMEs"
    )
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _arguments(argv)
    chosen = [OURS if word == "ours" else word for word in arguments.attacks.split(",") if word]
    norms = arguments.norms.split(",")
    if unknown := set(norms) - set(NORMS):
        raise SystemExit(f"norm {min(unknown)!r} is unknown; choose from {', '.join(NORMS)}")
    content = read(arguments.json)
    missing: set[str] = set()
    for name in [] if arguments.tables else arguments.network.split(","):
        target = subject(name, arguments.samples)
        known = content["networks"].setdefault(
            name, {"samples": len(target.images), "digest": target.digest}
        )
        if known["digest"] != target.digest:
            raise SystemExit(f"{arguments.json} has other weights or images of {name}")
        for norm in norms:
            for row in run(target, norm, chosen, missing):
                print(f"{name} {norm} {row.library} {row.attack}", flush=True)
                enter(content, row)
                content["conditions"] = conditions()
                if arguments.json:
                    write(arguments.json, content)
    print(markdown(content["rows"]))
    for line in sorted(missing):
        print(f"left out: {line}")
    if arguments.readme:
        insert(README, markdown(content["rows"]), TABLES)
        insert(README.parents[1] / "README.md", summary(content["rows"]), SUMMARY)


if __name__ == "__main__":
    main()

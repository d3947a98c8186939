"""The version of guid-Xmage, and of the packages that a result depends on."""

from __future__ import annotations

from collections.abc import Iterable

__version__ = "0.1.0"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """By distribution name; "not installed" where a package is not."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

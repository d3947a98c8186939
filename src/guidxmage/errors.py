"""What can go wrong, in one sentence each: what was wrong and what to do about it."""

from __future__ import annotations


class GuidXmageError(Exception):
    """Base of every error this package raises on purpose; its text is written for the user."""


class InputError(GuidXmageError, ValueError):
    """An image, mask, target, model, weight file or path that cannot be used."""


class SettingError(InputError):
    """A value that a setting cannot have. key: its dotted path; words: what was wrong with it."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key} {words}")
        self.key, self.words = key, words

    def below(self, path: str) -> SettingError:
        """The same error as seen from further out."""
        return SettingError(f"{path}{self.key}", self.words)


class UnsupportedOperatorError(GuidXmageError, NotImplementedError):
    """The network uses an operator without a rule; it is refused rather than approximated."""


class OffTrailError(GuidXmageError, ValueError):
    """The symbolic model was asked about an image that does not follow its trail."""


class MissingExtraError(GuidXmageError, ImportError):
    """An optional dependency is needed for what was asked."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is needed for this; install it with: pip install 'guid-xmage[{extra}]'"
        )

"""What a user can do wrong, as exceptions whose text is shown without a traceback."""

from __future__ import annotations


class IchError(Exception):
    """An expected failure: the message names the file or key, the value found, the value wanted and the remedy."""

    exit_code = 1


class UsageError(IchError):
    """A wrong option, configuration or data folder: nothing was started."""

    exit_code = 2


class DataError(IchError):
    """The data as a whole must not be trained on."""


class ScanError(IchError):
    """One scan cannot be used; in a cohort it is quarantined under `code`, alone it ends the command.

    Attributes:
        code: Short stable name of the reason, for example `mask-shape`.
    """

    exit_code = 2

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[ScanError], tuple[str, str]]:
        """Lets it travel between processes."""
        return type(self), (self.code, str(self))


def root_cause(error: BaseException) -> BaseException:
    """The IchError behind an error, in its first wording: Beam appends the step to it. Else the error itself."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and not any(current is known for known in chain):
        chain.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    expected = [link for link in chain if isinstance(link, IchError)]
    return expected[-1] if expected else error

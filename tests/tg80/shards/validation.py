"""What the tests of validation share."""

from tg80.files import checksum_path, file_sha256
from tg80.shards.validate import validate


def refresh_checksum(path):
    """Let the checksum file fit a shard that was spoilt on purpose."""
    checksum_path(path).write_text(f"{file_sha256(path)}  {path.name}\n")


def errors_of(path):
    """Checks that found an error."""
    return {problem.check for problem in validate(path) if problem.level == "error"}


def checks_of(path):
    """(level, check) of all problems."""
    return {(problem.level, problem.check) for problem in validate(path)}

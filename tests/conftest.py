"""Fixtures for all rooms. Nothing of the dataset is imported here before a fixture asks for it, so
that `tests/atom` runs where only the model's own dependencies are installed."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config, items):
    """Skips, and says so, what takes minutes and was not asked for."""
    if config.getoption("--slow") or config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="takes minutes: make test-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def shard_factory(tmp_path):
    """`make_shard(molecule_or_name, folder=..., **settings) -> Path`."""
    from tests.support import factories

    def make(molecule_or_name="CCO", folder=None, **settings):
        return factories.make_shard(folder or tmp_path, molecule_or_name, **settings)

    return make


@pytest.fixture(scope="session")
def ethanol_shard(tmp_path_factory):
    """One clean shard of ethanol, 400 frames 1 fs apart; not to be changed."""
    from tests.support import factories

    folder = tmp_path_factory.mktemp("ethanol")
    return factories.make_shard(folder, "ethanol", n_frames=400)

"""Fixtures of the tests of downloads and of validation."""

import shutil

import pytest


@pytest.fixture
def no_outside_settings(monkeypatch, tmp_path):
    """Neither the settings nor the proxies of whoever runs the tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("TG80_SOURCE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def site(tmp_path, no_outside_settings):
    """A published tree with version 1.0."""
    from tests.tg80.release.published import publish_tree

    publish_tree(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def server(site):
    """A web server of `site`."""
    from tests.support.web_server import serving

    with serving(site) as server:
        yield server


@pytest.fixture
def copy(ethanol_shard, tmp_path):
    """A copy of the clean shard that may be spoilt."""
    from tests.tg80.shards.validation import refresh_checksum

    path = tmp_path / ethanol_shard.name
    shutil.copy(ethanol_shard, path)
    refresh_checksum(path)
    return path

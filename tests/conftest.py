"""Fixtures for the processes that run tests."""


def pytest_configure(config):
    # With -n, the process that deals out tests needs no TensorFlow, and starts at once.
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("common_fixtures")

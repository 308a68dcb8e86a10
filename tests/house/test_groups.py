"""How the tests themselves are spread over processes."""

import pytest


@pytest.fixture(scope="module")
def shared():
    """Of this file, as others have them."""


def test_tests_that_share_a_fixture_of_their_file_run_in_one_process(request, shared):
    """With pytest 9.2, pytest-xdist 3.8 says nothing and forms no groups: each process makes the fixture again."""
    grouped = request.node.nodeid.endswith("@test_groups")
    assert grouped == request.config.getoption("loadgroup", False)

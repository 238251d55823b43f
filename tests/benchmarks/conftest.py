import pytest
import torch

from tests.benchmarks import toys


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data():
    """Fold 2 of the toys; not to be changed."""
    return toys.toy_data()

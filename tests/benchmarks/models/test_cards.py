"""Every registered model has a card that agrees with its class."""

import pytest

from benchmarks.models import MODELS
from benchmarks.models import cards as module
from benchmarks.models.cards import card_path, read_card
from tg80.errors import UserError


@pytest.mark.parametrize("model_id", MODELS)
def test_the_card_is_the_model_s(model_id):
    card, model = read_card(model_id), MODELS[model_id]
    assert (model.equivariance, model.trains) == (card.equivariance, card.trains)
    assert ("molecule" in card.inputs) >= model.seen_only


def test_no_card_is_left_over():
    assert {path.stem for path in card_path("atom").parent.glob("*.toml")} == set(MODELS)


GOOD = card_path("egno").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace('name = "EGNO"', ""), "egno.toml: name: Field required"),
        (GOOD + "[speed]\n", "egno.toml: speed: Extra inputs are not permitted"),
        (GOOD.replace('"E(3)"', '"E(2)"'), "egno.toml: equivariance: Input should be"),
        (GOOD.replace("trains = true", "trains = false"), "if, and only if, it trains"),
        (GOOD.replace('labels = ["positions"]', "labels = []"), "names its labels"),
        (GOOD.replace("https://arxiv", "http://arxiv"), "egno.toml: paper.url"),
        (GOOD.replace('id = "egno"', 'id = "egnn"'), "egno.toml: id is 'egnn'"),
        ("id = ", "egno.toml: not a TOML file"),
        (None, "model egno has no card; write egno.toml"),
    ],
)
def test_what_is_wrong_with_a_card_is_told(text, message, tmp_path, monkeypatch):
    path = tmp_path / "egno.toml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(module, "card_path", lambda _: path)
    with pytest.raises(UserError) as error:
        read_card("egno")
    assert message in str(error.value)

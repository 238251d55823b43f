"""The tables of docs/model/atom.md against the code."""

from pathlib import Path

from atom import ATOM, PRESETS, ATOMConfig
from atom.variants.ablations import ABLATIONS

PAGE = Path(__file__).parents[2] / "docs" / "model" / "atom.md"


def tables() -> dict[str, str]:
    """Settings and presets as the Markdown tables of the page, by their first column's name."""
    settings = ["| setting | default | meaning |", "|---|---|---|"]
    for name, info in ATOMConfig.model_fields.items():
        settings.append(f"| `{name}` | `{info.default}` | {info.description} |")
    presets = [
        "| preset | blocks | width | heads | feed-forward | pair layers | output | parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in PRESETS:
        config = ATOMConfig.preset(name)
        presets.append(
            f"| `{name}` | {config.n_blocks} | {config.width} | {config.n_heads} "
            f"| {config.feedforward_width} | {config.pair_layers} | `{config.output}` "
            f"| {ATOM(config).n_parameters:,} |"
        )
    ablations = ["| word | settings | why the forward differs |", "|---|---|---|"]
    for name, ablation in ABLATIONS.items():
        changes = ", ".join(f"`{field}={value}`" for field, value in ablation.overrides.items())
        ablations.append(f"| `{name}` | {changes} | {ablation.description} |")
    parts = {"setting": settings, "preset": presets, "ablation": ablations}
    return {name: "\n".join(rows) for name, rows in parts.items()}


def test_the_tables_of_the_docs_are_the_code_s():
    assert all(info.description for info in ATOMConfig.model_fields.values())
    page = PAGE.read_text()
    for name, table in tables().items():
        assert f"\n\n{table}\n\n" in page, f"the table of {name}s is to be:\n{table}"

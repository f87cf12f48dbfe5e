"""Each row of the table in docs/adapters.md: a file in that layout does to the model what its factors say, or is
refused by name. At the full depth in two blocks of Qwen-Image's real sizes, else of small ones."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn

from inference.errors import AdapterUnavailable
from tests.inference.adapters.conftest import House
from tests.inference.adapters.layouts import IGNORED, READ, REFUSED, ROWS, Layout

PAGE = Path(__file__).parents[3] / "docs/adapters.md"
REAL = {
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
    "joint_attention_dim": 3584,
}
SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 24}


class TwoBlocks(House):
    """Two blocks of the transformer, all of whose weights share their memory, and the weights merged by hand."""

    def __init__(self, sizes: dict[str, object]) -> None:
        with torch.device("meta"):
            transformer = QwenImageTransformer2DModel(num_layers=2, **sizes)
        with torch.device("cpu"):
            bare = QwenImageTransformer2DModel(num_layers=0, **(SMALL | {"axes_dims_rope": sizes["axes_dims_rope"]}))
        transformer.pos_embed = bare.pos_embed
        most = max(parameter.numel() for parameter in transformer.parameters())
        numbers = torch.randn(most, generator=torch.Generator().manual_seed(0)) * transformer.inner_dim**-0.5
        for module in transformer.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                weight = (
                    torch.ones(parameter.shape)
                    if "norm" in type(module).__name__.lower()
                    else numbers[: parameter.numel()]
                )
                setattr(module, name, nn.Parameter(weight.view(parameter.shape), requires_grad=False))
        self.width = sizes["joint_attention_dim"]
        super().__init__(transformer.eval())

    @torch.inference_mode()
    def run(self, rows) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        with self.layers.given(rows):
            return self.transformer(
                hidden_states=torch.randn(1, 4, 64, generator=generator),
                timestep=torch.tensor([0.7]),
                encoder_hidden_states=torch.randn(1, 3, self.width, generator=generator),
                img_shapes=[[(1, 2, 2)]],
                attention_kwargs={"text_lengths": [3]},
                return_dict=False,
            )[0]

    def merged(self, layout: Layout) -> torch.Tensor:
        """Run the plain transformer with the layout's products added to its weights."""
        before = {name: self.transformer.get_submodule(name).weight for name in layout.factors}
        for name, (down, up) in layout.factors.items():
            change = layout.scales[name] * (up.float() @ down.float())
            self.transformer.get_submodule(name).weight = nn.Parameter(before[name] + change, requires_grad=False)
        try:
            return self.run([()])
        finally:
            for name, weight in before.items():
                self.transformer.get_submodule(name).weight = weight


@pytest.fixture(scope="session")
def two_blocks(request) -> TwoBlocks:
    return TwoBlocks(REAL if request.config.getoption("--full") else SMALL)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict != REFUSED])
def test_what_is_read_changes_the_model_as_its_factors_say(two_blocks, tmp_path, name):
    layout = ROWS[name].make(dict(two_blocks.layers.sizes))
    adapter = two_blocks.read(layout.write(tmp_path / "adapter"))
    expected, plain = two_blocks.merged(layout), two_blocks.run([()])
    change = (expected - plain).abs().max().item()
    assert change > 0.02 * plain.abs().max(), "a change that can be seen"
    torch.testing.assert_close(two_blocks.run([((adapter, 1.0),)]), expected, rtol=0, atol=1e-3 * change)
    assert (ROWS[name].verdict == IGNORED) == bool(adapter.warnings)
    assert all(ROWS[name].reason in warning for warning in adapter.warnings)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.verdict == REFUSED])
def test_what_is_refused_is_refused_by_its_name(two_blocks, tmp_path, name):
    path = ROWS[name].make(dict(two_blocks.layers.sizes)).write(tmp_path / "adapter")
    with pytest.raises(AdapterUnavailable, match=re.escape(ROWS[name].reason)) as refusal:
        two_blocks.read(path)
    assert str(tmp_path) not in str(refusal.value)


def test_the_page_says_of_each_format_what_happens_to_it():
    rows = re.findall(r"^\| ([^|]+) \| [^|]*\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    said = {name.strip(): verdict.strip() for name, verdict in rows if not set(name) <= {"-", " "}}
    said.pop("written by")
    assert said == {name: row.verdict for name, row in ROWS.items()}
    assert {READ, REFUSED, IGNORED} == set(said.values())

"""PEFT's configuration of an adapter: what it says of the arithmetic is done as PEFT does it, or refused by name."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from inference.adapters.configuration import HONOURED
from inference.errors import AdapterUnavailable
from tests.inference.adapters.conftest import forward
from tests.inference.adapters.one_layer import ANYTHING, BARE, LAYER, good, kohya

CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize(
    "configuration",
    [
        "[" * 100_000,
        "{",
        "[]",
        json.dumps({"lora_alpha": "8"}),
        json.dumps({"lora_alpha": float("nan")}),
        json.dumps({"alpha_pattern": ["to_q"]}),
        json.dumps({"alpha_pattern": {"to_q": None}}),
        json.dumps({"transformer.use_dora": True}),
        json.dumps({"text_encoder.r": 4, "text_encoder.lora_alpha": 64}),
        '{"lora_alpha": 8, "lora_alpha": 4}',
        '{"lora_alpha": 8, "alpha_pattern": {"to_q": 4, "to_q": 16}}',
    ],
    ids=lambda text: text[:30],
)
def test_a_broken_configuration_is_refused(house, tmp_path, configuration):
    path = tmp_path / "broken.safetensors"
    save_file(good(), path, metadata={"lora_adapter_metadata": configuration})
    with pytest.raises(AdapterUnavailable):
        house.read(path)


@pytest.mark.parametrize(
    "pattern", ["attn.to_[qk]", r"transformer_blocks\.[0-2]\.attn\.to_q", ".*attn.to_q", "^proj_out", "to_(out.0|q)"]
)
def test_patterns_give_each_layer_the_scale_that_it_has_in_peft(house, oracle, tmp_path, pattern):
    config = LoraConfig(
        r=8,
        lora_alpha=8,
        target_modules=["to_q", "to_k", "to_out.0", "proj_out"],
        exclude_modules=r".*\.5\..*",
        alpha_pattern={pattern: 2},
        rank_pattern={pattern: 4},
        init_lora_weights=False,
    )
    oracle.add_adapter(config, "style")
    oracle.save_lora_adapter(tmp_path, "style", weight_name="style.safetensors")
    shapes = house.read(tmp_path / "style.safetensors").shapes
    trained = {name: layer for name, layer in oracle.named_modules() if hasattr(layer, "scaling")}
    assert len(shapes) > 10
    assert {name: (shape.rank, shape.scale) for name, shape in shapes.items()} == {
        name: (layer.r["style"], layer.scaling["style"]) for name, layer in trained.items()
    }
    assert len({shape.rank for shape in shapes.values()}) == 2


def test_layers_that_peft_was_told_to_change_are_read(house, oracle, tmp_path):
    config = LoraConfig(
        r=4,
        lora_alpha=2,
        target_modules=["to_q"],
        layers_to_transform=[0, 3],
        layers_pattern="transformer_blocks",
        init_lora_weights=False,
    )
    wrapped = get_peft_model(oracle, config)
    wrapped.save_pretrained(tmp_path)
    adapter = house.read(tmp_path / "adapter_model.safetensors")
    assert [name.split(".")[1] for name in adapter.shapes] == ["0", "3"]
    torch.testing.assert_close(house.velocity([((adapter, 1.0),)]), forward(oracle, [0]), **CLOSE)


def test_what_pissa_was_converted_to_is_read(house, oracle, tmp_path):
    plain = forward(oracle, [0])
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q"], init_lora_weights="pissa")
    wrapped = get_peft_model(oracle, config)
    wrapped.save_pretrained(tmp_path / "start")
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    settings = json.loads((tmp_path / "start/adapter_config.json").read_text())
    (tmp_path / "start/adapter_config.json").write_text(json.dumps(settings | {"init_lora_weights": True}))
    wrapped.save_pretrained(tmp_path / "pissa")
    wrapped.save_pretrained(tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    trained = forward(oracle, [0])
    assert (trained - plain).abs().max() > 0.01
    adapter = house.read(tmp_path / "lora/adapter_model.safetensors")
    assert adapter.rank == 8
    torch.testing.assert_close(house.velocity([((adapter, 1.0),)]), trained, rtol=0, atol=1e-4)
    with pytest.raises(AdapterUnavailable, match="init_lora_weights is 'pissa'"):
        house.read(tmp_path / "pissa/adapter_model.safetensors")


def configured(folder: Path, **fields: object) -> Path:
    """Write an adapter with this in its configuration."""
    path = folder / "style.safetensors"
    save_file(good(), path, metadata={"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8} | fields)})
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {"fan_in_fan_out": True},
        {"lora_dropout": 0.5, "inference_mode": True, "task_type": None, "peft_version": "0.99"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"modules_to_save": None, "layer_replication": None, "megatron_config": None, "layers_to_transform": None},
        {"modules_to_save": [], "rank_pattern": {}, "alpha_pattern": None, "something_new": False},
        {"target_modules": "all-linear", "exclude_modules": ["to_k"]},
        {"target_modules": r".*\.(to_q|to_k)"},
        {"target_modules": ["attn.to_q"], "exclude_modules": r".*\.1\.attn.*"},
        {"layers_to_transform": 0, "layers_pattern": ["blocks", "transformer_blocks"]},
    ],
    ids=str,
)
def test_fields_that_change_nothing_here_change_nothing(house, tmp_path, fields):
    assert house.read(configured(tmp_path, **fields)).shapes[BARE].scale == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"use_dora": True}, "'use_dora'"),
        ({"bias": "all"}, "'bias'"),
        ({"lora_bias": True}, "'lora_bias'"),
        ({"modules_to_save": ["proj_out"]}, "'modules_to_save'"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "'layer_replication'"),
        ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens'"),
        ({"use_bdlora": {"nblocks": 2}}, "'use_bdlora'"),
        ({"use_qalora": True}, "'use_qalora'"),
        ({"target_parameters": ["weight"]}, "'target_parameters'"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices'"),
        ({"megatron_config": {"a": 1}}, "'megatron_config'"),
        ({"something_new": 0.5}, "'something_new'"),
        ({"something_new": 0}, "'something_new'"),
        ({"peft_type": "LOKR"}, "peft_type is 'LOKR'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "mica"}, "init_lora_weights is 'mica'"),
        ({"init_lora_weights": 1}, "init_lora_weights is '1'"),
        ({"r": 8}, "has rank 4, and '8' in the configuration"),
        ({"rank_pattern": {"to_[qk]": 16}}, "has rank 4, and '16' in the configuration"),
        ({"lora_alpha": True}, "alpha is 'True'"),
        ({"lora_alpha": None}, "alpha is 'None'"),
        ({"lora_alpha": 10**400}, "alpha is '1000"),
        ({"alpha_pattern": {"to_q": "8"}}, "alpha is '8'"),
        ({"alpha_pattern": {"(?=t)to_q": 8}}, "the pattern '(?=t)to_q'"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"target_modules": ["to_k"]}, "does not cover"),
        ({"target_modules": ["o_q"]}, "does not cover"),
        ({"target_modules": r"to_q"}, "does not cover"),
        ({"exclude_modules": ["to_q"]}, "does not cover"),
        ({"target_modules": {"to_q": 1}}, "neither a pattern nor a list of names"),
        ({"layers_to_transform": [1, 2], "layers_pattern": "transformer_blocks"}, "does not cover"),
        ({"layers_to_transform": 0}, "without a layers_pattern"),
    ],
    ids=str,
)
def test_fields_that_change_the_arithmetic_are_refused_by_name(house, tmp_path, fields, reason):
    with pytest.raises(AdapterUnavailable, match=re.escape(reason)):
        house.read(configured(tmp_path, **fields))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(sorted(HONOURED | {"use_dora", "a"})), ANYTHING, max_size=4))
def test_whatever_a_configuration_says_it_is_read_or_refused(house, tmp_path, fields):
    try:
        scale = house.read(configured(tmp_path, **fields)).shapes[BARE].scale
    except AdapterUnavailable:
        return
    assert math.isfinite(scale)


def test_a_tensor_and_a_configuration_that_disagree_are_refused(house, tmp_path):
    path = tmp_path / "style.safetensors"
    for alpha, agrees in ((8.0, True), (4.0, False)):
        metadata = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 8})}
        save_file(good() | {f"{LAYER}.alpha": torch.tensor(alpha)}, path, metadata=metadata)
        if agrees:
            assert house.read(path).shapes[BARE].scale == 2
        else:
            with pytest.raises(AdapterUnavailable, match="different things"):
                house.read(path)


def test_a_configuration_beside_is_taken_only_where_nothing_else_says_alpha(house, tmp_path):
    path = tmp_path / "style.safetensors"
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 16}))
    save_file(good(), path)
    assert house.read(path).shapes[BARE].scale == 4
    save_file(good() | {f"{LAYER}.alpha": torch.tensor(2.0)}, path)
    assert house.read(path).shapes[BARE].scale == 0.5
    save_file({kohya(key): value for key, value in good().items()}, path)
    assert house.read(path).shapes[BARE].scale == 1
    save_file(good(), path)
    for broken in ("{", "[]", json.dumps({"lora_alpha": "x" * 2**21}), "\0"):
        (tmp_path / "adapter_config.json").write_text(broken)
        with pytest.raises(AdapterUnavailable, match=r"style\.safetensors"):
            house.read(path)

"""Adapter files: the usual names and scales are read as in diffusers, what is no adapter of the model is refused."""

import json
import os
import pickle
import re
import struct

import pytest
import torch
from diffusers import QwenImagePipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from inference.adapters import files, names
from inference.adapters.tensors import TensorFile
from inference.errors import AdapterUnavailable
from inference.models.transformer import make_rows_independent
from tests.inference.adapters.conftest import forward, load
from tests.inference.adapters.one_layer import ANYTHING, BARE, DOWN, LAYER, UP, good, kohya

CLOSE = {"rtol": 0, "atol": 2e-5}


def downs_and_ups(key: str) -> str:
    return key.removeprefix("transformer.").replace("lora_A", "lora_down").replace("lora_B", "lora_up")


NAMINGS = {
    "diffusers": lambda key: key,
    "bare": lambda key: key.removeprefix("transformer."),
    "diffusion_model": lambda key: "diffusion_model." + key.removeprefix("transformer."),
    "named": lambda key: key.removeprefix("transformer.").replace(".weight", ".default.weight"),
    "downs and ups": downs_and_ups,
    "kohya": kohya,
}
# nobody writes these, but their meaning is clear
UNKNOWN_TO_DIFFUSERS = {("diffusers", 4.0), ("downs and ups", None)}


@pytest.mark.parametrize("naming", NAMINGS)
def test_names_and_alphas_mean_what_they_mean_to_diffusers(house, make, naming, full):
    for alpha in (None, 4.0) if full else (4.0,):
        _check_names(house, make_rows_independent(load()), make, naming, alpha)


def _check_names(house, oracle, make, naming, alpha):
    path = make("style", rank=8, targets=["to_q", "to_out.0", "img_mlp.net.0.proj", "proj_out"], alpha=alpha)
    original = load_file(path)
    shown = "bare" if (naming, alpha) in UNKNOWN_TO_DIFFUSERS else naming
    weights = QwenImagePipeline.lora_state_dict({NAMINGS[shown](key): value for key, value in original.items()})
    save_file({NAMINGS[naming](key): value for key, value in original.items()}, path)
    if not all(key.startswith("transformer.") for key in weights):
        weights = {f"transformer.{key}": value for key, value in weights.items()}
    QwenImagePipeline.load_lora_into_transformer(weights, oracle)
    assert not torch.equal(forward(oracle, [0]), house.velocity([()]))
    torch.testing.assert_close(house.velocity([((house.read(path), 1.0),)]), forward(oracle, [0]), **CLOSE)


def test_what_diffusers_saves_is_read_with_its_configuration(house, oracle, tmp_path):
    config = LoraConfig(
        r=8,
        lora_alpha=24,
        target_modules=["to_q", "to_k", "proj_out"],
        alpha_pattern={"transformer_blocks.1.attn.to_q": 2, "proj_out": 4.5},
        rank_pattern={"to_k": 3},
        use_rslora=True,
        init_lora_weights=False,
    )
    oracle.add_adapter(config)
    oracle.save_lora_adapter(tmp_path, weight_name="style.safetensors")
    row = ((house.read(tmp_path / "style.safetensors"), 1.0),)
    torch.testing.assert_close(house.velocity([row]), forward(oracle, [0]), **CLOSE)


def test_what_peft_saves_is_read_with_the_configuration_beside_it(house, oracle, tmp_path):
    config = LoraConfig(r=8, lora_alpha=24, target_modules=["to_q", "proj_out"], init_lora_weights=False)
    wrapped = get_peft_model(oracle, config)
    wrapped.save_pretrained(tmp_path)
    row = ((house.read(tmp_path / "adapter_model.safetensors"), 1.0),)
    torch.testing.assert_close(house.velocity([row]), forward(oracle, [0]), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_read(house, make, dtype):
    path = make(dtype=dtype)
    adapter = house.read(path)
    assert adapter.memory.dtype == torch.float32
    key = "transformer_blocks.0.attn.to_q"
    expected = load_file(path)[f"transformer.{key}.lora_B.weight"].float().T
    assert torch.equal(adapter.factors[key].up, expected)


BROKEN = {
    "no weights": {},
    "has only one of two factors": {DOWN: torch.ones(4, 192)},
    "[rank, 192]": good() | {DOWN: torch.ones(4, 191)},
    "[192, rank]": good() | {UP: torch.ones(192, 5)},
    "not [4, 192, 1, 1]": {DOWN: torch.ones(4, 192, 1, 1), UP: torch.ones(192, 4, 1, 1)},
    "has rank 0": good(0),
    "has rank 257": good(257),
    "is of type 'I32'": good() | {DOWN: torch.ones(4, 192, dtype=torch.int32)},
    "is of type 'BOOL'": good() | {UP: torch.ones(192, 4, dtype=torch.bool)},
    "no linear layer for": good() | {"transformer.transformer_blocks.60.attn.to_q.lora_A.weight": torch.ones(4, 192)},
    "no weights for the transformer": {"text_encoder.layers.0.q_proj.lora_A.weight": torch.ones(4, 192)},
    "norm_q": good() | {f"{LAYER.replace('to_q', 'norm_q')}.lora_A.weight": torch.ones(4, 32)},
    "lora_magnitude_vector": good() | {f"{LAYER}.lora_magnitude_vector": torch.ones(192)},
    "lokr_w1": {f"{LAYER}.lokr_w1": torch.ones(4, 4)},
    "'transformer.img_in.weight' is not a LoRA": good() | {"transformer.img_in.weight": torch.ones(192, 32)},
    "is there twice": good() | {DOWN.removeprefix("transformer."): torch.ones(4, 192)},
    "not finite": good() | {UP: torch.full((192, 4), float("nan"))},
    "alpha is 'inf'": good() | {f"{LAYER}.alpha": torch.tensor(float("inf"))},
    "alpha is 'nan'": good() | {f"{LAYER}.alpha": torch.tensor(float("nan")).to(torch.float8_e4m3fn)},
    "alpha is '1e+300'": good() | {f"{LAYER}.alpha": torch.tensor(1e300, dtype=torch.float64)},
    "and should be a number": good() | {f"{LAYER}.alpha": torch.tensor(True)},
    "should be one number": good() | {f"{LAYER}.alpha": torch.ones(2)},
    "without their scales": good() | {"scaled_fp8": torch.zeros(0)},
    "lora_B.bias' is a change of a bias": good() | {f"{LAYER}.lora_B.bias": torch.ones(192)},
    "scale_input' is not a LoRA weight": good() | {f"{LAYER}.lora_A.scale_input": torch.ones(1)},
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_is_no_lora_of_this_model_is_refused_with_its_reason(house, tmp_path, reason):
    path = tmp_path / "broken.safetensors"
    save_file(BROKEN[reason], path)
    with pytest.raises(AdapterUnavailable, match=re.escape(reason)) as refusal:
        house.read(path)
    assert "broken.safetensors" in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def header(values: object) -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        pickle.dumps(Bomb()),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 5 * 1024**2) + b" " * 5 * 1024**2,
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        header([]),
        header({DOWN: {"dtype": "F32", "shape": [4, 192], "data_offsets": [0, 3072]}}),
        header({DOWN: {"dtype": "F32", "shape": [4, 192], "data_offsets": [0, 8]}}) + b"12345678",
        header({DOWN: {"dtype": "F32", "shape": [2**62, 192], "data_offsets": [0, 8]}}) + b"12345678",
        header({DOWN: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}),
        struct.pack("<Q", 17) + b'{"a": {}, "a": {}}'[:17] + b"}",
        struct.pack("<Q", 18) + b'{"a": {}, "a": {}}',
        header({DOWN: {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}) + b"12345678beyond",
        header({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in (DOWN, UP)}) + b"12345678",
        header({f"{place}": {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for place in range(17_000)}),
        header({"__metadata__": {"a": 1}}),
        header({DOWN: {"dtype": "P4", "shape": [1], "data_offsets": [0, 8]}}) + b"12345678",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_not_safetensors_is_refused_and_never_run(house, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterUnavailable):
        house.read(path)
    assert not (tmp_path / "exploded").exists()


NUMBERS = {
    "a float of 64 bits": torch.tensor(2.0, dtype=torch.float64),
    "a whole number": torch.tensor(2),
    "a byte": torch.tensor([2], dtype=torch.uint8),
    "a float of 16 bits": torch.tensor(2.0, dtype=torch.bfloat16),
    "a float of 8 bits": torch.tensor([[2.0]]).to(torch.float8_e5m2),
}


@pytest.mark.parametrize("alpha", NUMBERS)
def test_an_alpha_of_any_type_is_its_number(house, tmp_path, alpha):
    path = tmp_path / "style.safetensors"
    save_file(good() | {f"{LAYER}.alpha": NUMBERS[alpha]}, path)
    assert house.read(path).shapes[BARE].scale == 0.5


@pytest.mark.parametrize("alpha", [-3.0, 0.0, 1e30, 1e-30])
def test_an_alpha_of_any_size_is_its_number(house, tmp_path, alpha):
    path = tmp_path / "style.safetensors"
    save_file(good() | {f"{LAYER}.alpha": torch.tensor(alpha, dtype=torch.float64)}, path)
    assert house.read(path).shapes[BARE].scale == alpha / 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(st.sampled_from([DOWN, UP, "__metadata__", f"{LAYER}.alpha"]), ANYTHING),
    size=st.integers(0, 9),
)
def test_whatever_a_header_says_it_is_refused(house, tmp_path, tensors, size):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(header(tensors) + bytes(size))
    with pytest.raises(AdapterUnavailable):
        house.read(path)


def test_an_adapter_too_large_for_its_place_is_refused_before_its_weights_are_read(house, tmp_path, monkeypatch):
    path = tmp_path / "style.safetensors"
    save_file(good(), path)
    needed = 4 * 4 * (192 + 192)
    assert files.read(path, house.layers.sizes, torch.float32, needed).nbytes == needed
    monkeypatch.setattr(TensorFile, "read", None)
    with pytest.raises(AdapterUnavailable, match=f"{needed} bytes: there is room for {needed - 1}"):
        files.read(path, house.layers.sizes, torch.float32, needed - 1)


@pytest.mark.parametrize("length", [0, 4, 100, 4096, 80_000])
def test_a_file_that_is_shortened_while_it_is_read_is_refused_and_nobody_dies(house, tmp_path, monkeypatch, length):
    path = tmp_path / "style.safetensors"
    save_file(good(128), path)
    sort = names.sort

    def meanwhile(*arguments):
        os.truncate(path, length)
        return sort(*arguments)

    monkeypatch.setattr(names, "sort", meanwhile)
    with pytest.raises(AdapterUnavailable, match="was shortened while it was read"):
        house.read(path)


@pytest.mark.parametrize("how", ["in place", "another file", "its configuration"])
def test_a_file_that_changes_while_it_is_read_is_refused(house, tmp_path, monkeypatch, how):
    path, other = tmp_path / "style.safetensors", tmp_path / "other.safetensors"
    save_file(good(), path)
    save_file({key: -value for key, value in good().items()}, other)
    sort, before = names.sort, path.stat()

    def meanwhile(*arguments):
        if how == "in place":
            path.write_bytes(other.read_bytes())
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif how == "another file":
            other.replace(path)
        else:
            (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 3}))
        return sort(*arguments)

    monkeypatch.setattr(names, "sort", meanwhile)
    with pytest.raises(AdapterUnavailable, match="changed while it was read"):
        house.read(path)


def test_an_adapter_is_known_by_what_it_does(house, tmp_path):
    def digest(tensors: dict[str, torch.Tensor], **fields: object) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(fields)} if fields else None)
        return house.read(path).digest

    alike = {
        digest(good()),
        digest({kohya(key): value.double() for key, value in good().items()}),
        digest(good() | {f"{LAYER}.alpha": torch.tensor(4)}),
        digest(good(), r=4, lora_alpha=4, lora_dropout=0.1),
    }
    others = {
        digest(good() | {UP: 2 * torch.ones(192, 4)}),
        digest(good(), r=4, lora_alpha=5),
        digest({key.replace("to_q", "to_k"): value for key, value in good().items()}),
    }
    assert (len(alike), len(others), len(alike & others)) == (1, 3, 0)


def test_a_file_larger_than_any_adapter_is_refused_unread(house, tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes(header({}))
    os.truncate(path, 2**40)
    with pytest.raises(AdapterUnavailable, match="more than"):
        house.read(path)


def test_overflow_in_the_models_type_is_found(house, tmp_path):
    path = tmp_path / "loud.safetensors"
    save_file(good() | {UP: torch.full((192, 4), 1e30)}, path)
    house.read(path)
    with pytest.raises(AdapterUnavailable, match="not finite"):
        files.read(path, house.layers.sizes, torch.float16)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "long", "null"])
def test_what_is_no_file_is_refused_at_once_without_a_word_of_folders(tmp_path, kind):
    path = tmp_path / {"long": "x" * 300, "null": "\0"}.get(kind, "adapter")
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(AdapterUnavailable, match="adapter") as refusal:
        files.identify(path)
    assert str(tmp_path) not in str(refusal.value)


def test_the_real_models_layers_are_all_of_its_linear_ones(house):
    linear = [name for name, layer in load().named_modules() if isinstance(layer, torch.nn.Linear)]
    assert list(house.layers.sizes) == linear

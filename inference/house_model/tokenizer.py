"""The house model's tokenizer: Qwen2's byte-level BPE and special tokens, with a vocabulary for its own world.

The pipelines drop the first 34 tokens of the prompt template, and 64 of the one for edits, so each of their words must
be one token; `build` checks it.
"""

import json
import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from inference.house_model import captions, edits
from inference.house_model.world import draw_scene

# the template of diffusers.QwenImagePipeline, which the real model was trained with
TEMPLATE_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
TEMPLATE_TOKENS = 34
# the template of diffusers.QwenImageEditPlusPipeline, for one picture
EDIT_BEFORE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
EDIT_TOKENS = 64
PICTURE = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>"
TEMPLATE_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VOCABULARY = 1000
EDIT_WORDS = (
    "make change replace remove move delete turn take put away to it the with into instead of no without and not color "
    "shape picture same empty "
    "grey centre middle upper lower corner side drawing draw photo big tiny huge medium two one next under over"
)
CHINESE_WORDS = (
    "一个", "一张", "图片", "背景", "的", "有", "在", "上", "，", "。", "小的", "大的", "小", "大", "条纹", "格子",
    "把", "换成", "去掉", "移到", "变成", "改成", "放到", "删除", "用", "代替", "和", "没有", "不要", "画",
    "空的", "图形",
)  # fmt: skip


def _corpus() -> list[str]:
    dice = random.Random(0)
    english = [captions.caption(draw_scene(dice), dice, "en") for _ in range(3000)]
    english += [edits.instruction(edits.draw_edit(dice), dice, "en") for _ in range(2000)]
    plain = TEMPLATE_BEFORE + TEMPLATE_AFTER + EDIT_BEFORE + PICTURE
    for token in SPECIAL:
        plain = plain.replace(token, "")
    # Chinese is learnt word by word, so that no token spans two words
    words = [
        *CHINESE_WORDS,
        *captions.COLOURS_ZH.values(),
        *captions.SHAPES_ZH.values(),
        *captions.POSITIONS_ZH.values(),
    ]
    return english + [plain] * 1000 + words * 100 + [f" {word}" for word in EDIT_WORDS.split()] * 20


def build() -> Qwen2Tokenizer:
    """Train the vocabulary on the world's captions. Raises ValueError if a template does not have its length."""
    raw = Tokenizer(models.BPE())
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        min_frequency=5,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_corpus(), trainer)
    merges = [tuple(pair) for pair in json.loads(raw.to_str())["model"]["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=raw.get_vocab(),
        merges=merges,
        additional_special_tokens=list(SPECIAL[1:]),
        model_max_length=2048,
    )
    for template, dropped in ((TEMPLATE_BEFORE, TEMPLATE_TOKENS), (EDIT_BEFORE, EDIT_TOKENS)):
        length = len(tokenizer(template).input_ids)
        if length != dropped:
            raise ValueError(f"a template takes {length} tokens, but the pipeline drops {dropped}")
    return tokenizer


def in_template(prompt: str) -> str:
    """Put a prompt into its template."""
    return TEMPLATE_BEFORE + prompt + TEMPLATE_AFTER


def in_edit_template(prompt: str) -> str:
    """Put an instruction about one picture into its template."""
    return EDIT_BEFORE + PICTURE + prompt + TEMPLATE_AFTER

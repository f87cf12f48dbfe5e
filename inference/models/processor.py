"""Qwen2-VL's processor for pictures only, which needs no torchvision."""

from transformers import Qwen2Tokenizer, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin


class PictureProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """The `processor` of QwenImageEditPlusPipeline, from texts and pictures to token ids and patches.

    transformers' own class also requires a video processor, whose module imports torchvision.
    """

    def __init__(self, image_processor: Qwen2VLImageProcessorPil, tokenizer: Qwen2Tokenizer) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        ProcessorMixin.__init__(self, image_processor, tokenizer)

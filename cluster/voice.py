"""What of a policy folder is needed to read its episodes: tokenizer, layout and card. No weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pixelis.memory.layout import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pixelis.actors.render import Renderer
    from pixelis.memory.model import Card, Model


@dataclass(frozen=True, slots=True)
class Voice:
    """How a policy writes and sees.

    Example: open_voice(Path("runs/demo/policy/rft")).layout.size(view) == (96, 96)
    """

    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    card: Card

    def renderer(self) -> Renderer:
        """Reads and writes this policy's tokens."""
        from pixelis.actors.render import Renderer

        return Renderer(cast("Model", self))  # it uses no more of a Model than these three


def open_voice(folder: Path) -> Voice:
    """The voice of a policy folder. Raises ModelError naming the file that is missing or wrong."""
    from transformers import AutoConfig, AutoTokenizer

    from pixelis.memory.model import read_card

    card = read_card(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    vision = config.vision_config
    layout = Layout(
        patch=vision.patch_size, merge=vision.spatial_merge_size,
        image_area=card.image_area, frame_area=card.frame_area, max_scale=card.max_scale,
        start=config.vision_start_token_id, pad=config.image_token_id, end=config.vision_end_token_id,
    )  # fmt: skip
    return Voice(AutoTokenizer.from_pretrained(folder, local_files_only=True), layout, card)


def voice_of(run: Path, phase: str = "") -> Voice | None:
    """The voice of a run's policy, by preference that of a phase; all phases of a run share one tokenizer."""
    folders = sorted((run / "policy").glob("*/policy.json"), key=lambda file: file.parent.name != phase)
    return open_voice(folders[0].parent) if folders else None

import pytest
import torch
from torch import Tensor, nn

from video_dit.models.backbone import Backbone, State
from video_dit.models.context import Context

COMPILE = torch.compile


class Doubling(nn.Module):
    def forward(self, video: Tensor, text: Tensor, _: Context) -> State:
        return 2 * video, text


class DoublingBackbone(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Doubling()])

    def run_block(self, index: int, state: State, context: Context) -> State:
        return self.blocks[index](*state, context)


def test_many_kinds_of_input_do_not_end_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch goes on without compiling once a function has too many variants; here it raises an error instead."""
    monkeypatch.setattr(torch, "compile", lambda function, options, **keys: COMPILE(function, backend="eager", **keys))
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    backbone = DoublingBackbone()
    backbone.compile_blocks()
    for num_dimensions in range(1, 25):  # each of them is another variant
        video = torch.ones((1,) * num_dimensions)
        assert torch.equal(backbone(video, video, Context(None, None)), 2 * video)

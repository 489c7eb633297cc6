import torch
from torch import nn

from video_dit.config import ModelConfig
from video_dit.models.context import Context
from video_dit.models.u_vit import UViT
from video_dit.ops.normalization import Conditioning


def test_each_block_of_the_second_half_gets_what_its_mirror_image_gave() -> None:
    """Bao et al. 2022, figure 1, in plain loops."""
    torch.manual_seed(0)
    model = UViT(ModelConfig(name="u_vit", depth=7, hidden_size=24, num_heads=2))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    video, text = torch.randn(2, 6, 24), torch.randn(2, 3, 24)
    conditioning = Conditioning(torch.randn(2, 1, 24))

    x, outputs = torch.cat((video, text), dim=1), []
    for index, block in enumerate(model.blocks):
        if index > 3:
            x = model.skips[index - 4](torch.cat((x, outputs[6 - index]), dim=-1))
        x = block(x, conditioning)
        outputs.append(x)
    torch.testing.assert_close(model(video, text, Context(conditioning, conditioning)), x[:, :6])

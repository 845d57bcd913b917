"""Image indices out of range: an error on the CPU, an empty RoI on CUDA, unless DETECTOR_DEBUG checks values."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detector import ops
from detector.ops import _arguments

Pool = Callable[[Tensor, Tensor], Tensor]
POOLS: dict[str, Pool] = {
    "roi_pool": lambda x, rois: ops.roi_pool(x, rois, 2, 1 / 16),
    "roi_align": lambda x, rois: ops.roi_align(x, rois, 2, 1 / 16),
    "roi_align-max": lambda x, rois: ops.roi_align(x, rois, 2, 1 / 16, reduction="max"),
    "roi_warp": lambda x, rois: ops.roi_warp(x, rois, 2, 1 / 16),
    "ps_roi_pool": lambda x, rois: ops.ps_roi_pool(x, rois, 2, 1 / 16),
    "ps_roi_pool-max": lambda x, rois: ops.ps_roi_pool(x, rois, 2, 1 / 16, reduction="max"),
    "ps_roi_vote": lambda x, rois: ops.ps_roi_vote(x, rois, 2, 1 / 16),
    "ps_roi_vote-max": lambda x, rois: ops.ps_roi_vote(x, rois, 2, 1 / 16, reduction="max"),
    "ps_roi_align": lambda x, rois: ops.ps_roi_align(x, rois, 2, 1 / 16),
    "deform_ps_roi_pool": lambda x, rois: ops.deform_ps_roi_pool(x, rois, x.new_zeros(len(rois), 4, 2, 2), 2, 1 / 16),
}
OUT_OF_RANGE = [2.0, -1.0, 1e9, math.inf, -math.inf, math.nan]
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Pool:
    return POOLS[request.param]


def features(device: str) -> Tensor:
    return torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(0)).to(device)


def rois(images: list[float], device: str) -> Tensor:
    return torch.tensor([(image, 8.0, 8, 70, 60) for image in images], device=device)


def skip_without_cuda(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("image", OUT_OF_RANGE)
def test_an_index_out_of_range_is_an_error_on_the_cpu_and_in_debug_mode(
    pool: Pool, image: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_cuda(device)
    monkeypatch.setattr(_arguments, "DEBUG", device == "cuda")
    with pytest.raises(
        ValueError, match=r"expected image indices rois\[:, 0\] in 0\.\.1 for 2 images, got values from"
    ):
        pool(features(device), rois([0, image, 1], device))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_an_unchecked_index_out_of_range_gives_an_empty_roi(
    pool: Pool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_cuda(device)
    if device == "cpu":
        monkeypatch.setattr(_arguments, "_check_image_index", lambda *_: None)
    x = features(device).requires_grad_()
    images = rois([0, *OUT_OF_RANGE, 1], device).requires_grad_()
    pooled = pool(x, images)
    assert pooled[0].all()
    assert pooled[-1].all()
    assert not pooled[1:-1].any()
    gradients = torch.autograd.grad(pooled[1:-1].sum(), (x, images), allow_unused=True)
    assert not any(gradient.any() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "images", [[1.0], [2, 0, 1], [0, -1, 3, math.inf], [math.nan, 0], [0, 1, math.nan], [1, -math.inf]]
)
def test_the_range_of_indices_is_that_of_the_pytorch_kernel(images: list[float], dtype: torch.dtype) -> None:
    dense = rois(images, "cpu").to(dtype)
    for boxes in (dense, dense.repeat_interleave(2, dim=0)[::2], dense.T.contiguous().T, dense[:1].expand(3, -1)):
        expected = torch.tensor(_arguments._image_range_reference(boxes))
        torch.testing.assert_close(
            torch.tensor(torch.ops.fast_rfcn.image_range(boxes)), expected, rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("debug", [False, True])
def test_values_off_the_cpu_are_checked_only_in_debug_mode(
    pool: Pool, debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on "meta" have no values, so reading them fails. A GPU's values are not ready either."""
    checked = []
    monkeypatch.setattr(_arguments, "_check_image_index", lambda op, images, num_images: checked.append(images.device))
    monkeypatch.setattr(_arguments, "DEBUG", debug)
    assert pool(features("meta"), rois([0, 5], "meta")).shape[0] == 2
    assert checked == [torch.device("meta")] * debug


@pytest.mark.parametrize(("value", "debug"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_debug_mode_is_read_from_the_environment(
    value: str | None, debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETECTOR_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("DETECTOR_DEBUG", value)
    assert _arguments._debug_mode() is debug

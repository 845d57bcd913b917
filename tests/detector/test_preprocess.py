"""Resizing by the 600/1000 rule, normalising, padding, and scaling boxes to the input and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detector.preprocess import Frame, Preprocess, resize_antialiased, resized_size, to_input, to_original
from detector.structures import Batch, Detections, Instances, Proposals

RGB = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "bgr_255": False}


def batch_of(*images: torch.Tensor, short_side: int = 600, boxes: torch.Tensor | None = None) -> Batch:
    boxes = torch.zeros(0, 4) if boxes is None else boxes
    item = Instances(boxes, torch.ones(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.bool))
    count = len(images)
    return Batch(
        images=list(images),
        instances=[item] * count,
        proposals=[Proposals(boxes, torch.zeros(len(boxes)))] * count,
        image_ids=[str(i) for i in range(count)],
        seeds=list(range(count)),
        short_sides=[short_side] * count,
    )


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((333, 500), (600, 901)),
        ((200, 500), (400, 1000)),  # 600 would make the longer side 1500
        ((600, 1000), (600, 1000)),
        ((599, 999), (600, 1000)),  # 600 / 599 makes the longer side 1000.67, which rounds to 1001 > 1000
        ((1, 5000), (1, 1000)),
    ],
)
def test_the_shorter_side_is_600_unless_the_longer_side_exceeds_1000(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_size(*size, 600, 1000) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 1066.67
        ((427, 641), (800, 1200)),  # 1200.94
        ((400, 800), (666, 1333)),  # 800 would make the longer side 1600
        ((322, 322), (799, 799)),  # 322 * (800 / 322) is less than 800
    ],
)
def test_sides_rounded_down_equal_those_of_torchvision(size: tuple[int, int], expected: tuple[int, int]) -> None:
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
    with torch.no_grad():
        resized, _ = transform([torch.zeros(3, *size)])
    assert resized.image_sizes == [expected]
    assert resized_size(*size, 800, 1333, round_down=True) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 1200), st.integers(32, 2000))
def test_resized_sides_are_within_their_limits(height: int, width: int, short: int, longest: int) -> None:
    found = resized_size(height, width, short, longest)
    assert max(found) <= max(longest, 1)
    assert min(found) <= short
    assert min(found) >= 1


def test_images_are_normalised_and_padded_with_zeros_to_multiples_of_the_stride() -> None:
    first, second = picture(40, 60), picture(50, 45)
    preprocess = Preprocess(max_side=1000, stride=16, **RGB)
    inputs = preprocess(Batch([first, second], *_no_boxes(2), ["a", "b"], [0, 1], [40, 45]))
    assert inputs.images.shape == (2, 3, 64, 64)
    mean, std = torch.tensor(RGB["mean"])[:, None, None], torch.tensor(RGB["std"])[:, None, None]
    expected = (first / 255.0 - mean) / std
    torch.testing.assert_close(inputs.images[0, :, :40, :60], expected, rtol=1e-5, atol=1e-5)
    assert (inputs.images[0, :, 40:] == 0).all()
    assert (inputs.images[0, :, :, 60:] == 0).all()
    assert inputs.frames == [Frame(40, 60, 1.0, 1.0), Frame(50, 45, 1.0, 1.0)]


def _no_boxes(count: int) -> tuple[list[Instances], None]:
    nothing = Instances(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    return [nothing] * count, None


def test_each_image_of_a_batch_is_processed_as_if_alone() -> None:
    images = [picture(30, 50, seed=1), picture(60, 33, seed=2)]
    preprocess = Preprocess(max_side=120, stride=16, **RGB)
    together = preprocess(batch_of(*images, short_side=48))
    for index, image in enumerate(images):
        alone = preprocess(batch_of(image, short_side=48))
        frame = alone.frames[0]
        assert together.frames[index] == frame
        assert torch.equal(
            together.images[index, :, : frame.height, : frame.width], alone.images[0, :, : frame.height, : frame.width]
        )


def test_caffe_input_is_bgr_from_0_to_255() -> None:
    image = picture(16, 16)
    mean = (102.9801, 115.9465, 122.7717)
    preprocess = Preprocess(max_side=1000, stride=16, mean=mean, std=(1.0, 1.0, 1.0), bgr_255=True)
    found = preprocess(batch_of(image, short_side=16)).images[0]
    torch.testing.assert_close(found[0], image[2].float() - mean[0])
    torch.testing.assert_close(found[2], image[0].float() - mean[2])


def test_resizing_is_bilinear_on_half_pixel_centres() -> None:
    image = picture(20, 30)
    preprocess = Preprocess(max_side=1000, stride=1, **RGB)
    found = preprocess(batch_of(image, short_side=33)).images
    alone = preprocess(batch_of(image, short_side=20)).images
    torch.testing.assert_close(found, F.interpolate(alone, (33, 50), mode="bilinear", align_corners=False))


def test_antialias_equals_the_bilinear_filter_of_pillow() -> None:
    image = picture(301, 417)
    small = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((83, 60), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    found, exact = (resize_antialiased(image, (60, 83), fast=fast) for fast in (True, False))
    assert (found.dtype, exact.dtype) == (torch.uint8, torch.float32)
    assert (found.int() - expected.int()).abs().max() <= 1, "a tie may be rounded the other way"
    assert (found - exact).abs().max() < 1
    preprocess = Preprocess(max_side=1000, stride=1, antialias=True, mean=(0.0,) * 3, std=(1 / 255,) * 3, bgr_255=False)
    frame = Frame(60, 83, 0.2, 0.2)
    torch.testing.assert_close(preprocess.train().normalised(image, frame), found.float())
    torch.testing.assert_close(preprocess.eval().normalised(image, frame), exact)


def test_antialias_uses_every_pixel_of_a_large_image() -> None:
    """One of ten columns is bright: a tenth of its value remains. Four samples miss it."""
    columns = torch.zeros(3, 400, 400, dtype=torch.uint8)
    columns[:, :, ::10] = 200
    exact = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3, "bgr_255": False}
    means, samples = (
        Preprocess(max_side=1000, stride=1, antialias=antialias, **exact).normalised(columns, Frame(40, 40, 0.1, 0.1))
        for antialias in (True, False)
    )
    assert ((means - 20).abs() <= 8).all(), "at the edges the filter counts it less"
    assert (samples == 0).all()


@pytest.mark.parametrize("antialias", [False, True])
def test_an_enlarged_image_is_interpolated_with_and_without_antialias(antialias: bool) -> None:
    image = picture(30, 40)
    preprocess = Preprocess(max_side=1000, stride=1, antialias=antialias, **RGB)
    found = preprocess.normalised(image, Frame(60, 80, 2.0, 2.0))
    mean, std = torch.tensor(RGB["mean"])[:, None, None], torch.tensor(RGB["std"])[:, None, None]
    expected = (F.interpolate(image[None] / 255.0, (60, 80), mode="bilinear")[0] - mean) / std
    assert (found - expected).abs().max() <= (1.01 / 255 / 0.224 if antialias else 1e-5)


def test_boxes_and_proposals_follow_the_image_there_and_back() -> None:
    boxes = torch.tensor([[0.0, 0, 30, 20], [3.25, 4.5, 10, 19]])
    preprocess = Preprocess(max_side=1000, stride=16, **RGB)
    inputs = preprocess(batch_of(picture(20, 30), short_side=33, boxes=boxes))
    frame = inputs.frames[0]
    assert (frame.height, frame.width) == (33, 50)
    torch.testing.assert_close(inputs.instances[0].boxes[0], torch.tensor([0.0, 0, 50, 33]))
    assert inputs.proposals is not None
    assert torch.equal(inputs.proposals[0].boxes, inputs.instances[0].boxes)
    found = Detections(to_input(boxes, frame), torch.ones(2), torch.tensor([1, 2]))
    torch.testing.assert_close(to_original(found, frame).boxes, boxes)


def test_the_scale_of_a_frame_lies_between_the_scales_of_its_axes() -> None:
    frame = Frame(33, 50, 33 / 20, 50 / 30)
    assert 33 / 20 <= frame.scale() <= 50 / 30


def test_channel_statistics_move_with_the_module_but_are_not_saved() -> None:
    preprocess = Preprocess(max_side=1000, stride=16, **RGB)
    assert preprocess.state_dict() == {}
    assert preprocess.to("meta").mean.is_meta


@pytest.mark.parametrize("bgr_255", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_normalised_values_do_not_depend_on_the_order_of_channels_in_memory(bgr_255: bool, antialias: bool) -> None:
    preprocess = Preprocess(
        max_side=1000, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), bgr_255=bgr_255, stride=16,
        antialias=antialias,
    ).train()  # fmt: skip
    planes = picture(37, 51)
    pixels = planes.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert planes.stride(0) != 1
    assert pixels.stride(0) == 1
    for side in (37, 80):  # as it is, and enlarged
        expected = preprocess(batch_of(planes, short_side=side)).images
        found = preprocess(batch_of(pixels, short_side=side)).images
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, picture(37, 51))
    reference = (planes.flip(0) if bgr_255 else planes).double()
    reference = (reference - preprocess.mean.double()) / preprocess.std.double()
    found = preprocess(batch_of(pixels, short_side=37)).images[0, :, :37, :51].double()
    torch.testing.assert_close(found, reference, rtol=1e-6, atol=1e-6)

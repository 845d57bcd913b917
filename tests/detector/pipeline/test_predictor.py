"""`from detector import load_detector`: one picture or many, pictures of every type, and the cost of the import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detector import load_detector
from detector.build import build_detector
from detector.configs.compose import load_config
from detector.configs.groups import to_plain
from detector.datasets.images import read_image
from detector.export.portable import PortableModel, write_portable
from detector.pipeline.models import Model
from detector.pipeline.predictor import Prediction, Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ["proposals=grid", "proposals.scales=[0.4]", "proposals.aspects=[1.0]"]
    settings += ["backbone=resnet18_narrow", "backbone.width=0.125", "postprocess.score_threshold=0.1"]
    config = load_config(["dataset=synthetic", *settings, "input.test_short_side=48", "trainer.precision=bf16"])
    torch.manual_seed(0)
    weights = build_detector(config, 3).state_dict()
    path = tmp_path_factory.mktemp("api") / "model.safetensors"
    write_portable(path, PortableModel(to_plain(config), ("cat", "dog", "cow"), {}, {}, weights))
    return path


@pytest.fixture(scope="module")
def detect(model: Path) -> Predictor:
    return load_detector(model, device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def same(one: Prediction, other: Prediction) -> bool:
    return torch.equal(one.boxes, other.boxes) and torch.equal(one.scores, other.scores) and one.names == other.names


def test_every_type_of_picture_gives_the_same_result(detect: Predictor, photo: Path) -> None:
    found = detect(str(photo))
    assert len(found) > 0
    assert found.boxes.shape == (len(found), 4)
    assert found.names == [("cat", "dog", "cow")[label - 1] for label in found.labels.tolist()]
    pixels = np.array(Image.open(photo))
    for picture in (
        photo,
        Image.open(photo),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
        pixels[:, ::-1][:, ::-1],
    ):
        assert same(detect(picture), found)


def test_a_model_trained_in_bf16_predicts_in_fp32_by_default(detect: Predictor, model: Path, photo: Path) -> None:
    exact = load_detector(model, "trainer.precision=fp32", device="cpu")(photo)
    narrow = load_detector(model, "trainer.precision=bf16", device="cpu")(photo)
    assert same(detect(photo), exact)
    assert not same(narrow, exact)


def test_several_pictures_give_the_results_of_each(detect: Predictor, photo: Path) -> None:
    pixels = np.array(Image.open(photo))
    one = detect(pixels)
    assert detect([]) == []
    for pictures in ([photo, pixels], (pixels, photo), np.stack([pixels] * 2), iter([photo, pixels])):
        assert [same(item, one) for item in detect(pictures)] == [True, True]
    for item in detect([photo, pixels, photo], batch_size=2):  # convolutions of two images sum in another order
        assert item.names == one.names
        torch.testing.assert_close(item.boxes, one.boxes, atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(item.scores, one.scores, atol=1e-5, rtol=1e-5)


def test_grey_transparent_and_16_bit_pictures_are_converted(detect: Predictor, tmp_path: Path) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (40, 60), np.uint8)
    wanted = detect(np.stack([grey] * 3, axis=2))
    assert same(detect(grey), wanted)
    assert same(detect(grey[:, :, None]), wanted)
    assert same(detect(torch.from_numpy(grey)[None]), wanted)
    assert same(detect(torch.from_numpy(grey)), wanted)
    deep = grey.astype(np.uint16) << 8 | 77
    assert same(detect(deep), wanted)
    assert same(detect(deep[:, :, None]), wanted)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert same(detect(tmp_path / "deep.png"), wanted), "of 16 bits the upper 8 are used"
    rgba = np.dstack([grey, grey, grey, 255 - grey])
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    assert same(detect(tmp_path / "clear.png"), wanted)


def test_the_bit_depth_of_the_training_pictures_is_kept(model: Path, tmp_path: Path) -> None:
    """A dark 16-bit picture stays dark: its own maximum does not decide."""
    grey = np.random.default_rng(1).integers(0, 256, (40, 60), np.uint16)
    Image.fromarray(grey * 4).save(tmp_path / "dark.png")
    words = ("dataset=auto", "dataset.root=none", "postprocess.score_threshold=0")
    trained_on_16_bits = load_detector(model, *words, "dataset.bit_depth=16", device="cpu")
    wanted = load_detector(model, *words, device="cpu")((grey // 64).astype(np.uint8))
    for picture in (tmp_path / "dark.png", Image.open(tmp_path / "dark.png"), grey * 4):
        assert same(trained_on_16_bits(picture), wanted)


def test_exif_rotates_files_and_pil_pictures(detect: Predictor, photo: Path, tmp_path: Path) -> None:
    picture = Image.open(photo)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    upright = detect(np.rot90(np.array(picture), -1).copy())
    assert same(detect(tmp_path / "turned.png"), upright)
    assert same(detect(Image.open(tmp_path / "turned.png")), upright)
    assert read_image(tmp_path / "turned.png").shape == (3, 40, 60), "data sets read pixels without rotation"


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3)), "ndarray of float64 and shape (4, 4, 3)"),
        (np.zeros((3, 4, 5), np.uint8), "shape (3, 4, 5); its channels come last: picture.transpose(1, 2, 0)"),
        (np.zeros((4, 5, 3), np.uint16), "uint16 and shape (4, 5, 3); convert it to uint8"),
        (torch.zeros(3, 4, 4), "Tensor of torch.float32 and shape (3, 4, 4); for values in [0, 1] multiply by 255"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), "shape (4, 4, 3); its channels come first: picture.permute(2, 0, 1)"),
        (3, "got int"),
        (None, "got NoneType"),
    ],
)
def test_values_that_are_not_pictures_are_refused(detect: Predictor, picture: object, message: str) -> None:
    with pytest.raises(ValueError, match="expected a path, a PIL picture, an array") as error:
        detect(picture)
    assert message in str(error.value)


def test_paths_without_a_picture_and_empty_arrays_are_refused(detect: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; give its pictures, for example Path\('.*'\).glob\('\*.jpg'\)"):
        detect(tmp_path)
    with pytest.raises(ValueError, match="none.jpg: no such picture"):
        detect(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match=r"expected a picture with pixels, got ndarray of shape \(0, 5, 3\)"):
        detect(np.zeros((0, 5, 3), np.uint8))


def test_a_detector_shows_its_classes(detect: Predictor) -> None:
    assert repr(detect) == "Predictor(classes=('cat', 'dog', 'cow'), device='cpu')"


def test_given_proposals_are_used_and_counted(detect: Predictor, photo: Path) -> None:
    assert len(detect(photo, proposals=[torch.zeros(0, 4)])) == 0
    assert len(detect(photo, proposals=[torch.tensor([[0.0, 0, 30, 30]])])) >= 1
    with pytest.raises(ValueError, match="expected proposals for each of 1 pictures, got 2"):
        detect(photo, proposals=[torch.zeros(0, 4)] * 2)


def test_given_proposals_are_refused_by_a_model_that_makes_its_own(photo: Path) -> None:
    config = load_config(["proposals=rpn", "proposals.channels=8", "backbone=resnet18_narrow", "backbone.width=0.125"])
    detector = build_detector(config, 1).eval()
    detect = Predictor(Model(detector, ("cat",), 0), config, torch.device("cpu"))
    with pytest.raises(ValueError, match="this model has an RPN that makes its own; omit them"):
        detect(photo, proposals=[torch.zeros(1, 4)])


def test_overrides_are_applied_and_checked(model: Path, photo: Path) -> None:
    assert len(load_detector(model, "postprocess.score_threshold=0.99", device="cpu")(photo)) == 0
    with pytest.raises(ValueError, match="did you mean postprocess.score_threshold"):
        load_detector(model, "postprocess.score_treshold=1")
    with pytest.raises(ValueError, match="found no such file"):
        load_detector(model.parent / "none.safetensors")


def test_importing_the_package_loads_nothing_else() -> None:
    code = (
        "import sys, detector; assert 'torch' not in sys.modules and 'load_detector' in dir(detector); detector.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'detector' has no attribute 'nothing'" in done.stderr


def test_tiles_in_batches_have_the_same_detections(model: Path, photo: Path) -> None:
    tiled = load_detector(model, "predict.tile=32", device="cpu")
    sizes: list[int] = []
    tiled.detector.preprocess.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    alone, together = tiled(photo), tiled(photo, batch_size=3)
    assert max(sizes) == 3
    assert together.names == alone.names
    torch.testing.assert_close(together.boxes, alone.boxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(together.scores, alone.scores, rtol=1e-4, atol=1e-5)


def test_tiles_refuse_given_proposals_and_views(model: Path, photo: Path) -> None:
    tiled = load_detector(model, "predict.tile=32", device="cpu")
    assert len(tiled(photo)) > 0
    with pytest.raises(ValueError, match=r"expected no proposals with predict\.tile"):
        tiled(photo, proposals=[torch.tensor([[0.0, 0, 10, 10]])])
    with pytest.raises(ValueError, match=r"predict\.tile does not work with input\.test_flip"):
        load_detector(model, "predict.tile=32", "input.test_flip=true", device="cpu")(photo)

"""Tar shards are read like the folder they were made from; a damaged shard names its file and member."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from detector.configs import schema
from detector.configs.compose import load_config
from detector.datasets import check_cache
from detector.datasets.build import readable_dataset
from detector.datasets.faults import Fault, FaultyDataError
from detector.datasets.folder import Folder
from detector.datasets.picture_check import PictureFacts, check_pictures, decode_picture
from detector.datasets.tar_shards import TarMember, index_shard
from detector.datasets.writers.shards import write_shards
from detector.datasets.writers.voc import write_voc
from detector.pipeline.data import training_view
from detector.pipeline.loaders import TrainingOrder, training_loader
from detector.structures import Batch
from tests.datasets.readers import formats
from tests.datasets.writers.test_round_trip import as_sides, make

XML = (
    "<annotation><size><width>20</width><height>10</height></size><object><name>cat</name><bndbox>"
    "<xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def picture(grey: int) -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize((20, 10)).point(lambda value: (value + grey) % 256).save(content, "PNG")
    return content.getvalue()


def pack(path: Path, files: Sequence[tuple[str, bytes | str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in files:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


def pairs(*names: str, first: int = 0) -> list[tuple[str, bytes | str]]:
    """Return pictures that differ, each with its annotation."""
    return [
        item
        for number, name in enumerate(names)
        for item in ((f"{name}.png", picture(50 * (first + number))), (f"{name}.xml", XML))
    ]


def two_shards(root: Path) -> tuple[Path, Path]:
    return pack(root / "train-0.tar", pairs("a", "b")), pack(root / "test-0.tar", pairs("c", first=2))


def test_members_are_files_of_their_own(tmp_path: Path) -> None:
    contents = {"x/1.bin": b"one", "2.bin": b"", "é" * 120 + ".bin": bytes(range(256)) * 9}
    shard = pack(tmp_path / "s.tar", [("./" + name, content) for name, content in contents.items()])
    members = list(index_shard(shard, []))
    assert {member.name: member.read_bytes() for member in members} == contents
    assert str(members[0]) == f"{shard}/x/1.bin"
    assert members[0].parent == shard / "x"
    for member in members:
        with member.open("rb") as file:
            whole = contents[member.name]
            assert file.read() == whole
            assert file.read(1) == b""
            assert file.seek(0, os.SEEK_END) == len(whole) == member.stat().st_size
            assert file.seek(1) == 1
            assert file.read(5) == whole[1:6]
            with pytest.raises(OSError, match="fileno"):  # a decoder would read the whole shard by it
                file.fileno()


@pytest.mark.parametrize("write", formats.FORMATS, ids=lambda write: write.__name__)
def test_a_packed_folder_is_read_like_the_folder(tmp_path: Path, write: Callable[[Path], str]) -> None:
    (tmp_path / "source").mkdir()
    write(tmp_path / "source")
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed/all.tar", "w") as shard:
        shard.add(tmp_path / "source", ".")
    expected, found = Folder(tmp_path / "source"), Folder(tmp_path / "packed")
    assert found.summary[0].endswith(", in 1 tar shards")
    assert found.train.classes == expected.train.classes
    for ours, theirs in ((found.train, expected.train), (found.test, expected.test)):
        assert [item.image_id for item in ours.annotations] == [item.image_id for item in theirs.annotations]
        for index, (mine, its) in enumerate(zip(ours.annotations, theirs.annotations, strict=True)):
            assert torch.equal(mine.boxes, its.boxes)
            assert torch.equal(mine.labels, its.labels)
            assert torch.equal(ours.image(index), theirs.image(index))


def test_written_shards_keep_pictures_boxes_and_order(tmp_path: Path) -> None:
    sides = [side._replace(annotations=side.annotations[::-1], files=side.files[::-1]) for side in make(tmp_path)]
    largest = max(file.stat().st_size for side in sides for file in side.files)
    write_shards(tmp_path / "out", sides, ("cat", "dog"), shard_bytes=2 * largest)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[0] == "test-000000.tar"
    assert {"train-000000.tar", "train-000001.tar"} < set(names)
    assert all(path.stat().st_size < 3 * largest + 100_000 for path in (tmp_path / "out").iterdir())
    for found, side in zip(as_sides(Folder(tmp_path / "out")), sides, strict=True):
        assert [item.image_id for item in found.annotations] == [
            item.image_id.replace("/", "_") for item in side.annotations
        ]
        for mine, its, file, source in zip(found.annotations, side.annotations, found.files, side.files, strict=True):
            assert torch.allclose(mine.boxes, its.boxes, atol=1e-4)
            assert torch.equal(mine.difficult, its.difficult)
            assert file.read_bytes() == source.read_bytes()
    write_shards(tmp_path / "again", sides, ("cat", "dog"), shard_bytes=2 * largest)
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)


def test_a_key_ends_at_the_first_dot_and_is_unique(tmp_path: Path) -> None:
    """WebDataset's readers take a.b.png as the key a."""
    sides = make(tmp_path)
    for number, name in ((1, "a.b"), (2, "a_b")):
        sides[0].annotations[number] = replace(sides[0].annotations[number], image_id=name)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"2 train\.png: two pictures would get the name a_b"):
        write_shards(tmp_path / "out", sides, ("cat", "dog"))


def samples(root: Path, *, first: int, last: int, workers: int) -> list[Batch]:
    config = load_config(["dataset=auto", f"dataset.root={root}", "input.short_sides=[64]", "proposals=rpn"])
    view = training_view(config, Folder(root).train, None)
    order = TrainingOrder(5, 2, seed=3, first_step=first, last_step=last, rank=0, world_size=1)
    with training_loader(view, order, workers=workers, pin_memory=False) as batches:
        return list(batches)


def test_samples_are_those_of_the_folder_with_any_workers_and_after_a_resume(tmp_path: Path) -> None:
    sides = make(tmp_path / "source")
    write_shards(tmp_path / "shards", sides, ("cat", "dog"), shard_bytes=20_000)
    write_voc(tmp_path / "voc", sides, ("cat", "dog"))
    expected = samples(tmp_path / "voc", first=0, last=5, workers=0)
    for found, steps in (
        (samples(tmp_path / "shards", first=0, last=5, workers=0), expected),
        (samples(tmp_path / "shards", first=0, last=5, workers=2), expected),
        (samples(tmp_path / "shards", first=3, last=5, workers=2), expected[3:]),
    ):
        assert len(found) == len(steps)
        for mine, its in zip(found, steps, strict=True):
            assert (mine.image_ids, mine.seeds, mine.short_sides) == (its.image_ids, its.seeds, its.short_sides)
            assert all(map(torch.equal, mine.images, its.images))
            assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(mine.instances, its.instances, strict=True))


@pytest.mark.parametrize(
    ("cut", "words"),
    [(512 + 30, "unexpected end of data"), (1024, "its end is missing"), (700, "unexpected end of data"), (0, "empty")],
)
def test_a_truncated_shard_is_named(tmp_path: Path, cut: int, words: str) -> None:
    """1024 bytes are the first whole member, without an end mark."""
    shard, _ = two_shards(tmp_path)
    assert len(picture(0)) <= 512
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(FaultyDataError, match=rf"train-0\.tar: not readable .*{words}.*copy or write the shard again"):
        Folder(tmp_path)


def test_every_cut_of_a_shard_is_found(tmp_path: Path) -> None:
    shard = pack(tmp_path / "s.tar", pairs("a"))
    whole = shard.read_bytes()
    end = next(at for at in range(0, len(whole), 512) if not whole[at:].strip(b"\0"))
    for cut in range(0, end + 512, 100):
        shard.write_bytes(whole[:cut])
        faults: list[Fault] = []
        list(index_shard(shard, faults))
        assert len(faults) == 1, cut


def test_joined_shards_are_refused(tmp_path: Path) -> None:
    """tarfile would stop at the end mark of the first."""
    first, second = two_shards(tmp_path)
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(FaultyDataError, match=r"train-0\.tar: .*after 4 files .*follows the end mark"):
        Folder(tmp_path)


def test_a_damaged_header_is_found(tmp_path: Path) -> None:
    first, _ = two_shards(tmp_path)
    content = bytearray(first.read_bytes())
    content[1024 + 150] ^= 0x11  # in the checksum of the second member
    first.write_bytes(content)
    with pytest.raises(FaultyDataError, match=r"train-0\.tar: .*after 1 files .*byte 1024 is damaged"):
        Folder(tmp_path)


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    _, second = two_shards(tmp_path)
    with tarfile.open(tmp_path / "train-0.tar", "w:gz") as shard:
        shard.add(second, "x.bin")
    with pytest.raises(FaultyDataError, match=r"train-0\.tar: not readable as an uncompressed tar file"):
        Folder(tmp_path)


def test_a_name_twice_and_links_are_faults(tmp_path: Path) -> None:
    two_shards(tmp_path)
    shard = pack(tmp_path / "train-1.tar", [*pairs("d", "e", first=3), *pairs("d", first=5)])
    with tarfile.open(shard, "a") as archive:
        link = tarfile.TarInfo("f.png")
        link.type, link.linkname = tarfile.SYMTYPE, "e.png"
        archive.addfile(link)
    with pytest.raises(FaultyDataError) as caught:
        Folder(tmp_path)
    assert [fault.message.partition(": ")[0] for fault in caught.value.faults] == [
        f"{shard}/{name}" for name in ("d.png", "d.xml", "f.png")
    ]
    assert "occurs twice in this shard" in caught.value.faults[0].message
    assert "is a link" in caught.value.faults[2].message


def test_a_missing_picture_names_shard_and_member(tmp_path: Path) -> None:
    """The picture of this name in another shard is another picture."""
    two_shards(tmp_path)
    names_it = XML.replace("<size>", "<filename>c.png</filename><size>")
    shard = pack(tmp_path / "train-1.tar", [*pairs("d", "e", first=3)[:3], ("c.xml", names_it)])
    with pytest.raises(FaultyDataError, match="no picture of this name") as caught:
        Folder(tmp_path)
    assert [fault.message.partition(": ")[0] for fault in caught.value.faults] == [f"{shard}/c.xml"]


def test_a_picture_without_annotation_is_left_out_with_a_note(tmp_path: Path) -> None:
    two_shards(tmp_path)
    pack(tmp_path / "train-1.tar", pairs("d", "e", first=3)[:3])
    folder = Folder(tmp_path)
    assert [item.image_id for item in folder.train.annotations] == ["a", "b", "d"]
    assert any("train-1.tar/e.png" in note and "have no annotation" in note for note in folder.notes)


def test_shards_and_keys_of_the_same_name(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        pack(tmp_path / name / "train-0.tar", pairs("a", "b", first=2 * number))
    pack(tmp_path / "test-0.tar", pairs("a", first=4))
    folder = Folder(tmp_path)
    assert [item.image_id for item in folder.train.annotations] == [
        f"{name}/train-0.tar/{key}" for name in ("one", "two") for key in "ab"
    ]
    assert [item.image_id for item in folder.test.annotations] == ["test-0.tar/a"]
    assert len({folder.train.image(index).sum() for index in range(4)}) == 4


def test_annotations_beside_the_shards(tmp_path: Path) -> None:
    formats.published_coco(tmp_path)
    for split in ("train", "test"):
        files = sorted((tmp_path / "images" / split).iterdir())
        pack(tmp_path / f"{split}-0.tar", [(path.name, path.read_bytes()) for path in files])
        for path in files:
            path.unlink()
    folder = Folder(tmp_path)
    assert [item.image_id for item in folder.train.annotations] == ["a", "b c"]
    assert isinstance(folder.test.files[0], TarMember)


def test_one_list_for_the_pictures_of_all_shards(tmp_path: Path) -> None:
    content = formats.coco_content("train")
    pack(tmp_path / "0.tar", [("instances_train.json", json.dumps(content)), ("a.jpg", picture(0))])
    pack(tmp_path / "1.tar", [("b c.jpg", picture(50))])
    folder = Folder(tmp_path)
    assert {item.image_id for side in (folder.train, folder.test) for item in side.annotations} == {"a", "b c"}


def test_an_archive_beside_its_unpacked_pictures_is_not_read(tmp_path: Path) -> None:
    formats.labelimg(tmp_path)
    (tmp_path / "train/copy.tar").write_bytes(b"not a tar file")
    assert len(Folder(tmp_path).train.annotations) == 2


def test_the_check_before_training_names_shard_and_member(tmp_path: Path) -> None:
    two_shards(tmp_path)
    damaged = picture(100)[:-40]
    pack(tmp_path / "train-1.tar", [("d.png", damaged), ("d.xml", XML)])
    config = schema.AutoDatasetConfig(root=str(tmp_path), keep_checks=False)
    with pytest.raises(FaultyDataError, match=r"train-1\.tar/d\.png: cannot be read \("):
        readable_dataset(config, "train")
    config.on_unreadable = schema.OnUnreadable.skip
    assert [item.image_id for item in readable_dataset(config, "train").annotations] == ["a", "b"]


def test_checks_of_members_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(check_cache, "MIN_AGE_S", 0.0)
    first, second = two_shards(tmp_path / "data")
    members = [member for shard in (first, second) for member in index_shard(shard, [])][::2]
    asked: list[str] = []

    def check(path: TarMember) -> PictureFacts:
        asked.append(path.name)
        return decode_picture(path)

    monkeypatch.setattr("detector.datasets.picture_check.decode_picture", check)
    for names in (["a.png", "b.png", "c.png"], []):
        asked.clear()
        assert [fact.size for fact in check_pictures(members, decode=True, keep=True)] == [(20, 10)] * 3
        assert sorted(asked) == names
    os.utime(second, (9e8, 9e8))
    asked.clear()
    check_pictures(members, decode=True, keep=True)
    assert asked == ["c.png"]
    check_pictures(members, decode=True, keep=True)
    assert asked == ["c.png"], "the results of the unchanged shard are still there"


def test_a_shard_that_becomes_shorter_is_an_error_of_one_line(tmp_path: Path) -> None:
    first, _ = two_shards(tmp_path)
    folder = Folder(tmp_path)
    first.write_bytes(first.read_bytes()[: 512 + 60])
    with pytest.raises(ValueError, match=r"train-0\.tar/a\.png: cannot decode .*copy the shard again"):
        folder.train.image(0)

"""The data sets as users have them: layouts, odd files, copies, and errors that say what to do."""

import os
import shutil
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from distillation.data import cifar10
from distillation.data.cifar10 import read_cifar10
from distillation.data.image_folder import read_image_folder
from distillation.data.petimages import read_petimages
from distillation.data.plantvillage import leaf_of, photograph_of, read_plantvillage
from distillation.data.sources import ENVIRONMENT, find
from distillation.data.splits import assign
from distillation.task import DataError
from PIL import Image
from pictures import CLASSES, class_folders, encoded, picture, write


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path):
    """PetImages as it is: an empty file, a broken one, a truncated one, Thumbs.db, and a readme."""
    root = class_folders(tmp_path / "PetImages", ("Cat", "Dog"))
    (root / "Cat" / "666.jpg").write_bytes(b"")
    (root / "Dog" / "11702.jpg").write_bytes(b"\xff\xd8\xff no more")
    (root / "Dog" / "5.jpg").write_bytes(encoded(picture(5))[:-200])
    for name in ("Cat", "Dog"):
        (root / name / "Thumbs.db").write_bytes(b"thumbs")
    (tmp_path / "readme.txt").write_text("about cats")
    return root


def read_all(reader, *args, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return reader(*args, progress=False, **options), [str(warning.message) for warning in caught]


def same_group(pool, *rows):
    return len(pool.copies[list(rows)].unique()) == 1


def test_pets_that_cannot_be_read_are_left_out_and_named_once(pets, cache):
    pool, told = read_all(read_petimages, pets, 32, cache)
    assert pool.classes == ["Cat", "Dog"] and pool.examples.labels.bincount().tolist() == [6, 6]
    assert pool.left_out == {"empty": ["Cat/666.jpg"], "broken or truncated": ["Dog/11702.jpg", "Dog/5.jpg"]}
    assert len(told) == 1 and "3 files left out" in told[0] and "Dog/11702.jpg" in told[0] and "Thumbs" not in told[0]
    assert any("Cat 6, Dog 6" in note for note in pool.notes) and any("3 files left out" in note for note in pool.notes)
    assert pool.examples.store.shape == (12, 3, 32, 32) and pool.is_test is None


def test_pets_are_read_from_folders_and_from_the_archive_alike(pets, tmp_path, cache):
    archive = tmp_path / "kagglecatsanddogs_5340.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(tmp_path.rglob("*")):
            if path.is_file() and path != archive:
                file.write(path, path.relative_to(tmp_path))
        file.writestr("__MACOSX/PetImages/Cat/._0000.jpg", b"resource fork")
    before = sorted(tmp_path.rglob("*"))
    pools = [read_all(read_petimages, path, 32, cache)[0] for path in (pets, tmp_path, archive)]
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked
    for pool in pools[1:]:
        assert torch.equal(pool.examples.store, pools[0].examples.store)
        assert torch.equal(pool.examples.labels, pools[0].examples.labels)
    assert pools[2].left_out["empty"] == ["PetImages/Cat/666.jpg"]


def test_a_truncated_archive_says_where_to_get_it(pets, tmp_path, cache):
    whole = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path, "PetImages"))
    truncated = tmp_path / "truncated.zip"
    truncated.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"truncated.*PetImages/Cat.*Microsoft Download Center"):
        read_petimages(truncated, 32, cache, progress=False)


def test_a_damaged_archive_is_not_taken_for_broken_images(tmp_path, cache):
    archive = tmp_path / "pets.zip"
    data = {name: encoded(picture(i)) for i, name in enumerate(("Cat/1.jpg", "Dog/1.jpg"))}
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in data.items():
            file.writestr(name, content)
    content = bytearray(archive.read_bytes())
    content[200] ^= 255  # within the first member: its checksum is wrong
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged at Cat/1.jpg.*Microsoft"):
        read_petimages(archive, 32, cache, progress=False)


@pytest.mark.parametrize("reader", [read_petimages, read_plantvillage, read_image_folder])
def test_missing_data_say_what_is_expected(reader, tmp_path):
    for path in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"(Nobody said|nowhere).*Expected is .*(jpg|JPG).*--data"):
            reader(path, 32, tmp_path, progress=False)


def test_another_layout_of_pets_is_explained(tmp_path, cache):
    class_folders(tmp_path / "train", ("cats", "dogs"))
    with pytest.raises(DataError, match="no folders Cat and Dog.*Microsoft"):
        read_petimages(tmp_path, 32, cache, progress=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: [path.unlink() for path in (root / "dog").iterdir()], "'dog' .* holds no images"),
        (lambda root: [path.write_bytes(b"x") for path in (root / "dog").iterdir()], "'dog' .* can be read"),
        (lambda root: [shutil.rmtree(root / name) for name in ("dog", "ship")], "only the class folder 'cat'"),
        (lambda root: [shutil.rmtree(root / name) for name in CLASSES], "no class folders"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_missing_and_empty_classes_are_errors(tmp_path, cache, spoil, message):
    root = class_folders(tmp_path / "images")
    spoil(root)
    for reader in (read_image_folder, read_plantvillage):
        with pytest.raises(DataError, match=message):
            reader(root, 32, cache, progress=False)


@pytest.mark.parametrize(
    ("file", "photograph"),
    [
        ("1a-2b___RS_HL 1864.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___RS_HL 1864_flipLR.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___JR_B.Spot 9095_180deg.JPG", "1a-2b___JR_B.Spot 9095"),
        ("1a-2b___RS_HL 1864_270deg.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___RS_HL 1864_new90degFlipTB.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___RS_HL 1864_new200degFlipLR.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___RS_HL 1864_newGRR.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___RS_HL 1864_newPixel25.JPG", "1a-2b___RS_HL 1864"),
        ("1a-2b___UF.GRC_BS_Lab Leaf 0469.JPG", "1a-2b___UF.GRC_BS_Lab Leaf 0469"),
        ("1a-2b___GHLB_PS Leaf 23.7 Day 13.jpg", "1a-2b___GHLB_PS Leaf 23.7 Day 13"),
        ("image (12).jpg", "image (12)"),
    ],
)
def test_names_tell_the_photograph(file, photograph):
    assert photograph_of(f"color/Potato___healthy/{file}") == f"Potato___healthy/{photograph}"


def test_the_map_of_leaves_tells_the_leaf():
    leaf = leaf_of({"rs_hl 1": ["Soybean___healthy:::3.0", "Potato___healthy:::7.0"]})
    assert leaf("Potato___healthy/ab___RS_HL 1_flipLR.JPG") == "Potato___healthy:::7.0"
    assert leaf("Grape___healthy/ab___RS_HL 1.JPG") is None and leaf("Potato___healthy/ab___RS_HL 2.JPG") is None


@pytest.fixture
def leaves(tmp_path):
    root = tmp_path / "plants" / "color"
    names = ("Pepper,_bell___Bacterial_spot", "Potato___healthy")
    for label, name in enumerate(names):
        for i in range(5):
            write(root / name / f"{label}{i}___RS_HL {i}.JPG", picture(100 * label + i))
    # Recolored beyond what contents can tell; and mirrored under a name of its own.
    write(root / names[1] / "10___RS_HL 0_newGRR.JPG", picture(999))
    write(root / names[1] / "77___other 5.JPG", picture(101).transpose(Image.Transpose.ROTATE_90), quality=60)
    return root


def test_copies_of_leaves_are_told_by_names_and_contents(leaves, cache):
    pool, told = read_all(read_plantvillage, leaves.parent, 32, cache)
    assert not told and pool.classes == ["Pepper,_bell___Bacterial_spot", "Potato___healthy"]
    assert same_group(pool, 5, 6) and same_group(pool, 7, 11) and len(pool.copies.unique()) == 10
    assert any("4 images are copies of one another, in 2 groups" in note and "1 link by" in note for note in pool.notes)
    again, _ = read_all(read_plantvillage, leaves, 32, cache)
    assert torch.equal(again.copies, pool.copies)


def test_photographs_of_one_leaf_stay_together_where_the_repository_tells(leaves, cache, tmp_path):
    repository = tmp_path / "repository"
    (repository / "raw").mkdir(parents=True)
    leaves.rename(repository / "raw" / "color")
    (repository / "leaf-map.json").write_text(
        '{"rs_hl 3": ["Potato___healthy:::9.0"], "rs_hl 4": ["Potato___healthy:::9.0"]}'
    )
    pool, _ = read_all(read_plantvillage, repository, 32, cache)
    assert same_group(pool, 9, 10) and not same_group(pool, 3, 4)  # the leaf of one class, not of the other
    (repository / "leaf-map.json").write_text("{")
    with pytest.raises(DataError, match="map of leaves"):
        read_plantvillage(repository, 32, cache, progress=False)


def test_any_class_folders_are_read(tmp_path, cache):
    root = class_folders(tmp_path / "images", ("Übel", "a b,c", "train"))
    write(root / "a b,c" / "9.PNG", picture(50))
    write(root / "a b,c" / "8.webp", picture(51))
    (root / "a b,c" / "notes.txt").write_text("no image")
    (root / "a b,c" / ".hidden.jpg").write_text("no image")
    (root / "a b,c" / "more").mkdir()
    (root / "README.md").write_text("not in a class folder")
    pool, told = read_all(read_image_folder, root, 32, cache)
    assert pool.name == "images" and pool.classes == ["a b,c", "train", "Übel"]
    assert pool.examples.labels.bincount().tolist() == [8, 6, 6]
    assert pool.left_out == {"no image by its name": ["a b,c/more", "a b,c/notes.txt"]} and len(told) == 1
    assert pool.notes[-1].startswith("No image is a copy")


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_test_part_is_kept_apart_and_its_copies_are_told(tmp_path, cache, test):
    root = tmp_path / "images"
    class_folders(root / "train", images=4)
    class_folders(root / test, images=3, first=500)
    write(root / test / "ship" / "copy.jpg", picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=70)
    pool, _ = read_all(read_image_folder, root, 32, cache)
    assert pool.is_test.tolist() == [False] * 12 + [True] * 10
    assert same_group(pool, 0, 21)
    assert "1 group of copies holds images of different classes." in pool.notes
    assert "1 image outside the test part is a copy of a test image." in pool.notes
    assert any("10 of them are the official test part" in note for note in pool.notes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "test").rename(root / "held out"), "(no folder 'test'|none of test, val)"),
        (lambda root: (root / "test" / "cat").rename(root / "test" / "lynx"), "differ in the classes cat, lynx"),
        (lambda root: [path.unlink() for path in (root / "train" / "dog").iterdir()], "'train/dog' .* holds no images"),
        (lambda root: [path.unlink() for path in (root / "test" / "dog").iterdir()], "'test/dog' .* holds no images"),
    ],
)
def test_wrong_parts_are_explained(tmp_path, cache, spoil, message):
    root = tmp_path / "images"
    for part in ("train", "test"):
        class_folders(root / part, images=2)
    spoil(root)
    with pytest.raises(DataError, match=message + ".*Expected is"):
        read_image_folder(root, 32, cache, progress=False)
    with pytest.raises(DataError, match=r"no folder 'test'|differ|holds no images"):
        read_cifar10(root, tmp_path, 32, cache, progress=False)


def test_cifar_folders_keep_32_pixels(tmp_path, cache):
    for part, first in (("train", 0), ("test", 500)):
        class_folders(tmp_path / part, images=2, first=first, suffix=".png")
    pool, _ = read_all(read_cifar10, tmp_path, cache, 224, cache)
    assert pool.examples.store.shape == (12, 3, 32, 32) and pool.name == "CIFAR-10"
    assert pool.examples.inputs(48).shape == (12, 3, 48, 48)
    assert read_cifar10(tmp_path, cache, 16, cache, progress=False).examples.store.shape == (12, 3, 16, 16)


def made_download(root, train, download):
    numbers = range(8) if train else range(100, 104)
    images = np.stack([np.asarray(picture(number, (32, 32))) for number in numbers])
    return SimpleNamespace(data=images, targets=[i % 2 for i in range(len(images))], classes=["cat", "dog"])


def test_the_download_is_read_as_it_is(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(cifar10, "CIFAR10", made_download)
    pool, _ = read_all(read_cifar10, None, tmp_path, 224, cache)
    assert torch.equal(pool.examples.pixels[1], torch.from_numpy(np.asarray(picture(1, (32, 32))).copy()).permute(2, 0, 1))
    assert pool.is_test.tolist() == [False] * 8 + [True] * 4 and pool.examples.labels.tolist() == [0, 1] * 6
    smaller, _ = read_all(read_cifar10, None, tmp_path, 16, cache)
    assert smaller.examples.store.shape == (12, 3, 16, 16)


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(cifar10, "CIFAR10", refuse)
    with pytest.raises(DataError, match="no route.*train/<class>.*--data"):
        read_cifar10(None, tmp_path, 32, tmp_path, progress=False)


def test_variable_names_the_folder_that_holds_the_data_sets(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    assert find(None, "cifar10") == tmp_path / "cifar10"
    assert find(Path("given"), "cifar10") == Path("given")
    monkeypatch.delenv(ENVIRONMENT)
    assert find(None, "cifar10") is None


needs_data = pytest.mark.skipif(ENVIRONMENT not in os.environ, reason=f"${ENVIRONMENT} names no data")


@needs_data
def test_real_pets(cache, tmp_path):
    # A part of them, which takes less time, with all the files that are odd.
    for name in ("Cat", "Dog"):
        (tmp_path / "PetImages" / name).mkdir(parents=True)
        paths = sorted((find(None, "asirra") / "PetImages" / name).iterdir())
        odd = [path for path in paths if path.stat().st_size < 100]
        for path in [path for path in paths if path not in odd][:60] + odd:
            (tmp_path / "PetImages" / name / path.name).symlink_to(path)
    pool, told = read_all(read_petimages, tmp_path, 32, cache)
    assert pool.left_out == {"empty": ["PetImages/Cat/666.jpg"], "broken or truncated": ["PetImages/Dog/11702.jpg"]}
    assert len(told) == 1 and pool.examples.labels.bincount().tolist() == [60, 60]


@needs_data
def test_real_leaves(cache):
    folder = find(None, "plant_disease")
    pool, told = read_all(read_plantvillage, folder, 64, cache)
    files = [f"{name}/{path.name}" for name in pool.classes for path in sorted((folder / "color" / name).iterdir())]
    assert len(files) == len(pool.copies) and not told
    names = [photograph_of(file) for file in files]
    by_name = {name: [row for row, other in enumerate(names) if other == name] for name in names}
    assert sum(len(rows) > 1 for rows in by_name.values()) == 10
    assert all(same_group(pool, *rows) for rows in by_name.values())
    assert len(pool.copies.unique()) == len(by_name)  # contents add no leaf of another name
    labels = pool.examples.labels
    for seed in range(5):
        parts = assign(labels, pool.copies, [0.8, 0.2], seed)
        assert not set(pool.copies[parts == 0].tolist()) & set(pool.copies[parts == 1].tolist())
        kept = labels[parts == 1].bincount(minlength=4)
        assert ((kept - 0.2 * labels.bincount()).abs() <= 2).all()  # the healthy ones are in groups of up to five

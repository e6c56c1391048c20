"""Links, pipes and archives of any kind: left out and named, or refused in one error; never a hang."""

import os
import pickle
import socket
import stat
import struct
import tracemalloc
import unicodedata
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest
from distillation.data import trees
from distillation.data.cifar10 import read_cifar10
from distillation.data.image_folder import read_image_folder
from distillation.data.listing import NO_IMAGE, SPECIAL
from distillation.data.petimages import read_petimages
from distillation.data.plantvillage import read_plantvillage
from distillation.data.trees import Zip
from distillation.task import DataError
from pictures import class_folders, encoded, picture, write


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def read(reader, path, cache):
    """The pool and the texts of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return reader(path, 32, cache, progress=False), [str(warning.message) for warning in caught]


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to("nowhere.jpg"),
        lambda path: path.symlink_to(path.name),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("x" * 300),
        os.mkfifo,
        listening,
    ],
    ids=["dangling", "to itself", "device", "too long", "pipe", "socket"],
)
@pytest.mark.parametrize("place", ["cat/odd.jpg", "odd"])
def test_what_is_no_regular_file_is_left_out_and_named(tmp_path, cache, monkeypatch, make, place):
    root = class_folders(tmp_path / "images", images=2)
    monkeypatch.chdir((root / place).parent)  # addresses of sockets are short
    make(root / place)
    pool, told = read(read_image_folder, root, cache)
    assert pool.left_out == {SPECIAL: [place]} and pool.examples.labels.bincount().tolist() == [2, 2, 2]
    assert len(told) == 1 and place in told[0]


@pytest.mark.parametrize("target", [".", "..", "../images/../images"])
def test_a_link_to_a_folder_that_holds_it_is_no_class(tmp_path, cache, target):
    root = class_folders(tmp_path / "images", images=2)
    (root / "loop").symlink_to(target)
    (root / "cat" / "loop").symlink_to("..")
    pool, _ = read(read_image_folder, root, cache)
    assert pool.classes == ["cat", "dog", "ship"] and pool.left_out == {SPECIAL: ["loop", "cat/loop"]}


def test_links_to_images_and_to_folders_elsewhere_are_read(tmp_path, cache):
    elsewhere = class_folders(tmp_path / "elsewhere", images=2)
    root = class_folders(tmp_path / "images", ("cat",), images=2, first=50)
    (root / "dog").symlink_to(elsewhere / "dog")
    (root / "cat" / "linked.jpg").symlink_to(elsewhere / "cat" / "0000.jpg")
    pool, told = read(read_image_folder, root, cache)
    assert pool.examples.labels.bincount().tolist() == [3, 2] and not told


def test_a_pipe_in_place_of_the_data_is_refused(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe")
    for reader in (read_petimages, read_image_folder, read_plantvillage):
        with pytest.raises(DataError, match="pipe"):
            reader(tmp_path / "pipe", 32, cache, progress=False)


def test_a_huge_file_is_left_out_without_being_read_whole(tmp_path, cache):
    root = class_folders(tmp_path / "images", images=2)
    with open(root / "cat" / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    pool, _ = read(read_image_folder, root, cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pool.left_out == {"too large": ["cat/huge.png"]} and peak < 300 << 20


def test_what_systems_leave_behind_is_not_named(tmp_path, cache):
    root = class_folders(tmp_path / "images", images=2)
    for name in ("Thumbs.db", "ehthumbs.db", ".DS_Store", "desktop.ini", "Icon\r", "._0000.jpg"):
        (root / "cat" / name).write_bytes(b"x")
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"):
        class_folders(root / name, images=1)
    pool, told = read(read_image_folder, root, cache)
    assert pool.classes == ["cat", "dog", "ship"] and not pool.left_out and not told


def test_names_that_no_terminal_can_show_are_escaped(tmp_path, cache):
    root = class_folders(tmp_path / "images", ("cat", "a\nb"), images=2)
    for name in (b"\xff.txt", b"\x1b[2J.txt", b"two\nlines.txt"):
        (root / "cat" / os.fsdecode(name)).write_text("x")
    pool, (told,) = read(read_image_folder, root, cache)
    assert pool.classes == ["a\\nb", "cat"]
    assert pool.left_out == {NO_IMAGE: ["cat/\\x1b[2J.txt", "cat/two\\nlines.txt", "cat/\\udcff.txt"]}
    assert told.isprintable()


def test_the_path_of_the_images_is_shown_escaped(tmp_path, cache):
    root = class_folders(tmp_path / "\x1b[31m", images=2)
    (root / "cat" / "x.jpg").write_bytes(b"")
    _, told = read(read_image_folder, root, cache)
    assert len(told) == 1 and "/\\x1b[31m: 1 file left out" in told[0]


def test_the_current_folder_has_a_name(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(class_folders(tmp_path / "images", images=2))
    assert read(read_image_folder, Path("."), cache)[0].name == "images"


def test_a_map_of_leaves_of_another_kind_is_refused(tmp_path, cache):
    root = class_folders(tmp_path / "color", images=2)
    for content in (b"[1, 2]", b'{"a": "b"}', b'{"a": [1]}', b"\xff", b"[" * 100_000, b"7"):
        (root / "leaf-map.json").write_bytes(content)
        with pytest.raises(DataError, match="map of leaves"):
            read_plantvillage(root, 32, cache, progress=False)


@pytest.mark.parametrize("name", ["é", "Ångström", "각"])
def test_two_spellings_of_an_accent_are_one_class(tmp_path, cache, name):
    root = tmp_path / "images"
    one, two = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    class_folders(root, (one, "other"), images=2)
    class_folders(root, (two,), images=3, first=50)
    pool, _ = read(read_image_folder, root, cache)
    assert sorted(pool.classes) == sorted([one, "other"])
    assert pool.examples.labels.bincount().tolist()[pool.classes.index(one)] == 5


def test_parts_may_spell_a_class_differently_but_not_in_case(tmp_path, cache):
    root = tmp_path / "images"
    class_folders(root / "train", (unicodedata.normalize("NFD", "é"), "cat"), images=2)
    class_folders(root / "test", (unicodedata.normalize("NFC", "é"), "cat"), images=2, first=50)
    assert read(read_image_folder, root, cache)[0].classes == ["cat", unicodedata.normalize("NFC", "é")]
    (root / "test" / "cat").rename(root / "test" / "Cat")
    with pytest.raises(DataError, match="classes Cat, cat: only train has cat; only test has Cat"):
        read_image_folder(root, 32, cache, progress=False)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "unlabeled"])
@pytest.mark.parametrize("reader", [read_image_folder, lambda path, *rest, **bar: read_cifar10(path, path, *rest, **bar)])
def test_a_folder_beside_train_and_test_is_named(tmp_path, cache, name, reader):
    root = tmp_path / "images"
    for number, part in enumerate(("train", "test", name)):
        class_folders(root / part, images=2, first=50 * number)
    pool, (told,) = read(reader, root, cache)
    assert len(pool.examples) == 12 and int(pool.is_test.sum()) == 6
    assert f"Left out beside train and test: {name}. " in told and pool.notes[-1] in told


def archive_of(path, extra=(), method=zipfile.ZIP_DEFLATED):
    """Two images a class, and further members: (name or ZipInfo, content)."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as file:
        warnings.simplefilter("ignore")  # duplicate names
        for number in range(4):
            file.writestr(f"PetImages/{('Cat', 'Dog')[number % 2]}/{number}.jpg", encoded(picture(number)))
        for name, content in extra:
            file.writestr(name, content)
    return path


def unix_member(name, kind):
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (kind | 0o644) << 16
    return member


def test_links_and_pipes_in_an_archive_are_left_out_and_named(tmp_path, cache):
    kinds = (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR)
    names = [f"PetImages/Cat/{kind}.jpg" for kind in kinds]
    extra = [(unix_member(name, kind), b"/etc/passwd") for name, kind in zip(names, kinds)]
    pool, _ = read(read_petimages, archive_of(tmp_path / "pets.zip", extra), cache)
    assert pool.left_out == {SPECIAL: sorted(names)} and len(pool.examples) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PetImages/../../x.jpg", "leads out"),
        ("/PetImages/Cat/x.jpg", "leads out"),
        ("..\\x.jpg", "leads out"),
        ("PetImages/Cat/0.jpg", "'PetImages/Cat/0.jpg' occurs twice"),
    ],
)
def test_members_outside_or_given_twice_are_refused(tmp_path, cache, name, message):
    path = archive_of(tmp_path / "pets.zip", [(name, b"x")])
    with pytest.raises(DataError, match=f"{message}.*Microsoft"):
        read_petimages(path, 32, cache, progress=False)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, cache, method):
    with pytest.raises(DataError, match="is compressed by method.*stored and deflated"):
        read_petimages(archive_of(tmp_path / "pets.zip", method=method), 32, cache, progress=False)


def spoiled(path, offset, content):
    """Writes into the first entry of the list of members."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + len(content)] = content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (8, b"\x01\x00", "is encrypted"),
        (10, b"\x63\x00", "method 99"),
        (24, struct.pack("<I", 1 << 30), "has 1,024 MiB, and 128 MiB are the most"),
        (6, b"\xff\x00", "no zip archive"),  # a version to come
        (42, struct.pack("<I", 1 << 31), "damaged at"),
        (24, struct.pack("<I", 10), "damaged at"),
    ],
    ids=["encrypted", "unknown compression", "huge", "version", "misplaced", "longer than stated"],
)
def test_spoiled_archives_are_refused(tmp_path, cache, offset, content, message):
    path = spoiled(archive_of(tmp_path / "pets.zip"), offset, content)
    with pytest.raises(DataError, match=f"{message}.*Microsoft") as caught:
        read_petimages(path, 32, cache, progress=False)
    assert "\n" not in str(caught.value)


def test_names_that_are_not_what_they_claim_are_refused(tmp_path, cache):
    path = archive_of(tmp_path / "pets.zip", [("PetImages/Cat/é.jpg", b"x")])
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(DataError, match="no zip archive"):
        read_petimages(path, 32, cache, progress=False)


def test_a_member_without_a_name_is_no_image(tmp_path, cache):
    path = archive_of(tmp_path / "pets.zip", [("nameless", b"x")])
    path.write_bytes(path.read_bytes().replace(b"nameless", bytes(8)))  # names end at a zero byte
    assert len(read(read_petimages, path, cache)[0].examples) == 4


def test_a_member_that_unpacks_to_more_than_stated_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("Cat/1.jpg", bytes(200 << 20))
    tree = Zip(spoiled(path, 24, struct.pack("<I", 1000)))
    tracemalloc.start()
    with pytest.raises(DataError, match="damaged at Cat/1.jpg"):
        tree.read("Cat/1.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_archives_that_are_large_when_unpacked_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(DataError, match="unpacked it has"):
        Zip(archive_of(tmp_path / "pets.zip", [(f"{number}.bin", bytes(1 << 18)) for number in range(5)]))


def test_long_lists_of_members_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "MOST_LISTED", 1 << 16)
    with pytest.raises(DataError, match="list of members is larger"):
        Zip(archive_of(tmp_path / "pets.zip", [(f"{number:060}", b"") for number in range(1000)]))


def test_deep_folders_in_an_archive_take_no_memory(tmp_path, cache):
    path = archive_of(tmp_path / "pets.zip", [("d/" * 30_000 + f"{number}.jpg", b"x") for number in range(5)])
    tracemalloc.start()
    assert len(read(read_petimages, path, cache)[0].examples) == 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_archives_are_refused(tmp_path, cache, share):
    path = archive_of(tmp_path / "pets.zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match="truncated"):
        read_petimages(path, 32, cache, progress=False)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_in_place_of_cifar_are_never_loaded(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", lambda *args, **options: None)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Touch(tmp_path / "executed")))
    for given in (None, folder, tmp_path):
        with pytest.raises(DataError):
            read_cifar10(given, tmp_path, 32, cache, progress=False)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("error", [EOFError, zlib.error, pickle.UnpicklingError, KeyError])
def test_a_download_that_fails_in_any_way_is_explained(tmp_path, monkeypatch, error):
    def fail(*args, **options):
        raise error("half an archive")

    monkeypatch.setattr("distillation.data.cifar10.CIFAR10", fail)
    with pytest.raises(DataError, match="could not be downloaded.*half an archive"):
        read_cifar10(None, tmp_path, 32, tmp_path, progress=False)


def test_image_files_of_zero_length_that_never_end_are_not_read(tmp_path, cache):
    # Some files of /proc have no size, and reading them waits or does not end.
    root = class_folders(tmp_path / "images", images=2)
    (root / "cat" / "kernel.jpg").symlink_to("/proc/self/mem")
    write(root / "cat" / "last.jpg", picture(77))
    pool, _ = read(read_image_folder, root, cache)
    assert pool.left_out == {"empty": ["cat/kernel.jpg"]} and len(pool.examples) == 7

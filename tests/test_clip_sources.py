"""Sources of clips: folders, manifests, shards and Hugging Face datasets, and errors that name the file and line."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from videodit.datasets.clips.reading.records import Source
from videodit.datasets.clips.reading.sources import read_source
from videodit.errors import InputError
from videodit.reading.pictures import SUFFIXES


def fill(folder: Path, **files: str | bytes) -> Path:
    """Write files; "__" in a name stands for "." and "___" for "/"."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]], *, kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def captions(source: Source) -> dict[str, str | None]:
    return {clip.name: clip.caption for clip in source}


def content(source: Source, name: str) -> bytes:
    clip = next(clip for clip in source if clip.name == name)
    with clip.media.open() as file:
        return file.read()


# ---- folders ---------------------------------------------------------------------------------------


def test_a_folder_is_read_with_all_below_it(tmp_path: Path) -> None:
    fill(
        tmp_path, b__mp4="b", b__txt=" a ball\n", a__MOV="a", sub___c__webp="c", sub___c__txt="\ufeff\u4e00 cube",
        d__png="d", d__txt="  \n", e__v2__mkv="e", e__v2__txt="dots", __hidden__mp4="h", __git___f__mp4="f",
    )  # fmt: skip
    source = read_source(tmp_path)
    assert captions(source) == {
        "a.MOV": None, "b.mp4": "a ball", "d.png": None, "e.v2.mkv": "dots", "sub/c.webp": "\u4e00 cube",
    }  # fmt: skip
    assert [clip.name for clip in source] == sorted(captions(source))
    assert source.notices == ()
    assert content(source, "sub/c.webp") == b"c"
    assert all((clip.start, clip.end, clip.fps) == (0, None, None) for clip in source)
    assert captions(read_source(str(tmp_path))) == captions(source)


def test_what_is_passed_over_in_a_folder_is_told(tmp_path: Path) -> None:
    fill(tmp_path, a__mp4="a", b__txt="lone", n__srt="1", n__json="2", n__xml="4")
    (tmp_path / "link").symlink_to(fill(tmp_path / ".elsewhere", z__mp4="z"))
    assert read_source(tmp_path).notices == (
        "3 files that are no clips were passed over: n.json, n.srt, n.xml",
        "1 caption has no clip beside it: b.txt",
        "1 folder that is a link was not entered: link",
    )


def test_links_that_lead_out_of_the_folder_are_told(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    fill(inside, a__mp4="a", a__txt="a ball")
    fill(outside, b__mp4="b", c__txt="c")
    (inside / "b.mp4").symlink_to(outside / "b.mp4")
    (inside / "c.mp4").symlink_to(inside / "a.mp4")
    (inside / "c.txt").symlink_to(outside / "c.txt")
    told = "2 files are links that lead out of the folder: b.mp4, c.txt"
    assert read_source(inside).notices == (told,)
    (inside / "sub").symlink_to(outside)
    (inside / "m.csv").write_text("video\na.mp4\nb.mp4\nsub/b.mp4\n")
    assert read_source(inside / "m.csv").notices == ("2 files are links that lead out of the folder: b.mp4, sub/b.mp4",)


@pytest.mark.parametrize("video", ["../out.mp4", "sub/../../out.mp4", "/etc/hosts", r"C:\a.mp4", r"sub\..\a.mp4"])
def test_no_row_leads_out_of_the_folder(tmp_path: Path, video: str) -> None:
    fill(tmp_path / "in", sub___a__mp4="a")
    fill(tmp_path, out__mp4="b")
    (tmp_path / "in" / "m.jsonl").write_text(json.dumps({"video": video}))
    with pytest.raises(InputError, match=r"m\.jsonl, line 1: video is .* in the manifest's own folder"):
        read_source(tmp_path / "in" / "m.jsonl")


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4", "sub/..//a.mp4"])
def test_a_row_that_comes_twice_is_named(tmp_path: Path, again: str) -> None:
    fill(tmp_path, a__mp4="a")
    (tmp_path / "m.csv").write_text(f"video\na.mp4\n{again}\n")
    with pytest.raises(InputError, match=r"m\.csv, line 3: "):
        read_source(tmp_path / "m.csv")


@pytest.mark.parametrize("kind", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "utf-32"])
def test_captions_of_another_encoding_are_told(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, a__mp4="a", a__txt="a green b\u00e4ll".encode(kind))
    with pytest.raises(InputError, match=r"a\.txt: .*(UTF-8|NUL)"):
        read_source(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "m.csv").write_bytes("video,caption\na.mp4,a green b\u00e4ll\n".encode(kind))
    with pytest.raises(InputError, match=r"m\.csv.*(UTF-8|NUL|no column 'video')"):
        read_source(tmp_path / "m.csv")


def test_marks_and_line_ends_of_windows_are_no_part_of_a_caption(tmp_path: Path) -> None:
    fill(tmp_path, a__mp4="a", a__txt=b"\xef\xbb\xbfa ball\r\n\r\n")
    assert captions(read_source(tmp_path)) == {"a.mp4": "a ball"}
    row = b'\xef\xbb\xbf{"video": "a.mp4", "caption": "a ball"}\r\n'
    (tmp_path / "m.jsonl").write_bytes(row)
    (tmp_path / "m.csv").write_bytes(b'\xef\xbb\xbf"video","caption"\r\n"a.mp4","a ball"\r\n')
    for name in ("m.jsonl", "m.csv"):
        assert captions(read_source(tmp_path / name)) == {"a.mp4": "a ball"}


def test_a_caption_in_a_tar_is_no_larger_than_captions_are(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "s.tar", [("a.mp4", b"a"), ("a.txt", b"x" * 100_000)])
    with pytest.raises(InputError, match=r"key 'a', txt: the caption has 100,000 bytes; the limit prompt_characters"):
        read_source(tar)


def test_every_kind_of_file_that_is_read_is_a_clip(tmp_path: Path) -> None:
    """A folder's list of suffixes must not leave out what the reader takes."""
    fill(tmp_path, **{f"n{i}__{suffix[1:]}": "x" for i, suffix in enumerate(SUFFIXES)})
    assert len(read_source(tmp_path)) == len(SUFFIXES)


def test_folders_that_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no video or image in '.*'"):
        read_source(tmp_path)
    with pytest.raises(ValueError, match=r"there is no source '.*missing', which does not exist; it must be a folder"):
        read_source(tmp_path / "missing")
    fill(tmp_path, a__mp4="a", a__txt=b"\xff\xfe")
    with pytest.raises(ValueError, match=r"a\.txt: it is UTF-16; save it as UTF-8"):
        read_source(tmp_path)
    with pytest.raises(ValueError, match="split is 'test'; only Hugging Face datasets"):
        read_source(tmp_path, split="test")


# ---- manifests -------------------------------------------------------------------------------------

JSONL = """{"video": "a.mp4", "caption": " a ball ", "start": 1, "end": 2.5, "fps": 24, "score": 3}

{"video": "sub/b.mp4", "caption": "", "mood": "calm"}
{"video": "a.mp4"}
{"video": "a.mp4", "start": 4}
"""
CSV = """video,caption,start,end,fps,score,mood
a.mp4," a ball ",1,2.5,24,3,
sub/b.mp4,,,,,,calm
a.mp4,,,,,,
a.mp4,,4,,,,
"""


@pytest.mark.parametrize(("name", "text"), [("clips.jsonl", JSONL), ("clips.csv", CSV), ("clips.CSV", "\ufeff" + CSV)])
def test_a_manifest_says_what_to_use_of_its_videos(tmp_path: Path, name: str, text: str) -> None:
    fill(tmp_path, a__mp4="a", sub___b__mp4="b")
    (tmp_path / name).write_text(text, encoding="utf-8")
    source = read_source(tmp_path / name)
    assert [(clip.name, clip.caption, clip.start, clip.end, clip.fps) for clip in source] == [
        ("a.mp4@1.0-2.5", "a ball", 1, 2.5, 24),
        ("sub/b.mp4", None, 0, None, None),
        ("a.mp4", None, 0, None, None),
        ("a.mp4@4.0-", None, 4, None, None),
    ]
    assert source.notices == ("columns that were not used: score, mood",)
    assert content(source, "sub/b.mp4") == b"b"


def test_captions_in_csv_may_hold_anything(tmp_path: Path) -> None:
    fill(tmp_path, a__mp4="a", b__mp4="b")
    (tmp_path / "m.csv").write_text('video,caption\r\na.mp4,"one, two\nthree \u2028 ""four"""\r\nb.mp4,x\u2028y\r\n')
    assert captions(read_source(tmp_path / "m.csv")) == {
        "a.mp4": 'one, two\nthree \u2028 "four"',
        "b.mp4": "x\u2028y",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "no.mp4"}', "there is no file 'no.mp4' in "),
        ('{"video": "../a.mp4"}', r"video is '\.\./a\.mp4'; it must be a path in the manifest's own folder"),
        ('{"video": "sub/../../a.mp4"}', "it must be a path in the manifest's own folder"),
        ('{"video": "/etc/passwd"}', "it must be a path in the manifest's own folder"),
        (r'{"video": "C:\\a.mp4"}', "it must be a path in the manifest's own folder"),
        (r'{"video": "..\\a.mp4"}', "it must be a path in the manifest's own folder"),
        ('{"video": "http://host/a.mp4"}', "there is no file 'http://host/a.mp4'"),
        (r'{"video": "a\u0000.mp4"}', "there is no file "),
        ('{"video": ""}', "video is ''; it must be the path of a file"),
        ('{"caption": "a ball"}', "video is None; it must be the path of a file"),
        ('{"video": 7}', "video is 7; it must be the path of a file"),
        ('{"video": "a.mp4", "caption": 7}', "the caption is 7; it must be text"),
        ('{"video": "a.mp4", "start": 2, "end": 2}', "end is 2; it must be after start, 2"),
        ('{"video": "a.mp4", "start": -1}', "start is -1; it must be 0 or more seconds"),
        ('{"video": "a.mp4", "start": NaN}', "start is nan; it must be a number"),
        ('{"video": "a.mp4", "end": "soon"}', "end is 'soon'; it must be a number"),
        ('{"video": "a.mp4", "end": true}', "end is True; it must be a number"),
        ('{"video": "a.mp4", "fps": 0}', "fps is 0; it must be above 0"),
        ('{"video": "a.mp4", "fps": [24]}', r"fps is \[24\]; it must be a number"),
        ('{"video": "a.mp4", "start": 0.0}', "there already is a clip 'a.mp4'"),
        (
            '{"video": "a.mp4", "end": 1, "caption": "a \\ud800"}',
            "character 3 is half of a surrogate pair",
        ),
        ('{"video": ', "it is not JSON: "),
        ("[" * 100_000, "it is not JSON: "),
        ('["a.mp4"]', "it must be an object"),
    ],
)
def test_an_error_in_a_manifest_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    fill(tmp_path, a__mp4="a")
    fill(tmp_path / "m", a__mp4="a", m__jsonl=f'{{"video": "a.mp4"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=rf"m\.jsonl, line 3: .*{message}"):
        read_source(tmp_path / "m" / "m.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,caption\na.mp4,x\n", "line 1: the heading has no column 'video'; it has path, caption"),
        ("video,video\na.mp4,a.mp4\n", "line 1: the heading has the column 'video' twice"),
        ("video,caption\na.mp4\n", "line 2: it has 1 cells; the heading has 2"),
        ('video,caption\n"a.mp4","x\ny" z\n', "line 3: it is not CSV"),
        ("video,start\na.mp4,inf\n", "line 2: start is 'inf'; it must be a number"),
        ("video\n", "there is no video or image in "),
        ("", "there is no video or image in "),
    ],
)
def test_an_error_in_a_table_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    fill(tmp_path, a__mp4="a", m__csv=text)
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path / "m.csv")


# ---- WebDataset ------------------------------------------------------------------------------------

MEMBERS = [
    ("a.mp4", b"A" * 700), ("a.txt", b" a ball \n"), ("dir/b.jpg", b"B"), ("dir/b.json", b'{"caption": "a cube"}'),
    ("c.json", b'{"text": "a cone", "id": 3}'), ("c.webm", b"C"), ("c.jpg", b"thumbnail"), ("d.MP4", b"D"),
    ("e.seg1.mp4", b"E"), ("._a.mp4", b"apple"), ("g.txt", b"lone"),
]  # fmt: skip


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_are_read_in_place(tmp_path: Path, kind: int) -> None:
    write_tar(tmp_path / "s-000.tar", MEMBERS, kind=kind)
    source = read_source(tmp_path / "s-000.tar")
    assert captions(source) == {
        "s-000.tar/a": "a ball", "s-000.tar/dir/b": "a cube", "s-000.tar/c": "a cone", "s-000.tar/d": None,
    }  # fmt: skip
    assert content(source, "s-000.tar/a") == b"A" * 700
    assert content(source, "s-000.tar/c") == b"C"
    assert source.notices == (
        "3 members of the tars that are neither clip nor caption were passed over: "
        "s-000.tar/c.jpg, s-000.tar/e.seg1.mp4, s-000.tar/g.txt",
    )


def test_several_shards_are_one_source(tmp_path: Path) -> None:
    for i in range(12):
        write_tar(tmp_path / f"s-{i:03d}.tar", [("a.mp4", bytes([i]))])
    names = [f"s-{i:03d}.tar/a" for i in range(12)]
    assert [clip.name for clip in read_source(tmp_path)] == names
    source = read_source(str(tmp_path / "s-{002..010}.tar"))
    assert [clip.name for clip in source] == names[2:11]
    assert content(source, "s-010.tar/a") == bytes([10])
    assert [clip.name for clip in read_source(f"{tmp_path}/s-0{{0..1}}{{0..1}}.tar")] == [
        *names[:2], *names[10:],
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"there is no shard '.*s-012\.tar'"):
        read_source(str(tmp_path / "s-{010..012}.tar"))
    with pytest.raises(ValueError, match=r"the range \{5\.\.3\} of .* must rise"):
        read_source(str(tmp_path / "s-00{5..3}.tar"))
    with pytest.raises(ValueError, match="over at most 100000 shards"):
        read_source(str(tmp_path / "s-{0..99999999999}.tar"))
    fill(tmp_path, clip__mp4="x")
    assert read_source(tmp_path).notices[0].startswith("12 files that are no clips were passed over: s-000.tar")


@pytest.mark.parametrize("cut", [100, 600, 1536, 1600, 2560, 3072])
def test_a_tar_that_is_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    write_tar(tmp_path / "s.tar", [("a.mp4", b"A" * 700), ("a.txt", b"x"), ("b.mp4", b"B")], kind=tarfile.USTAR_FORMAT)
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"s\.tar: it is no whole tar: "):
        read_source(tmp_path / "s.tar")


def test_tars_that_are_damaged_or_strange(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.mp4", b"A"), ("b.mp4", b"B")], kind=tarfile.USTAR_FORMAT)
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] + b"?" * 512 + whole[1536:])
    with pytest.raises(ValueError, match=r"s\.tar: it is no whole tar: it is cut short or damaged after byte 1024"):
        read_source(path)
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match=r"s\.tar: it is no whole tar: "):
        read_source(path)
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"s\.tar: its member 'a\.mp4' is no plain file"):
        read_source(path)


@pytest.mark.parametrize("size", [2**80, -512, -1024])
def test_a_tar_that_lies_about_a_size_is_named(tmp_path: Path, size: int) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.mp4", b"A")], kind=tarfile.USTAR_FORMAT)
    content = bytearray(path.read_bytes())
    content[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + sum(content[156:512]) + 8 * ord(" "))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"s\.tar: it is no whole tar: "):
        read_source(path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.mp4", b"1"), ("a.mp4", b"2")], "it has two members 'a.mp4'"),
        ([("a.mp4", b"1"), ("a.webm", b"2")], "key 'a': it has several clips, mp4 and webm"),
        ([("a.mp4", b"1"), ("a.json", b"{")], "key 'a', json: it is not JSON"),
        ([("a.mp4", b"1"), ("a.json", b"[]")], "key 'a', json: it must be an object"),
        ([("a.mp4", b"1"), ("a.json", b'{"caption": ["x"]}')], r"key 'a', json: the caption is \['x'\]"),
        ([("a.mp4", b"1"), ("a.txt", b"\xff")], "key 'a', txt: it is not UTF-8"),
        ([("a.txt", b"1")], "there is no video or image in"),
    ],
)
def test_errors_in_shards_name_the_key(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(ValueError, match=rf"s\.tar.*{message}|{message}.*s\.tar"):
        read_source(write_tar(tmp_path / "s.tar", members))


# ---- Hugging Face ----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The datasets library with a cache of its own."""
    datasets = pytest.importorskip("datasets")
    for name in ("HF_DATASETS_CACHE", "HF_CACHE_HOME"):
        monkeypatch.setattr(datasets.config, name, tmp_path / "hf-cache")
    datasets.disable_progress_bars()
    return datasets


def rows(datasets: Any, column: str = "video", **more: list[Any]) -> Any:
    kind = datasets.Video(decode=False) if column == "video" else datasets.Image(decode=False)
    clips = [{"bytes": b"first", "path": "x/../../1.mp4"}, {"bytes": b"second", "path": None}]
    columns = {column: clips, "caption": [" a ball ", ""], **more}
    table = datasets.Dataset.from_dict({column: columns[column]}, features=datasets.Features({column: kind}))
    for name, values in columns.items():
        if name != column:
            table = table.add_column(name, values)
    return table


@pytest.mark.parametrize("column", ["video", "image"])
def test_a_saved_dataset_is_a_source(tmp_path: Path, hub: Any, column: str) -> None:
    table = rows(hub, column, start=[0.5, None], end=[2.0, None], fps=[None, 12.0], mood=["calm", "wild"])
    table.save_to_disk(tmp_path / "saved")
    source = read_source(f"hf:{tmp_path / 'saved'}")
    assert [(clip.name, clip.caption, clip.start, clip.end, clip.fps) for clip in source] == [
        ("000000", "a ball", 0.5, 2, None),
        ("000001", None, 0, None, 12),
    ]
    assert source.notices == ("columns that were not used: mood",)
    assert content(source, "000001") == b"second"
    stored = [path for path in (tmp_path / "hf-cache" / "videodit-clips").rglob("*") if path.is_file()]
    assert {path.name for path in stored} == {clip.media.content_hash() for clip in source}
    assert [clip.media for clip in read_source(f"hf:{tmp_path / 'saved'}")] == [clip.media for clip in source]


def test_a_dataset_has_splits(tmp_path: Path, hub: Any) -> None:
    table = rows(hub)
    hub.DatasetDict({"train": table.select([0]), "test": table.select([1])}).save_to_disk(tmp_path / "saved")
    assert content(read_source(f"hf:{tmp_path / 'saved'}"), "000000") == b"first"
    assert content(read_source(f"hf:{tmp_path / 'saved'}", split="test"), "000000") == b"second"
    with pytest.raises(ValueError, match=r"saved, split 'dev': there is no split 'dev'; there are train, test"):
        read_source(f"hf:{tmp_path / 'saved'}", split="dev")


def test_a_folder_of_parquet_is_a_dataset(tmp_path: Path, hub: Any) -> None:
    (tmp_path / "data").mkdir()
    rows(hub).to_parquet(tmp_path / "data" / "train.parquet")
    source = read_source(f"hf:{tmp_path / 'data'}")
    assert captions(source) == {"000000": "a ball", "000001": None}
    assert content(source, "000000") == b"first"


def test_paths_in_a_dataset_stay_in_it(tmp_path: Path, hub: Any) -> None:
    folder = fill(tmp_path / "data", a__mp4="a", sub___b__mp4="b")
    (tmp_path / "secret").write_text("s")
    inside = [str(folder / "a.mp4"), "sub/b.mp4"]
    hub.Dataset.from_dict({"video": inside, "text": ["x", "y"]}).save_to_disk(folder)
    source = read_source(f"hf:{folder}")
    assert (content(source, "000000"), content(source, "000001")) == (b"a", b"b")
    assert captions(source) == {"000000": "x", "000001": "y"}
    for i, path in enumerate(
        [str(tmp_path / "secret"), "../../secret", "missing.mp4", "http://host/a.mp4", "a\0b", "a" * 5000]
    ):
        other = fill(folder / str(i), a__mp4="a")
        hub.Dataset.from_dict({"video": ["a.mp4", path]}).save_to_disk(other)
        with pytest.raises(ValueError, match=r"row 1: its clip '.*' is not among the dataset's files"):
            read_source(f"hf:{other}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"caption": ["x"]}, "it has no column 'video' or 'image'; it has caption"),
        ({"video": ["a"], "image": ["b"]}, "it has both columns 'video' and 'image'; leave one"),
        ({"video": [3]}, "its column 'video' holds no videos"),
        ({"video": [None]}, "its column 'video' holds no videos|row 0: it has no clip"),
    ],
)
def test_datasets_that_are_no_source(tmp_path: Path, hub: Any, columns: dict[str, Any], message: str) -> None:
    hub.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=rf"hf:.*saved, split 'train'.*({message})"):
        read_source(f"hf:{tmp_path / 'saved'}")


def test_a_dataset_that_is_not_there_is_told(tmp_path: Path, hub: Any) -> None:
    with pytest.raises(ValueError, match=r"cannot load hf:.*missing, split 'train': "):
        read_source(f"hf:{tmp_path}/missing")


def test_the_datasets_library_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r'hf:owner/name needs the datasets library: pip install "videodit\[data\]"'):
        read_source("hf:owner/name")

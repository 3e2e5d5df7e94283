"""Frames of a video by PyAV, found by their time stamps, and what its file says about them.

:mod:`videodit.reading.clip` is the way in.
"""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, cast

import av
import av.filter
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from videodit.json_types import JsonObject
from videodit.limits import current_limits
from videodit.reading.files import Media, Unreadable, open_container
from videodit.reading.timing import settle_times

if TYPE_CHECKING:
    from av.sidedata.sidedata import SideData

COMMENT_FORMAT = "videodit/1"
_MAX_COMMENT = 2**20  # characters; none that is written here is longer
UNSPECIFIED_MATRIX = 2
# swscale's plain bicubic takes every second chroma sample as it is: on smooth colour that costs 17 dB.
# With these flags it interpolates chroma at full width, in both directions.
SMOOTH_CHROMA = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT
)

# One packet of these is one frame, so the packets' time stamps are the frames'. With others (VP8's hidden frames,
# packed B-frames of MPEG-4) only decoding tells.
_PACKET_IS_FRAME = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mjpeg", "prores", "ffv1"})
_MAX_PIXEL_ASPECT = 4.0  # anamorphic pictures and old broadcasts stay below 2.2
# Of more frames that a keyframe lets it pass over, decoding seeks; a seek throws away what the decoder holds.
_FRAMES_WORTH_A_SEEK = 8
_FRAMES_TO_TRUST = 32  # whose time stamps rise, for a stream that may be in coding order
# Transfer functions of ITU-T H.273 that need tone mapping to become 8 bits that look right.
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class VideoInfo:
    """What a clip's file holds.

    Attributes:
        width, height: of the picture in pixels as it is meant to be seen: cropped and upright.
        num_frames: how many frames there are.
        fps: frames per second on average; 0 for an image.
        duration: from the first frame to the end of the last, in seconds; 0 for an image.
        codec: FFmpeg's name of the decoder, or Pillow's of an image format.
        pix_fmt: FFmpeg's name of the pixel format, or Pillow's mode.
        rotation: by how many degrees clockwise the stored picture is turned to be upright: 0, 90, 180 or 270. One that
            is to be mirrored, too, is mirrored from left to right after that.
        has_audio: whether there is an audio stream.
        is_image: whether it is an image, which is a clip of one frame.
        pixel_aspect: how wide a stored pixel is, upright, for its height: 1 where it is square.
        interlaced: whether the first frame is of two fields. Of such frames the first field is shown at full height.
    """

    width: int
    height: int
    num_frames: int
    fps: float
    duration: float
    codec: str
    pix_fmt: str
    rotation: int
    has_audio: bool
    is_image: bool
    pixel_aspect: float = 1.0
    interlaced: bool = False


class Frames:
    """Where a reader's frames come from.

    Attributes:
        saw_fields: whether a frame so far was of two fields; the first one need not be, where later ones are.
    """

    saw_fields = False

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """RGB frames ``[H, W, 3]`` of rising numbers."""
        raise NotImplementedError


class Turn(NamedTuple):
    """How a stored picture becomes upright: transposed first, then mirrored."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def is_mirrored(self) -> bool:
        return (self.transpose + self.flip_x + self.flip_y) % 2 == 1

    @property
    def degrees(self) -> int:
        """Clockwise; a mirrored picture is mirrored from left to right after that."""
        flip_x = self.flip_x != self.is_mirrored
        if self.transpose:
            return 90 if flip_x else 270
        return 180 if flip_x else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """``image`` [H, W, 3], turned."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])

    @staticmethod
    def of(frame: av.VideoFrame) -> Turn:
        """What a frame's display matrix asks for: a stored pixel (x, y) belongs at (ax + cy, bx + dy)."""
        entries = cast("Iterable[SideData]", frame.side_data)
        data = next((entry for entry in entries if entry.type.name == "DISPLAYMATRIX"), None)
        if data is None:
            return Turn()
        a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].tolist()
        if b == c == 0 and a and d:
            return Turn(False, a < 0, d < 0)
        if a == d == 0 and b and c:
            return Turn(True, c < 0, b < 0)
        raise Unreadable("its picture is to be turned by an angle that is no quarter turn; turn it and encode it anew")


def open_stream(media: Media, threads: int = 1) -> tuple[InputContainer, VideoStream]:
    """The clip's container, and the video stream of it that players show.

    Raises:
        Unreadable: it cannot be opened, or has no video; see :func:`videodit.reading.files.open_container`.
        InputError: its picture has more pixels than the limit ``clip_pixels``.
    """
    container = open_container(media)
    try:
        stream = container.streams.best("video")
        if stream is None:
            raise Unreadable("it has no video stream")
        stream = cast(VideoStream, stream)
        if stream.disposition & Disposition.attached_pic:
            raise Unreadable("it has no video stream, only the picture of a cover")
        context = stream.codec_context
        if context is None:
            raise Unreadable("there is no decoder for its codec")
        limits = current_limits()
        limits.check("clip_pixels", context.width * context.height, f"its picture is {context.width}x{context.height}")
        context.options = {"max_pixels": str(max(limits.clip_pixels, 2**16))}  # a picture may grow in mid-stream
        context.thread_count = threads
        if threads != 1:
            context.thread_type = "AUTO"
    except BaseException:
        container.close()
        raise
    return container, stream


def matrix_of(frame: av.VideoFrame) -> int:
    """The matrix of a frame's colours; without a tag BT.709 from 720 lines on and BT.601 below, as players do."""
    if frame.colorspace != UNSPECIFIED_MATRIX:
        return frame.colorspace
    return Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601


def unpack_comment(container: InputContainer) -> tuple[JsonObject | None, tuple[int, int] | None]:
    """The recipe and the picture's ``(width, height)``; None for what the file does not say."""
    tags = {key.lower(): value for key, value in container.metadata.items()}  # Matroska: COMMENT
    comment = tags.get("comment", "")
    if len(comment) > _MAX_COMMENT:
        return None, None
    try:
        content = json.loads(comment)
    except (ValueError, RecursionError):  # someone else's comment
        return None, None
    if not isinstance(content, dict) or content.get("format") != COMMENT_FORMAT:
        return None, None
    recipe, width, height = (content.get(key) for key in ("recipe", "width", "height"))
    size = (width, height) if isinstance(width, int) and isinstance(height, int) else None
    return (recipe if isinstance(recipe, dict) else None), size


def shown_size(coded: tuple[int, int], size: tuple[int, int] | None) -> tuple[int, int]:
    """``(width, height)`` without padding. A recorded size that padding cannot explain was not meant for
    this stream (someone scaled the clip and kept the tag), so the stream's own size holds."""
    if size is not None and coded == (size[0] + size[0] % 2, size[1] + size[1] % 2):
        return size
    return coded


class _Packet(NamedTuple):
    pts: int
    dts: int
    is_key: bool
    is_hidden: bool
    duration: int


class PyavFrames(Frames):
    """Frames of an open file, found by their time stamps.

    Attributes:
        pts: what tells the frames apart, rising: their time stamps in the stream's own unit, or their numbers where
            the packets do not tell the time stamps.
        times: the same in seconds from the first one, float64 ``[N]``.
        info: what the file holds.
        turn: how its pictures become upright.
        matrix_is_told: whether it names the matrix of its colours.
        notices: what a user should know of it.

    Raises:
        Unreadable: the file has no frames that are read here, with the reason.
    """

    def __init__(self, media: Media, *, whole: bool = False, threads: int = 1, smooth_chroma: bool = False) -> None:
        self._media, self._threads, self._whole = media, threads, whole
        self._interpolation = SMOOTH_CHROMA if smooth_chroma else Interpolation.BICUBIC
        self.notices: list[str] = []
        self._container, self._stream = open_stream(media, threads)
        self._decoder = self._decoded_of(None, iter(()))
        self._decoded: int | None = None  # of the frame that came out last, as in `pts`
        self.coded_size = (0, 0)
        self._field: tuple[object, av.filter.Graph] | None = None
        try:
            self._check_header()
            self._index()
        except BaseException:
            self.close()
            raise

    def _check_header(self) -> None:
        """What the header tells, before anything is decoded."""
        metadata = {key.lower(): value for key, value in self._stream.metadata.items()}
        if metadata.get("alpha_mode", "0") not in ("", "0"):  # the decoders of VP8 and VP9 drop that plane
            raise Unreadable("it is transparent in places (alpha_mode); lay it over a background first")
        if (transfer := self._stream.codec_context.color_trc) in _HDR:
            raise Unreadable(f"its colours are HDR ({_HDR[int(transfer)]}); map its tones to SDR first")
        shown = [one for one in self._container.streams.video if not one.disposition & Disposition.attached_pic]
        if len(shown) > 1:
            place = 1 + [one.index for one in shown].index(self._stream.index)
            self.notices.append(f"it has {len(shown)} video streams, of which number {place} is read")

    def _check_length(self, frames: int, seconds: float, more: str = "") -> None:
        """Checks what was counted, not what the header says: that may be wrong, and counts sound."""
        limits, more = current_limits(), more and f" {more}"
        limits.check("clip_frames", frames, f"it has {frames:,} frames{more}")
        limits.check("clip_seconds", seconds, f"it lasts {seconds:,.0f} s{more}")

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()
        self._container.close()

    def _index(self) -> None:
        self._reformatter = VideoReformatter()
        self._packets = self._index_packets()
        # Position in the order of decoding by time stamp; empty where packets do not tell the frames.
        self._positions = {packet.pts: i for i, packet in enumerate(self._packets)}
        if self._packets:
            self.pts = sorted(p.pts for p in self._packets if not p.is_hidden)
            last = self._packets[self._positions[self.pts[-1]]].duration
            times = (np.array(self.pts, np.float64) - self.pts[0]) * float(self._stream.time_base or 0)
        else:
            times, last = self._index_frames()
            self.pts = list(range(len(times)))
        first = self._first_frame()
        self.matrix_is_told = first.colorspace != UNSPECIFIED_MATRIX
        self.turn = Turn.of(first)
        self.times = times
        self.info = self._describe(first, last)
        if self._whole:
            self._check_length(len(times), self.info.duration)

    def _index_packets(self) -> list[_Packet]:
        """All packets in the order of decoding; none where they do not tell the frames' times."""
        if self._stream.codec_context.name not in _PACKET_IS_FRAME:
            return []
        packets: list[_Packet] = []
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue
            if packet.pts is None:
                return []
            # Matroska does not store when a packet is decoded, and seeks by when it is shown.
            dts = packet.pts if packet.dts is None else packet.dts
            packets.append(_Packet(packet.pts, dts, packet.is_keyframe, packet.is_discard, packet.duration or 0))
            if self._whole:
                self._check_length(len(packets), 0, "or more")
        first_key = next((i for i, packet in enumerate(packets) if packet.is_key), None)
        if first_key is None or len({packet.pts for packet in packets}) != len(packets):
            return []
        may_be_wrong = _may_be_in_coding_order(packets, self.container_name)
        if self._stream.codec_context.has_b_frames and may_be_wrong and not self._first_ones_rise():
            return []
        # What comes before the first keyframe, decoded or shown, refers to frames that the file lacks.
        from_key = packets[first_key:]
        kept = [p for p in from_key if p.pts >= from_key[0].pts]
        return kept if any(not packet.is_hidden for packet in kept) else []

    def _first_ones_rise(self) -> bool:
        """Whether the time stamps of the first frames rise as they come out of the decoder."""
        self._container.close()
        self._container, self._stream = open_stream(self._media, self._threads)
        frames = itertools.islice(self._container.decode(self._stream), _FRAMES_TO_TRUST)
        stamps = [frame.pts for frame in frames]
        self._stream.codec_context.flush_buffers()
        return None not in stamps and all(a < b for a, b in itertools.pairwise(stamps))  # type: ignore[operator]

    @property
    def container_name(self) -> str:
        """FFmpeg's name of the container, or names."""
        return self._container.format.name

    @property
    def is_padded(self) -> bool:
        """Whether more is stored than is shown."""
        return self.coded_size != self._size[::-1]

    @property
    def has_closed_groups(self) -> bool:
        """Whether no frame that comes after a keyframe is shown before it: then none needs what precedes it."""
        key = None
        for packet in self._packets:
            key = packet if packet.is_key else key
            if key is not None and packet.pts < key.pts:
                return False
        return bool(self._packets)

    def _index_frames(self) -> tuple[np.ndarray, int]:
        """The frames' times in seconds by decoding them all, and how long the last one lasts."""
        self._rewind()
        pts: list[int | None] = []
        dts: list[int | None] = []
        last = 0
        for frame in self._decoder:
            self.coded_size = self.coded_size if pts else (frame.width, frame.height)
            self._check_size(frame)
            pts.append(frame.pts)
            dts.append(frame.dts)
            last = frame.duration or 0
            if self._whole:
                first, now = pts[0], frame.pts
                seconds = 0.0 if first is None or now is None else float((now - first) * (self._stream.time_base or 0))
                self._check_length(len(pts), seconds, "or more")
        if not pts:
            raise Unreadable("it holds no frame that decodes")
        base = self._stream.time_base or 0
        times, notice = settle_times(pts, dts, base, self._rate)  # type: ignore[arg-type]
        if notice is not None:
            self.notices.append(notice)
            last = 0
        self._rewind()
        return times, last

    @property
    def _rate(self) -> Fraction | None:
        return self._stream.average_rate or self._stream.guessed_rate

    def _first_frame(self) -> av.VideoFrame:
        frame = next(self._decode([self.pts[0]]))
        self._rewind()
        return frame

    def _describe(self, first: av.VideoFrame, last: int) -> VideoInfo:
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / _MAX_PIXEL_ASPECT < aspect < _MAX_PIXEL_ASPECT:
            raise Unreadable(f"its pixels are {aspect:.3g} times as wide as high; it must be 0.25 to 4")
        if any(component.is_alpha for component in first.format.components):
            raise Unreadable(f"it is transparent in places ({first.format.name}); lay it over a background first")
        if first.format.has_palette and first.reformat(format="rgba").to_ndarray()[..., 3].min() < 255:
            raise Unreadable("it is transparent in places (pal8); lay it over a background first")
        if first.color_trc in _HDR:
            raise Unreadable(f"its colours are HDR ({_HDR[int(first.color_trc)]}); map its tones to SDR first")
        # Of the frame: a decoder's own size changes where a stream does.
        self.coded_size = (first.width, first.height)
        width, height = shown_size(self.coded_size, unpack_comment(self._container)[1])
        self._size = (height, width)
        if self.turn.transpose:
            width, height = height, width
        times, base = self.times, float(self._stream.time_base or 0)
        gap = times[-1] / (len(times) - 1) if len(times) > 1 else (1 / float(self._rate) if self._rate else 1.0)
        # AVI says how long frames last on average, which is less where it counts time finer than its frames come.
        duration = float(times[-1] + (gap if self.container_name == "avi" else last * base or gap))
        return VideoInfo(
            width=width,
            height=height,
            num_frames=len(times),
            fps=float(len(times) / duration),
            duration=duration,
            codec=self._stream.codec_context.name,
            pix_fmt=first.format.name,
            rotation=self.turn.degrees,
            has_audio=bool(self._container.streams.audio),
            is_image=False,
            pixel_aspect=1 / aspect if self.turn.transpose else aspect,
            interlaced=first.interlaced_frame,
        )

    def _check_size(self, frame: av.VideoFrame) -> None:
        """Raises Unreadable for a frame of another size than the first: a stream may change in its middle."""
        if (frame.width, frame.height) != self.coded_size:
            width, height = self.coded_size
            raise Unreadable(f"a frame is {frame.width}x{frame.height} pixels, where the clip is {width}x{height}")

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        height, width = self._size
        for frame in self._decode([self.pts[i] for i in indices]):
            self._check_size(frame)
            self.saw_fields |= bool(frame.interlaced_frame)
            rgb = self._reformatter.reformat(
                self._one_field(frame) if frame.interlaced_frame else frame,
                width=frame.width,
                height=frame.height,
                format="rgb24",
                src_colorspace=matrix_of(frame),
                interpolation=self._interpolation,
                threads=1,
            )
            yield self.turn.apply(rgb.to_ndarray()[:height, :width])

    def _one_field(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The upper field of an interlaced frame, of half its height. Both would show two moments as a comb."""
        form = (frame.format.name, frame.width, frame.height)
        if self._field is None or self._field[0] != form:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=self._stream.time_base
            )
            field, sink = graph.add("field", "type=top"), graph.add("buffersink")
            source.link_to(field)
            field.link_to(sink)
            graph.configure()
            self._field = form, graph
        self._field[1].push(frame)
        return cast(av.VideoFrame, self._field[1].pull())

    def _decode(self, wanted: list[int]) -> Iterator[av.VideoFrame]:
        """Frames of rising time stamps or numbers, from the one decoder or, after a seek, from the keyframe before."""
        for pts in wanted:
            if self._must_seek(pts):
                self._seek(pts)
            for frame in self._decoder:
                self._decoded = frame.pts if self._packets else (-1 if self._decoded is None else self._decoded) + 1
                if self._decoded is not None and self._decoded >= pts:
                    break
            else:
                frame = None
            if frame is None or self._decoded != pts:
                at = self.times[bisect.bisect_left(self.pts, pts)]
                raise Unreadable(f"the frame at {at:.3f} s does not decode")
            yield frame

    def _must_seek(self, pts: int) -> bool:
        if self._decoded is None or self._decoded >= pts:
            return True
        key = self._key_before(pts)
        if key is None:
            return False
        passed_over = bisect.bisect_left(self.pts, self._packets[key].pts) - bisect.bisect_right(
            self.pts, self._decoded
        )
        return passed_over > _FRAMES_WORTH_A_SEEK

    def _key_before(self, pts: int) -> int | None:
        """The keyframe from which a frame decodes: before it in the order of decoding and of showing.

        Frames that come after a keyframe but are shown before it may refer to what precedes it.
        """
        if not self._packets:
            return None
        position = self._positions[pts]
        for i in range(position, -1, -1):
            if self._packets[i].is_key and self._packets[i].pts <= pts:
                return i
        return None

    def _seek(self, pts: int) -> None:
        """Put the decoder in front of the keyframe that ``pts`` needs."""
        key = self._key_before(pts)
        while key:
            self._container.seek(self._packets[key].dts, stream=self._stream)
            packets = self._container.demux(self._stream)
            first = next(packets, None)
            landed = None if first is None or first.pts is None else self._positions.get(first.pts)
            if landed is not None and landed <= key:
                self._decoder = self._decoded_of(first, packets)
                self._decoded = None
                return
            key = next((i for i in range(key - 1, 0, -1) if self._packets[i].is_key), None)
        self._rewind()

    def _rewind(self) -> None:
        if self._packets:
            self._container.seek(self._packets[0].dts, stream=self._stream)
        else:  # a seek to the start of an MPEG stream may end behind its first keyframe
            self._container.close()
            self._container, self._stream = open_stream(self._media, self._threads)
        self._decoder = self._decoded_of(None, self._container.demux(self._stream))
        self._decoded = None

    def _decoded_of(
        self, first: av.Packet[VideoStream] | None, packets: Iterator[av.Packet[VideoStream]]
    ) -> Generator[av.VideoFrame, None, None]:
        if first is not None:
            yield from first.decode()
        for packet in packets:
            yield from packet.decode()


def _may_be_in_coding_order(packets: list[_Packet], container: str) -> bool:
    """Whether frames seem to be shown as they are decoded, which is wrong for a stream that reorders them.

    MP4 stores both times. Where all frames wait for being shown, whoever wrote it knew of the reordering.
    """
    if any(a.pts >= b.pts for a, b in itertools.pairwise(packets)):
        return False
    return "mp4" not in container.split(",") or packets[0].pts <= packets[0].dts

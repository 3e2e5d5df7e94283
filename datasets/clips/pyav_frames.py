"""Frames of a video by PyAV, found by their time stamps, and what its file says about them.

:mod:`videodit.datasets.clips.readers` is the way in.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from videodit.datasets.clips.records import Media
from videodit.files import is_cut_short
from videodit.media import UNSPECIFIED_MATRIX, matrix_of, shown_size, unpack_comment

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,nut,ivf"
"""FFmpeg's names of the containers that may be opened. Those that lead to other files (hls, concat, dash) are not."""

# One packet of these is one frame, so the packets' time stamps are the frames'. With others (VP8's hidden frames,
# packed B-frames of MPEG-4) only decoding tells.
_PACKET_IS_FRAME = frozenset({"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mjpeg", "prores", "ffv1"})
_MAX_PIXEL_ASPECT = 4.0  # anamorphic pictures and old broadcasts stay below 2.2
# Of more frames that a keyframe lets it pass over, decoding seeks; a seek throws away what the decoder holds.
_FRAMES_WORTH_A_SEEK = 8
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


class Frames:
    """Where a reader's frames come from."""

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        """RGB frames ``[H, W, 3]`` of rising numbers."""
        raise NotImplementedError


class Unreadable(Exception):
    """Why a clip cannot be read; becomes a ValueError that names it."""


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
        entries = cast(Iterable[Any], frame.side_data)
        data = next((entry for entry in entries if entry.type.name == "DISPLAYMATRIX"), None)
        if data is None:
            return Turn()
        a, b, _, c, d = np.frombuffer(bytes(data), "<i4")[:5].tolist()
        if b == c == 0 and a and d:
            return Turn(False, a < 0, d < 0)
        if a == d == 0 and b and c:
            return Turn(True, c < 0, b < 0)
        raise Unreadable("its picture is to be turned by an angle that is no quarter turn; turn it and encode it anew")


def _url(media: Media) -> str:
    """The clip such that FFmpeg takes it for a file or a stretch of one, never for an address."""
    path = f"file:{os.fspath(media.path)}"
    if media.size is None:
        return path
    return f"subfile,,start,{media.offset},end,{media.offset + media.size},,:{path}"


def _opened(media: Media) -> tuple[InputContainer, VideoStream]:
    options = {"protocol_whitelist": "file,subfile", "format_whitelist": CONTAINERS}
    try:
        container = av.open(_url(media), options=options, metadata_errors="replace")
    except (av.InvalidDataError, av.ArgumentError) as error:
        raise Unreadable("it is neither a video nor an image of a kind that is read here") from error
    try:
        stream = container.streams.best("video")
        if stream is None:
            raise Unreadable("it has no video stream")
        stream = cast(VideoStream, stream)
        if stream.codec_context is None:
            raise Unreadable("there is no decoder for its codec")
        stream.codec_context.thread_count = 1
    except BaseException:
        container.close()
        raise
    return container, stream


class _Packet(NamedTuple):
    pts: int
    dts: int
    is_key: bool
    is_hidden: bool
    duration: int


class PyavFrames(Frames):
    """Frames of an open file, found by their time stamps.

    Attributes:
        pts: the frames' time stamps in the stream's own unit, rising.
        times: the same in seconds from the first one, float64 ``[N]``.
        info: what the file holds.
        turn: how its pictures become upright.
        matrix_is_told: whether it names the matrix of its colours.

    Raises:
        Unreadable: the file has no frames that are read here, with the reason.
    """

    def __init__(self, media: Media) -> None:
        if not media.num_bytes:
            raise Unreadable("it is empty")
        with media.open() as file:
            if is_cut_short(file, media.num_bytes):
                raise Unreadable("the file is cut short")
        self._media = media
        self._container, self._stream = _opened(media)
        self._decoder = self._decoded_of(None, iter(()))
        self._decoded: int | None = None  # pts of the frame that came out last
        try:
            self._index()
        except BaseException:
            self.close()
            raise

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
            shown = sorted(p.pts for p in self._packets if not p.is_hidden)
            last = self._packets[self._positions[shown[-1]]].duration
        else:
            shown, last = self._index_frames()
        self.pts: list[int] = shown
        first = self._first_frame()
        self.matrix_is_told = first.colorspace != UNSPECIFIED_MATRIX
        self.turn = Turn.of(first)
        self.info, self.times = self._describe(first, last)

    def _index_packets(self) -> list[_Packet]:
        """All packets in the order of decoding; none where they do not tell the frames' times."""
        if self._stream.codec_context.name not in _PACKET_IS_FRAME:
            return []
        packets = []
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue
            if packet.pts is None:
                return []
            # Matroska does not store when a packet is decoded, and seeks by when it is shown.
            dts = packet.pts if packet.dts is None else packet.dts
            packets.append(_Packet(packet.pts, dts, packet.is_keyframe, packet.is_discard, packet.duration or 0))
        first_key = next((i for i, packet in enumerate(packets) if packet.is_key), None)
        if first_key is None or len({packet.pts for packet in packets}) != len(packets):
            return []
        # What comes before the first keyframe, decoded or shown, refers to frames that the file lacks.
        from_key = packets[first_key:]
        kept = [p for p in from_key if p.pts >= from_key[0].pts]
        return kept if any(not packet.is_hidden for packet in kept) else []

    @property
    def container_name(self) -> str:
        """FFmpeg's name of the container, or names."""
        return self._container.format.name

    @property
    def coded_size(self) -> tuple[int, int]:
        """``(width, height)`` as it is stored."""
        return self._stream.codec_context.width, self._stream.codec_context.height

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

    def _index_frames(self) -> tuple[list[int], int]:
        """The frames' time stamps by decoding them all, and how long the last one lasts."""
        self._rewind()
        shown: list[int] = []
        last = 0
        for frame in self._decoder:
            if frame.pts is None:
                raise Unreadable("its frames have no time stamps")
            shown.append(frame.pts)
            last = frame.duration or 0
        if not shown:
            raise Unreadable("it holds no frame that decodes")
        if any(b <= a for a, b in itertools.pairwise(shown)):
            raise Unreadable("the time stamps of its frames do not rise")
        self._rewind()
        return shown, last

    def _first_frame(self) -> av.VideoFrame:
        frame = next(self._decode([self.pts[0]]))
        self._rewind()
        return frame

    def _describe(self, first: av.VideoFrame, last: int) -> tuple[VideoInfo, np.ndarray]:
        aspect = float(self._stream.sample_aspect_ratio or 1)
        if not 1 / _MAX_PIXEL_ASPECT < aspect < _MAX_PIXEL_ASPECT:
            raise Unreadable(f"its pixels are {aspect:.3g} times as wide as high; it must be 0.25 to 4")
        if any(component.is_alpha for component in first.format.components):
            raise Unreadable(f"it is transparent in places ({first.format.name}); lay it over a background first")
        if first.color_trc in _HDR:
            raise Unreadable(f"its colours are HDR ({_HDR[int(first.color_trc)]}); map its tones to SDR first")
        width, height = shown_size(self._stream, unpack_comment(self._container)[1])
        self._size = (height, width)
        if self.turn.transpose:
            width, height = height, width
        base = float(self._stream.time_base or 0)
        times = (np.array(self.pts, np.float64) - self.pts[0]) * base
        rate = self._stream.average_rate or self._stream.guessed_rate
        gap = times[-1] / (len(times) - 1) if len(times) > 1 else (1 / float(rate) if rate else 1.0)
        duration = float(times[-1]) + (last * base or gap)
        info = VideoInfo(
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
        )
        return info, times

    def frames(self, indices: list[int]) -> Iterator[np.ndarray]:
        for frame in self._decode([self.pts[i] for i in indices]):
            rgb = self._reformatter.reformat(
                frame,
                format="rgb24",
                src_colorspace=matrix_of(frame),
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
            height, width = self._size
            yield self.turn.apply(rgb.to_ndarray()[:height, :width])

    def _decode(self, wanted: list[int]) -> Iterator[av.VideoFrame]:
        """Frames of rising time stamps, from the one decoder or, after a seek, from the keyframe before."""
        for pts in wanted:
            if self._must_seek(pts):
                self._seek(pts)
            for frame in self._decoder:
                self._decoded = frame.pts
                if frame.pts is not None and frame.pts >= pts:
                    break
            else:
                frame = None
            if frame is None or frame.pts != pts:
                at = (pts - self.pts[0]) * float(self._stream.time_base or 0)
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
            self._container, self._stream = _opened(self._media)
        self._decoder = self._decoded_of(None, self._container.demux(self._stream))
        self._decoded = None

    def _decoded_of(self, first: Any, packets: Iterator[Any]) -> Generator[av.VideoFrame, None, None]:
        if first is not None:
            yield from first.decode()
        for packet in packets:
            yield from packet.decode()

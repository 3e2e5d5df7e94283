"""From scenes to pixels, in batched torch on any device.

Ground and sky are drawn once for a scene whose camera stands still, else once a frame. Everything that moves is
drawn only where it can be: each object's bounding box and each shadow is projected to a rectangle of pixels, and
all rectangles of a batch are worked on as one flat list. Objects are painted from far to near with four samples
a pixel.

Letters: ``B`` scenes, ``N`` objects of a scene, ``O`` objects of all scenes, ``T`` frames, ``H W`` pixels,
``I`` pictures of objects (object * T + frame), ``P`` pixels in a flat list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from videodit.datasets.toybox import camera as cam
from videodit.datasets.toybox import solids
from videodit.datasets.toybox.appearance import background
from videodit.datasets.toybox.layout import Objects
from videodit.datasets.toybox.motion import EXTENT
from videodit.datasets.toybox.scene import SHAPES, Scene
from videodit.errors import InputError

_CHUNK_PIXELS = {"cpu": 600_000, "cuda": 30_000_000}
"""Pixels drawn at a time, which bounds memory; on a CPU the lists of a chunk also stay in the cache."""
_SHADOW = 0.85
"""Share of the direct light that a shadow takes."""


@dataclass
class Rendering:
    """Clips, and what is in them when that was asked for.

    Attributes:
        video: uint8 [B,3,T,H,W].
        mask: uint8 [B,T,H,W], 0 for the background, else 1 + the index of the nearest object that covers half
            of the pixel or more.
        depth: float32 [B,T,H,W], distance along the camera's axis in toybox units; inf in the sky.
        boxes: float32 [B,N,T,4], left, top, right, bottom of what the mask shows, in pixels (a box over the
            first pixel alone is 0, 0, 1, 1); NaN where the object cannot be seen or the scene has fewer.
        tracks: float32 [B,N,T,2], column and row of the object's projected centre, in or out of the frame;
            NaN where the scene has fewer objects or the centre is behind the camera.
        world_to_camera: float32 [B,T,3,4], see `camera.matrices`.
        intrinsics: float32 [B,T,3,3], in pixels, the same.
    """

    video: torch.Tensor
    mask: torch.Tensor | None = None
    depth: torch.Tensor | None = None
    boxes: torch.Tensor | None = None
    tracks: torch.Tensor | None = None
    world_to_camera: torch.Tensor | None = None
    intrinsics: torch.Tensor | None = None


@dataclass
class _Pixels:
    """All pixels of a list of rectangles: which rectangle each belongs to, its column and row, all [P]."""

    instance: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor

    @staticmethod
    def of(rectangles: np.ndarray, device: torch.device) -> _Pixels:
        """List the pixels of rectangles [I,4]."""
        left, top, right, bottom = rectangles.T
        counts = (right - left) * (bottom - top)
        total = int(counts.sum())
        # One gather for four numbers is cheaper than four.
        table = np.stack([np.cumsum(counts) - counts, right - left, left, top]).astype(np.int32)
        instance = torch.repeat_interleave(torch.from_numpy(counts).to(device), output_size=total)
        start, wide, first, row = torch.from_numpy(table).to(device)[:, instance]
        place = torch.arange(total, device=device, dtype=torch.int32) - start
        down = torch.div(place, wide, rounding_mode="floor")
        return _Pixels(instance, first + place - down * wide, row + down)


def render(
    scenes: Sequence[Scene],
    *,
    height: int = 64,
    width: int = 64,
    num_frames: int = 17,
    fps: float = 16,
    device: str | torch.device = "cpu",
    ground_truth: bool = False,
) -> Rendering:
    """Draw clips of scenes.

    Args:
        scenes: What to draw; each clip depends on its own scene alone.
        height: Pixels; at least 16.
        width: Pixels; at least 16.
        num_frames: Frames of each clip; motions are made to stay in view for two seconds.
        fps: Frames a second: frame i shows the scene at i / fps seconds.
        device: Where to draw, and where the result lies.
        ground_truth: Whether to fill in what the clips show, pixel by pixel, besides the video.

    Raises:
        InputError: No scenes, or a size or rate out of range.
    """
    scenes = list(scenes)
    if not scenes:
        raise InputError("scenes is empty")
    if height < 16 or width < 16:
        raise InputError(f"height and width must be at least 16; got {height} and {width}")
    if num_frames < 1:
        raise InputError(f"num_frames must be at least 1; got {num_frames}")
    if not fps > 0:
        raise InputError(f"fps must be above 0; got {fps}")
    device = torch.device(device)
    step = max(1, _CHUNK_PIXELS.get(device.type, 600_000) // (num_frames * height * width))
    slots = max(len(scene.objects) for scene in scenes)
    parts = []
    with torch.no_grad():
        for i in range(0, len(scenes), step):
            painter = _Painter(scenes[i : i + step], height, width, np.arange(num_frames) / fps, device)
            parts.append(painter.paint(slots if ground_truth else None))
    if not ground_truth:
        return Rendering(torch.cat([part.video for part in parts]))
    return Rendering(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Rendering)})


class _Painter:
    """Draws one chunk of scenes."""

    def __init__(self, scenes: list[Scene], height: int, width: int, times: np.ndarray, device: torch.device) -> None:
        self.scenes, self.times, self.device = scenes, times, device
        self.B, self.T, self.H, self.W = len(scenes), len(times), height, width
        self.objects = Objects.of(scenes, times)
        # Of each picture of an object: its clip's frame, its shape, its place in the scene; all [I].
        self.clip = (self.objects.scene[:, None] * self.T + np.arange(self.T)).reshape(-1)
        self.shape = np.repeat(self.objects.shape, self.T)
        self.slot = np.repeat(self.objects.slot, self.T)

    def paint(self, slots: int | None) -> Rendering:
        """Draw, and fill in the ground truth for this many objects a scene unless it is None."""
        plates, shade, index = background(self.scenes, self.times, height=self.H, width=self.W, device=self.device)
        plate = torch.from_numpy(index.reshape(-1)).to(self.device)  # [B*T]
        canvas = plates[:, plate].reshape(3, -1)  # [3, B*T*H*W]
        self._cast_shadows(canvas, shade.view(3, -1), plate)
        mask = depth = None
        if slots is not None:
            mask = torch.zeros(canvas.shape[1], dtype=torch.uint8, device=self.device)
            depth = self._ground_depth()
        self._paint_objects(canvas, mask, depth)
        video = canvas.mul_(255).add_(0.5).clamp_(0, 255.4).byte()
        video = video.view(3, self.B, self.T, self.H, self.W).transpose(0, 1).contiguous()
        if slots is None or mask is None or depth is None:
            return Rendering(video)
        mask = mask.view(self.B, self.T, self.H, self.W)
        views = [cam.matrices(at, height=self.H, width=self.W) for at in self._views()]
        poses, intrinsics = (torch.from_numpy(np.stack(m)).to(self.device) for m in zip(*views, strict=True))
        return Rendering(
            video, mask, depth.view(mask.shape), _boxes(mask, slots), self._tracks(slots), poses, intrinsics
        )

    def _views(self) -> list[cam.View]:
        return [cam.view(scene.camera, self.times) for scene in self.scenes]

    def _ground_depth(self) -> torch.Tensor:
        """Depth [B*T*H*W] of the frames without objects."""
        zoom = np.concatenate([at.zoom for at in self._views()])
        focal = torch.from_numpy((cam.focal_pixels(self.H, self.W) * zoom).astype(np.float32)).to(self.device)
        return cam.ground_depth(focal, height=self.H, width=self.W).reshape(-1)

    def _focal(self) -> np.ndarray:
        """Focal length [O,T] in pixels."""
        return cam.focal_pixels(self.H, self.W) * self.objects.zoom

    def _tracks(self, slots: int) -> torch.Tensor:
        o = self.objects
        x, y, z = np.moveaxis(o.center, -1, 0)
        x, y, depth = cam.project(x, y, z, self._focal(), height=self.H, width=self.W)
        tracks = np.full((self.B, slots, self.T, 2), np.nan, np.float32)
        tracks[o.scene, o.slot] = np.where(depth[..., None] > cam.NEAR, np.stack([x, y], -1), np.nan)
        return torch.from_numpy(tracks).to(self.device)

    def _table(self, *columns: np.ndarray) -> torch.Tensor:
        """Numbers for each picture of an object, float32 [K,I], from columns [O] or [O,T]."""
        shape = self.objects.yaw.shape
        full = [np.broadcast_to(c.reshape(len(c), -1), shape).reshape(-1) for c in columns]
        return torch.from_numpy(np.stack(full).astype(np.float32)).to(self.device)

    def _places(self, pixels: _Pixels, instances: np.ndarray) -> torch.Tensor:
        """Where in the canvas pixels [P] lie whose rectangles belong to these pictures of objects."""
        first = torch.from_numpy(self.clip[instances] * self.H * self.W).to(self.device)
        return first[pixels.instance] + pixels.y * self.W + pixels.x

    def _cast_shadows(self, canvas: torch.Tensor, shade: torch.Tensor, plate: torch.Tensor) -> None:
        """Take light from the canvas [3,B*T*H*W] where objects stand in its way.

        Args:
            canvas: The frames.
            shade: What a full shadow takes from each plate, [3,K*H*W].
            plate: The frames' plates, [B*T].
        """
        o = self.objects
        rectangles = o.shadow_rectangles(height=self.H, width=self.W).reshape(-1, 4)
        table = self._shadow_table()
        light = torch.ones(canvas.shape[1], device=self.device)
        touched = []
        # Slot by slot, since a place must not come twice in one assignment.
        for slot in range(int(o.slot.max()) + 1):
            instances = np.flatnonzero(self.slot == slot)
            pixels = _Pixels.of(rectangles[instances], self.device)
            place = self._places(pixels, instances)
            columns = table[:, torch.from_numpy(instances).to(self.device)][:, pixels.instance]
            light[place] *= 1 - _SHADOW * self._shadow(pixels, columns)
            touched.append(place)
        place = torch.cat(touched)
        # A place may come twice in the list, with the same value.
        frame = self.H * self.W
        source = plate[torch.div(place, frame, rounding_mode="floor")] * frame + place % frame
        canvas[:, place] = canvas[:, place] - shade[:, source] * (1 - light[place])

    def _shadow_table(self) -> torch.Tensor:
        """What `_shadow` needs to know of each object.

        For its shadow an object is an ellipsoid as wide, high and thick as itself, which a change of scale
        turns into the unit ball.
        """
        o = self.objects
        ex, ey, ez = (o.half[:, i, None] for i in range(3))
        lx, ly, lz = o.into_frame(o.light)
        lx, ly, lz = lx / ex, ly / ey, lz / ez
        length = np.sqrt(lx**2 + ly**2 + lz**2)
        outer, _, tube = EXTENT["ring"]
        hole = np.where(o.shape == SHAPES.index("ring"), outer / (outer - 2 * tube), 0)
        cos, sin = np.cos(o.yaw), np.sin(o.yaw)
        place = (o.center[..., 0], o.center[..., 2])
        turn = (cos / ex, sin / ex, sin / ez, cos / ez)
        light = (lx / length, ly / length, lz / length)
        return self._table(*place, *turn, -o.center[..., 1] / ey, *light, o.penumbra(), hole, self._focal())

    def _shadow(self, pixels: _Pixels, columns: torch.Tensor) -> torch.Tensor:
        """How dark the ground is, 0 to 1, from how near to the unit ball's centre the light's ray passes.

        Args:
            pixels: Where, [P].
            columns: The pixels' columns [13,P] of `_shadow_table`.
        """
        cx, cz, cos_x, sin_x, sin_z, cos_z, qy, lx, ly, lz, soft, hole, focal = columns
        dy, dz = cam.row_rays(pixels.y + 0.5, focal, height=self.H)
        steps = -cam.HEIGHT / dy
        x = cam.column_rays(pixels.x + 0.5, focal, width=self.W) * steps - cx
        z = dz * steps - cz
        qx, qz = cos_x * x - sin_x * z, sin_z * x + cos_z * z
        along = qx * lx + qy * ly + qz * lz
        off = (qx * qx + qy * qy + qz * qz - along * along).clamp(min=0).sqrt()
        dark = ((1 + soft - off) / (2 * soft)).clamp(0, 1)
        dark = dark - ((1 + soft - off * hole) / (2 * soft)).clamp(0, 1) * (hole > 0)
        return dark * dark * (3 - 2 * dark)

    def _paint_objects(self, canvas: torch.Tensor, mask: torch.Tensor | None, depth: torch.Tensor | None) -> None:
        """Paint over the canvas [3,B*T*H*W] and, if they are given, over mask and depth [B*T*H*W]."""
        rectangles = self.objects.rectangles(height=self.H, width=self.W).reshape(-1, 4)
        order = torch.from_numpy(self.objects.nearness().reshape(-1)).to(self.device)
        numbers = torch.from_numpy((self.slot + 1).astype(np.uint8)).to(self.device)
        found = []
        for code, shape in enumerate(SHAPES):
            instances = np.flatnonzero(self.shape == code)
            pixels = _Pixels.of(rectangles[instances], self.device)
            if len(pixels.x):
                which = torch.from_numpy(instances).to(self.device)[pixels.instance]
                found.append((self._places(pixels, instances), which, *self._look(shape, which, pixels)))
        if not found:
            return
        place, which = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
        color, cover, far = (torch.cat([f[i] for f in found], -1) for i in (2, 3, 4))
        rank = order[which]
        for r in range(int(self.objects.slot.max()) + 1):
            chosen = ((rank == r) & (cover > 0)).nonzero().squeeze(1)
            at = place[chosen]
            below = canvas[:, at]
            canvas[:, at] = below + (color[:, chosen] - below) * cover[chosen]
            if mask is not None and depth is not None:
                solid = chosen[cover[chosen] >= 0.5]
                mask[place[solid]] = numbers[which[solid]]
                depth[place[solid]] = far[solid]

    def _look(
        self, shape: str, which: torch.Tensor, pixels: _Pixels
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Colour [3,P], cover [P] and depth [P] of pixels of the pictures ``which`` [P] of one shape."""
        o = self.objects
        camera = o.into_frame(np.asarray((0, cam.HEIGHT, 0)) - o.center)
        turn = (np.cos(o.yaw), np.sin(o.yaw))
        columns = self._table(*turn, *camera, *o.into_frame(o.light), o.radius, o.shiny, self._focal())
        cos, sin, ox, oy, oz, lx, ly, lz, radius, shiny, focal = columns[:, which]
        origin = (ox, oy, oz)
        sample = torch.tensor([0.25, 0.75], device=self.device)
        wx = cam.column_rays(pixels.x + sample.view(1, 2, 1), focal, width=self.W)  # [1,2,P]
        wy, wz = cam.row_rays(pixels.y + sample.view(2, 1, 1), focal, height=self.H)  # [2,1,P]
        direction = (cos * wx - sin * wz, wy, sin * wx + cos * wz)
        t = solids.hit(shape, origin, direction, radius)  # [2,2,P]
        hit = (t < solids.MISS) & (t > cam.NEAR)
        t = torch.where(hit, t, 0)
        count = hit.sum((0, 1))
        # A pixel is shaded once, at the middle of its hits.
        scale = 1 / count.clamp(min=1)
        px, py, pz = (a + (t * d).sum((0, 1)) * scale for a, d in zip(origin, direction, strict=True))
        point = (px, py, pz)
        direct, around, shine = solids.shade(solids.normal(shape, point, radius), point, origin, (lx, ly, lz))
        stripe = solids.stripe(shape, point)
        colors = self._color_table()[:, which].view(5, 3, -1)
        own = colors[0] * direct + colors[1] * around
        marked = colors[2] * direct + colors[3] * around
        color = own + (marked - own) * stripe + colors[4] * (shine * shiny)
        return color, count * 0.25, t.sum((0, 1)) * scale

    def _color_table(self) -> torch.Tensor:
        """[15,I]: own colour in direct and in all-round light, the stripes' the same, the highlight's."""
        o = self.objects
        own, stripe = o.albedo[:, 0], o.albedo[:, 1]
        colors = (own * o.key, own * o.fill, stripe * o.key, stripe * o.fill, o.key + 0.3)
        return self._table(*(color[:, i] for color in colors for i in range(3)))


def _boxes(mask: torch.Tensor, slots: int) -> torch.Tensor:
    """Boxes [B,N,T,4] around each number of a mask [B,T,H,W]."""
    own = mask[:, None] == torch.arange(1, slots + 1, device=mask.device).view(-1, 1, 1, 1)  # [B,N,T,H,W]
    sides = []
    for seen in (own.any(-2), own.any(-1)):  # by column, by row
        size = seen.shape[-1]
        place = torch.arange(size, device=mask.device)
        sides.append((torch.where(seen, place, size).amin(-1), torch.where(seen, place + 1, 0).amax(-1)))
    (left, right), (top, bottom) = sides
    boxes = torch.stack([left, top, right, bottom], -1).float()
    return torch.where((right > left)[..., None], boxes, torch.nan)

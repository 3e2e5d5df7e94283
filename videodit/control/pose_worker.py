"""Finds people with mediapipe, run by its path in an environment of mediapipe's own: it imports nothing of videodit.

    python pose_worker.py FRAMES.npy POSES.json

``FRAMES.npy`` holds uint8 RGB ``[T, H, W, 3]``; ``POSES.json`` gets a list a frame: 33 joints as ``[x, y, visibility]``
in shares of the picture, or none. mediapipe 0.10.21 has the weights in its wheel.
"""

from __future__ import annotations

import json
import sys


def main(source: str, target: str) -> None:
    import mediapipe
    import numpy as np

    frames = np.load(source, allow_pickle=False)
    found = []
    with mediapipe.solutions.pose.Pose(model_complexity=1) as pose:
        for frame in frames:
            landmarks = pose.process(frame).pose_landmarks
            joints = [] if landmarks is None else [[one.x, one.y, one.visibility] for one in landmarks.landmark]
            found.append(joints)
    with open(target, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:3])

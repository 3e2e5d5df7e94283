"""The one way in for clips and pictures: every command, condition and data tool reads media here.

Files are untrusted: regular files of a few formats are opened, and nothing that they point to; what they may ask for is
bounded by :class:`videodit.limits.Limits`. Frames come out upright, of square pixels, deinterlaced, as uint8 RGB; HDR
and transparency are refused.
"""

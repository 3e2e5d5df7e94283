"""Data for videodit: the procedural world ``toybox``."""

if __name__ == "datasets":
    raise ImportError(
        "videodit's own `datasets/` folder was imported as `datasets`, where Hugging Face's package was meant: "
        "the repository's root is on sys.path. Run from another folder, or use `videodit.datasets`."
    )

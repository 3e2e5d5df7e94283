"""What `conditions.py` measures: each thing that a model can do with what is given of a clip."""

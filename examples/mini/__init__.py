"""The recipe of the bundled model `mini`, a module a stage; `train_mini.py` beside this folder is its entry point."""
